"""Everything that can go wrong, one fault at a time."""

import base64
import socket
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import pytest

from langchain_batch_embed.simulator import FAULTS, Simulator, vectors

Ask = Callable[..., httpx.Response]
Configure = Callable[..., None]
RawRequest = Callable[..., socket.socket]

IRE = "invalid_request_error"
TEXTS = ["a", "b", "c", "d"]


def rows(response: httpx.Response) -> list[Any]:
    """Return the items of an answer with status 200."""
    assert response.status_code == 200
    data: list[Any] = response.json()["data"]
    return data


def encoded(texts: list[str]) -> list[str]:
    """Return the texts' embeddings as base64."""
    return [base64.b64encode(row).decode() for row in vectors(texts, 8).astype("<f4")]


@pytest.mark.parametrize(
    ("fault", "status", "type_", "code", "message"),
    [
        ("401", 401, IRE, "invalid_api_key", "Incorrect API key provided: ***."),
        ("403", 403, "request_forbidden", "unsupported_country_region_territory", "not supported"),
        ("404", 404, IRE, "model_not_found", "The model `text-embedding-3-small` does not exist"),
        ("408", 408, "server_error", None, "timed out"),
        ("409", 409, IRE, None, "updated by another request"),
        ("429", 429, "tokens", "rate_limit_exceeded", "on tokens per min (TPM): Limit"),
        ("429_requests", 429, "requests", "rate_limit_exceeded", "on requests per min (RPM)"),
        ("429_bare", 429, None, None, "Too many requests"),
        ("429_azure", 429, None, "429", "Please retry after 1 seconds."),
        ("too_large_for_quota", 429, "tokens", "rate_limit_exceeded", "Request too large for"),
        ("insufficient_quota", 429, "insufficient_quota", "insufficient_quota", "You exceeded"),
        ("500", 500, "server_error", None, "The server had an error"),
        ("503", 503, "service_unavailable_error", "server_is_overloaded", "overloaded"),
        ("status_424", 424, None, None, "Failed Dependency"),
        ("status_429", 429, None, None, "Too Many Requests"),
        ("status_599", 599, None, None, "Error 599"),
    ],
)
def test_a_refusal_is_worded_as_the_provider_words_it(
    ask: Ask,
    configure: Configure,
    fault: str,
    status: int,
    type_: str | None,
    code: str | None,
    message: str,
) -> None:
    """Each fault has its provider's status, type, code and text, and the next request succeeds."""
    configure(script=(fault,))

    response = ask(TEXTS)

    error = response.json()["error"]
    assert response.status_code == status
    assert (error.get("type"), error.get("code")) == (type_, code)
    assert message in error["message"]
    assert ask(TEXTS).status_code == 200


@pytest.mark.parametrize(
    ("fault", "has_delay"),
    [
        ("429", True),
        ("429_requests", True),
        ("429_azure", True),
        ("429_bare", False),
        ("status_429", False),
        ("too_large_for_quota", False),
        ("insufficient_quota", False),
    ],
)
def test_a_throttle_tells_a_delay_where_waiting_helps(
    ask: Ask, configure: Configure, fault: str, *, has_delay: bool
) -> None:
    """A throttle gives a delay of 20 to 200 ms, but not where waiting would not help."""
    configure(script=(fault,))

    headers = ask(TEXTS).headers

    assert ("retry-after" in headers) == ("retry-after-ms" in headers) == has_delay
    assert 20 <= int(headers.get("retry-after-ms", 20)) <= 200


@pytest.mark.parametrize("fault", ["429_bare", "status_429"])
def test_a_bare_throttle_tells_nothing(ask: Ask, configure: Configure, fault: str) -> None:
    """A bare throttle has no headers, not even the remaining quota."""
    configure(script=(fault,), tier=1)

    assert not [name for name in ask(TEXTS).headers if name.startswith("x-ratelimit")]


@pytest.mark.parametrize(("fault", "status"), [("403_html", 403), ("502_html", 502), ("html", 200)])
def test_html_comes_in_place_of_json(
    ask: Ask, configure: Configure, fault: str, status: int
) -> None:
    """A proxy's page replaces JSON, with its own content type."""
    configure(script=(fault,))

    response = ask(TEXTS)

    assert response.status_code == status
    assert response.headers["content-type"].startswith("text/html")
    assert response.text.startswith("<html>")


def test_an_error_can_come_with_status_200(ask: Ask, configure: Configure) -> None:
    """An error may come with status 200, as from some gateways."""
    configure(script=("error_200",))

    response = ask(TEXTS)

    assert response.status_code == 200
    assert set(response.json()) == {"error"}


def test_a_reset_connection_answers_nothing(
    ask: Ask, configure: Configure, raw_request: RawRequest
) -> None:
    """A reset connection ends with RST before a byte is sent."""
    configure(script=("reset",))

    with raw_request() as connection, pytest.raises(ConnectionResetError):
        connection.recv(1)
    assert ask(TEXTS).status_code == 200


