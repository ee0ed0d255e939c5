"""The simulator's files and batches, over HTTP as any client sees them."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import httpx
import pytest

from langchain_batch_embed.simulator import BatchApi, Simulator

MODEL = "text-embedding-3-small"

Configure = Callable[..., None]
Post = Callable[..., httpx.Response]


def line(number: int, *texts: str, **changes: Any) -> dict[str, Any]:
    """Return a line of a batch."""
    return {
        "custom_id": f"line-{number}",
        "method": "POST",
        "url": "/v1/embeddings",
        "body": {"model": MODEL, "input": list(texts or (f"text {number}",)), "dimensions": 4},
        **changes,
    }


class Account:
    """A client's view of the Batch API."""

    def __init__(self, simulator: Simulator, client: httpx.Client) -> None:
        self._url = simulator.url
        self._client = client

    def get(self, path: str, **query: Any) -> Any:
        """Return the JSON at a path."""
        return self._client.get(f"{self._url}{path}", params=query).raise_for_status().json()

    def upload(self, content: bytes, name: str = "x.jsonl", **data: str) -> httpx.Response:
        """Upload a file."""
        files = {"file": (name, content, "application/jsonl")}
        form = data or {"purpose": "batch"}
        return self._client.post(f"{self._url}/files", files=files, data=form)

    def create(self, file_id: str, **changes: Any) -> httpx.Response:
        """Create a batch."""
        body = {
            "input_file_id": file_id,
            "endpoint": "/v1/embeddings",
            "completion_window": "24h",
            **changes,
        }
        return self._client.post(f"{self._url}/batches", json=body)

    def submit(self, lines: Sequence[Mapping[str, Any] | str], **changes: Any) -> Any:
        """Upload lines, and create their batch."""
        rows = [row if isinstance(row, str) else json.dumps(row) for row in lines]
        file_id = self.upload("\n".join(rows).encode()).json()["id"]
        return self.create(file_id, **changes).json()

    def cancel(self, batch_id: str) -> httpx.Response:
        """Ask for a batch to be cancelled."""
        return self._client.post(f"{self._url}/batches/{batch_id}/cancel")

    def wait(self, batch: Mapping[str, Any], *states: str) -> Any:
        """Return the batch once it has one of these states, by default when it has ended."""
        states = states or ("completed", "failed", "expired", "cancelled")
        end = time.monotonic() + 20
        while True:
            shown = self.get(f"/batches/{batch['id']}")
            if shown["status"] in states:
                return shown
            assert time.monotonic() < end

    def rows(self, file_id: str | None) -> list[Any]:
        """Return the lines of a file."""
        if not file_id:
            return []
        content = self._client.get(f"{self._url}/files/{file_id}/content").raise_for_status()
        return [json.loads(row) for row in content.content.split(b"\n") if row]


@pytest.fixture
def account(simulator: Simulator, client: httpx.Client) -> Account:
    """Return an account without files and batches."""
    return Account(simulator, client)


@pytest.fixture
def api(configure: Configure) -> Configure:
    """Return a function that sets options of the Batch API."""
    return lambda **options: configure(batch_api=BatchApi(**options))


def test_a_batch_answers_each_line(account: Account, api: Configure, simulator: Simulator) -> None:
    """A batch answers each line in any order with its texts' vectors, billed once."""
    api()
    batch = account.submit([line(i, f"a {i}", f"b {i}") for i in range(9)], metadata={"a": "b"})
    assert (batch["status"], batch["metadata"], batch["object"]) == (
        "validating",
        {"a": "b"},
        "batch",
    )
    done = account.wait(batch)
    assert (done["status"], done["error_file_id"]) == ("completed", None)
    assert done["request_counts"] == {"total": 9, "completed": 9, "failed": 0}
    rows = account.rows(done["output_file_id"])
    assert sorted(row["custom_id"] for row in rows) == [f"line-{i}" for i in range(9)]
    assert [row["custom_id"] for row in rows] != [f"line-{i}" for i in range(9)]
    assert {row["response"]["status_code"] for row in rows} == {200}
    assert {len(row["response"]["body"]["data"]) for row in rows} == {2}
    stats = simulator.stats()
    assert (stats["inputs_billed"], stats["batch_inputs_billed"], stats["tokens_billed"]) == (
        18,
        18,
        0,
    )


def test_a_batch_has_states(account: Account, api: Configure) -> None:
    """A batch goes through its states in order, each with its own time."""
    api(validating=0.2, running=0.3, finalizing=0.2)
    batch = account.submit([line(0)])
    for state in ("validating", "in_progress", "finalizing", "completed"):
        shown = account.wait(batch, state)
        assert shown["output_file_id"] is None or state == "completed"
    assert shown["completed_at"] is not None


def test_a_batch_that_expires_keeps_what_it_has(
    account: Account, api: Configure, simulator: Simulator
) -> None:
    """A batch that expires keeps its answers and lists the other lines in the error file."""
    api(fates=("expires",), day=0.3, expired_share=0.5)
    done = account.wait(account.submit([line(i) for i in range(10)]))
    assert done["status"] == "expired"
    assert len(account.rows(done["output_file_id"])) == 5
    errors = account.rows(done["error_file_id"])
    assert [row["error"]["code"] for row in errors] == ["batch_expired"] * 5
    assert {row["response"] for row in errors} == {None}
    assert simulator.stats()["inputs_billed"] == 5


def test_a_batch_may_expire_with_all_its_answers(account: Account, api: Configure) -> None:
    """The fate decides, even if nothing is left to answer when the day is over."""
    api(fates=("expires",), day=0.3, expired_share=1.0)
    done = account.wait(account.submit([line(i) for i in range(10)]))
    assert done["status"] == "expired"
    assert len(account.rows(done["output_file_id"])) == 10


def test_a_batch_that_is_cancelled_keeps_what_it_has(
    account: Account, api: Configure, simulator: Simulator
) -> None:
    """A cancelled batch keeps its answers, after a moment, and an ended one cannot be cancelled."""
    api(running=30.0, cancelling=0.2)
    batch = account.submit([line(i) for i in range(5000)])
    while not account.get(f"/batches/{batch['id']}")["request_counts"]["completed"]:
        pass
    assert account.cancel(batch["id"]).json()["status"] == "cancelling"
    done = account.wait(batch)
    assert done["status"] == "cancelled"
    answered = len(account.rows(done["output_file_id"]))
    assert 0 < answered < 5000
    assert simulator.stats()["inputs_billed"] == answered
    assert account.cancel(batch["id"]).status_code == 409


@pytest.mark.parametrize("empty", ["null", "empty", "file"])
def test_errors_have_a_file_of_their_own(
    account: Account, configure: Configure, empty: Any
) -> None:
    """Lines with errors have a file of their own, and if all fail there is no output."""
    configure(refuse_marker="bad", batch_api=BatchApi(empty_ids=empty))
    done = account.wait(account.submit([line(0, "bad"), line(1, "bad too")]))
    (first, second) = account.rows(done["error_file_id"])
    assert {first["response"]["status_code"], second["response"]["status_code"]} == {400}
    assert "safety system" in first["response"]["body"]["error"]["message"]
    if empty == "file":
        assert account.rows(done["output_file_id"]) == []
    else:
        assert done["output_file_id"] == {"null": None, "empty": ""}[empty]


@pytest.mark.parametrize(
    ("rows", "code", "number"),
    [
        ([line(0), "{"], "invalid_json_line", 2),
        ([line(0), line(0)], "duplicate_custom_id", 2),
        ([line(0, url="/v1/chat/completions")], "url_mismatch", 1),
        (
            [line(0), line(1, body={"model": "text-embedding-3-large", "input": "a"})],
            "mismatched_model",
            None,
        ),
        ([], "empty_file", None),
        ([line(0, *"abc"), line(1, *"abc")], "too_many_tasks", None),
    ],
)
def test_a_file_that_is_wrong_fails_when_it_is_validated(
    account: Account, api: Configure, rows: list[Any], code: str, number: int | None
) -> None:
    """A batch of a wrong file is created, and fails during validation."""
    api(max_inputs=5)
    done = account.wait(account.submit(rows))
    (error,) = done["errors"]["data"]
    assert (done["status"], error["code"], error["line"]) == ("failed", code, number)


def test_a_queue_that_is_full_fails_a_batch(account: Account, api: Configure) -> None:
    """A batch fails while the queue is full, and passes once those before it have ended."""
    api(max_enqueued_tokens=5, running=0.5)
    first = account.submit([line(0)])
    error = account.wait(account.submit([line(0)]))["errors"]["data"][0]
    assert error["code"] == "token_limit_exceeded"
    assert "Limit: 5 enqueued tokens." in error["message"]
    account.wait(first)
    assert account.wait(account.submit([line(0)]))["status"] == "completed"