def test_a_truncated_answer_ends_before_its_length(ask: Ask, configure: Configure) -> None:
    """A truncated body is shorter than its content-length, and the connection is closed."""
    configure(script=("truncated",))

    with pytest.raises(httpx.RemoteProtocolError, match="without sending complete message body"):
        ask(TEXTS)
    assert ask(TEXTS).status_code == 200


def test_a_hanging_request_gets_no_answer(
    simulator: Simulator, client: httpx.Client, configure: Configure
) -> None:
    """A hanging request ends only with the client's own timeout."""
    configure(script=("hang",))

    with pytest.raises(httpx.ReadTimeout):
        client.post(
            f"{simulator.url}/embeddings",
            json={"model": "text-embedding-3-small", "input": "x"},
            timeout=httpx.Timeout(10, read=0.1),
        )


def test_a_hanging_request_ends_after_its_time(ask: Ask, configure: Configure) -> None:
    """The server closes a hanging connection after the configured time."""
    configure(script=("hang",), hang_seconds=0)

    with pytest.raises(httpx.ReadError):
        ask(TEXTS)


def test_a_dripping_answer_begins_and_does_not_end(
    configure: Configure, raw_request: RawRequest
) -> None:
    """A dripping answer sends its headers at once, but not its body."""
    configure(script=("drip",), drip_seconds=3600)
    received = b""

    with raw_request() as connection:
        while not received.endswith(b"\r\n\r\n"):
            received += connection.recv(1)
        connection.settimeout(0.1)
        with pytest.raises(TimeoutError):
            connection.recv(1)

    assert received.startswith(b"HTTP/1.1 200 OK")


def test_a_dripping_answer_is_right_in_the_end(ask: Ask, configure: Configure) -> None:
    """A dripping answer is complete and right in the end."""
    configure(script=("drip",), drip_seconds=0)

    data = rows(ask(TEXTS, encoding_format="base64"))

    assert [item["embedding"] for item in data] == encoded(TEXTS)


class TestSpoiledAnswers:
    """Answers with status 200 that a client must not accept."""

    def spoiled(self, ask: Ask, configure: Configure, fault: str, **options: Any) -> list[Any]:
        """Return the items of an answer that has one fault."""
        configure(script=(fault,))
        return rows(ask(TEXTS, encoding_format=options.get("encoding_format", "base64")))

    def test_no_data(self, ask: Ask, configure: Configure) -> None:
        """The fault "empty_data" gives an empty `data`."""
        assert self.spoiled(ask, configure, "empty_data") == []

    def test_one_vector_less(self, ask: Ask, configure: Configure) -> None:
        """The fault "short" omits one item and its index."""
        data = self.spoiled(ask, configure, "short")

        assert len(data) == 3
        assert all(item["embedding"] == encoded(TEXTS)[item["index"]] for item in data)

    def test_one_item_twice(self, ask: Ask, configure: Configure) -> None:
        """The fault "doubled" replaces one item with a copy of another."""
        data = self.spoiled(ask, configure, "doubled")

        assert len(data) == 4
        assert len({item["index"] for item in data}) == 3
        assert all(item["embedding"] == encoded(TEXTS)[item["index"]] for item in data)

    def test_items_out_of_order(self, ask: Ask, configure: Configure) -> None:
        """The fault "shuffled" changes the order of the items, but not their indices."""
        data = self.spoiled(ask, configure, "shuffled")

        indices = [item["index"] for item in data]
        assert indices != [0, 1, 2, 3]
        assert sorted(indices) == [0, 1, 2, 3]
        assert all(item["embedding"] == encoded(TEXTS)[item["index"]] for item in data)

    def test_no_index(self, ask: Ask, configure: Configure) -> None:
        """The fault "no_index" omits `index`, while the items stay in order."""
        data = self.spoiled(ask, configure, "no_index")

        assert all("index" not in item for item in data)
        assert [item["embedding"] for item in data] == encoded(TEXTS)

    def test_a_null_vector(self, ask: Ask, configure: Configure) -> None:
        """The fault "nulls" gives one item a null embedding."""
        data = self.spoiled(ask, configure, "nulls")

        assert [item["embedding"] is None for item in data].count(True) == 1

    @pytest.mark.parametrize("encoding_format", ["base64", "float"])
    def test_a_vector_of_nan(self, ask: Ask, configure: Configure, encoding_format: str) -> None:
        """The fault "nan" fills one item with NaN, in either encoding."""
        data = self.spoiled(ask, configure, "nan", encoding_format=encoding_format)

        rows = [
            np.frombuffer(base64.b64decode(item["embedding"]), "<f4")
            if encoding_format == "base64"
            else np.array(item["embedding"])
            for item in data
        ]
        assert [bool(np.isnan(row).all()) for row in rows].count(True) == 1

    def test_a_vector_of_zeros(self, ask: Ask, configure: Configure) -> None:
        """The fault "zeros" gives one item zeros of the right width."""
        data = self.spoiled(ask, configure, "zeros", encoding_format="float")

        assert [item["embedding"] == [0.0] * 8 for item in data].count(True) == 1

    def test_one_vector_for_all_texts(self, ask: Ask, configure: Configure) -> None:
        """The fault "short_one" returns only the first text's vector, right for a single text."""
        configure(faults={"short_one": 1.0})

        for texts in (TEXTS, TEXTS, TEXTS[:1]):
            data = rows(ask(texts, encoding_format="base64"))
            assert [(item["index"], item["embedding"]) for item in data] == [
                (0, encoded(TEXTS[:1])[0])
            ]

    def test_another_models_name(self, ask: Ask, configure: Configure) -> None:
        """The fault "wrong_model" names another model, while the vectors are right."""
        configure(script=("wrong_model",))

        response = ask(TEXTS, encoding_format="base64")

        assert [item["embedding"] for item in rows(response)] == encoded(TEXTS)
        assert response.json()["model"] == "another-text-embedding-3-small"

    def test_a_negative_usage(self, ask: Ask, simulator: Simulator, configure: Configure) -> None:
        """The fault "bad_usage" reports negative tokens, while the billed tokens are right."""
        configure(script=("bad_usage",))

        usage = ask(TEXTS).json()["usage"]

        assert usage == {"prompt_tokens": -4, "total_tokens": -4}
        assert simulator.stats()["tokens_billed"] == 4

    def test_a_vector_of_another_width(self, ask: Ask, configure: Configure) -> None:
        """The fault "wrong_width" gives one item half the width."""
        data = self.spoiled(ask, configure, "wrong_width", encoding_format="float")

        assert sorted(len(item["embedding"]) for item in data) == [4, 8, 8, 8]

    @pytest.mark.parametrize(("fault", "count"), [("short", 0), ("doubled", 2)])
    def test_faults_show_in_a_single_item(
        self, ask: Ask, configure: Configure, fault: str, count: int
    ) -> None:
        """A fault also affects an answer with a single item."""
        configure(script=(fault,))

        assert len(rows(ask("x"))) == count


class TestLuck:
    """Chance decides which requests a fault affects."""

    def test_probabilities_strike_about_as_often_as_told(
        self, ask: Ask, simulator: Simulator, configure: Configure
    ) -> None:
        """Of 200 requests, about half are affected by two faults that share a half."""
        configure(faults={"500": 0.25, "503": 0.25}, seed=1)

        statuses = [ask("x").status_code for _ in range(200)]

        assert 30 < statuses.count(500) < 70
        assert 30 < statuses.count(503) < 70
        assert simulator.stats()["faults"] == {
            "500": statuses.count(500),
            "503": statuses.count(503),
        }

    def test_the_same_seed_brings_the_same_luck(
        self, ask: Ask, simulator: Simulator, configure: Configure
    ) -> None:
        """A reset repeats the same faults, and another seed does not."""
        configure(faults={"500": 0.5}, seed=1)
        first = [ask("x").status_code for _ in range(30)]
        simulator.reset()
        second = [ask("x").status_code for _ in range(30)]
        configure(faults={"500": 0.5}, seed=2)
        other = [ask("x").status_code for _ in range(30)]

        assert first == second
        assert first != other

    def test_the_script_goes_before_the_probabilities(self, ask: Ask, configure: Configure) -> None:
        """The script takes precedence over the probabilities, and "ok" in it means no fault."""
        configure(faults={"500": 1.0}, script=("ok", "503"))

        assert [ask("x").status_code for _ in range(4)] == [200, 503, 500, 500]

    def test_a_request_that_deserves_a_refusal_gets_that(
        self, ask: Ask, simulator: Simulator, configure: Configure
    ) -> None:
        """A request over a limit is refused for that, and its fault is not counted."""
        configure(faults={"500": 1.0})

        assert ask([]).status_code == 400
        assert simulator.stats()["faults"] == {}

    @pytest.mark.parametrize("fault", FAULTS)
    def test_no_fault_ends_the_server(
        self, ask: Ask, simulator: Simulator, configure: Configure, fault: str
    ) -> None:
        """After any fault, in either encoding, the next request is answered."""
        configure(script=(fault, fault), hang_seconds=0, drip_seconds=0)
        for encoding_format in ("base64", "float"):
            try:
                ask(TEXTS, encoding_format=encoding_format)
            except httpx.TransportError:
                continue

        assert ask(TEXTS).status_code == 200
        assert simulator.stats()["faults"] == {fault: 2}