def test_a_file_is_not_visible_for_a_while(account: Account, api: Configure) -> None:
    """A new file exists, but batches do not find it for a while."""
    api(visible_after=0.5)
    file_id = account.upload(json.dumps(line(0)).encode()).json()["id"]
    assert account.get(f"/files/{file_id}")["status"] == "processed"
    error = account.wait(account.create(file_id).json())["errors"]["data"][0]
    assert (error["code"], error["param"]) == ("invalid_request", "file_id")
    time.sleep(0.5)
    assert account.wait(account.create(file_id).json())["status"] == "completed"


def test_an_answer_may_be_lost(account: Account, api: Configure, simulator: Simulator) -> None:
    """A creation's answer may be lost, though the batch exists and is perhaps not listed yet."""
    api(creations=("lost", "reset", "late"), listed_after=0.3)
    file_id = account.upload(json.dumps(line(0)).encode()).json()["id"]
    for count in (1, 1, 2):
        with pytest.raises(httpx.TransportError):
            account.create(file_id)
        assert len(simulator.stats()["batches"]) == count
    assert len(account.get("/batches")["data"]) == 1
    time.sleep(0.3)
    assert len(account.get("/batches")["data"]) == 2


def test_lists_have_pages(account: Account, api: Configure) -> None:
    """Lists have pages, with the newest entry first."""
    api()
    made = [account.submit([line(0)])["id"] for _ in range(5)]
    page = account.get("/batches", limit=2)
    assert [batch["id"] for batch in page["data"]] == [made[4], made[3]]
    assert (page["has_more"], page["last_id"]) == (True, made[3])
    rest = account.get("/batches", limit=3, after=made[3])
    assert [batch["id"] for batch in rest["data"]] == made[2::-1]
    assert rest["has_more"] is False
    assert len(account.get("/files", purpose="batch")["data"]) == 5


@pytest.mark.parametrize(
    ("name", "form", "words"),
    [
        ("x.json", {"purpose": "batch"}, "Must be .jsonl"),
        ("x.jsonl", {"purpose": "odd"}, "'odd' is not one of"),
        ("x.jsonl", {"other": "batch"}, "Missing required parameter: 'purpose'"),
    ],
)
def test_an_upload_is_checked(
    account: Account, api: Configure, name: str, form: dict[str, str], words: str
) -> None:
    """An upload is checked by its form alone."""
    api()
    refused = account.upload(b"", name, **form)
    assert refused.status_code == 400
    assert words in refused.json()["error"]["message"]


def test_a_file_can_be_deleted(account: Account, api: Configure, simulator: Simulator) -> None:
    """A deleted file is gone."""
    api()
    file_id = account.upload(b"{}").json()["id"]
    url = f"{simulator.url}/files/{file_id}"
    assert httpx.delete(url, trust_env=False).json()["deleted"] is True
    assert httpx.get(url, trust_env=False).status_code == 404
    assert simulator.stats()["files"] == {"uploaded": 1, "deleted": 1, "kept": 0}


def test_what_a_batch_needs_is_checked_at_once(account: Account, api: Configure) -> None:
    """Creating a batch checks only its required fields; the rest is validated later."""
    api()
    missing = account.create("x", input_file_id=None)
    assert missing.status_code == 400
    assert missing.json()["error"]["code"] == "missing_required_parameter"
    assert account.create("x", endpoint="/v1/odd").status_code == 400
    assert account.wait(account.create("x").json())["status"] == "failed"


def test_a_body_that_is_not_json_is_refused(
    account: Account, api: Configure, simulator: Simulator
) -> None:
    """It gets a 400 as at OpenAI, and an odd page size gets the usual one."""
    api()
    refused = httpx.post(f"{simulator.url}/batches", content=b"{", trust_env=False)
    assert refused.status_code == 400
    assert account.get("/batches", limit="many")["data"] == []


def test_a_server_may_have_none(account: Account, api: Configure) -> None:
    """A server may have no Batch API, so all its paths are unknown."""
    api(exists=False)
    with pytest.raises(httpx.HTTPStatusError, match="404"):
        account.get("/batches")
    assert account.upload(b"").status_code == 404
