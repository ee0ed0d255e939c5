"""A text that a server refuses fails alone, wherever it stands and however many there are."""

import contextlib
import importlib
import importlib.util
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import httpx
import openai
import pytest
from langchain_core.embeddings import Embeddings
from langchain_openai import OpenAIEmbeddings

from langchain_batch_embed import BatchEmbeddings
from langchain_batch_embed.clock import SYSTEM_CLOCK
from langchain_batch_embed.errors import NotSentError
from langchain_batch_embed.limits import OPENAI
from tests.support import FakeClock, LocalServer
from tests.survival.conftest import Serve
from tests.survival.support import (
    DIMENSIONS,
    HANG,
    PAGE,
    RESET,
    Asked,
    Endpoint,
    Reply,
    embed,
    kinds,
)

Batch = Callable[..., BatchEmbeddings]
Wrapped = Callable[[Endpoint], OpenAIEmbeddings]

BAD = "BAD"


def texts_with(count: int, bad: Sequence[int], word: str = BAD) -> list[str]:
    """Return different texts, some of which contain a word that is refused."""
    wrong = set(bad)
    return [f"section {i}" + f" {word}" * (i in wrong) for i in range(count)]


def spread(count: int, bad: int) -> list[int]:
    """Return this many positions at about equal distances."""
    return [int((i + 0.5) * count / bad) for i in range(bad)]


class OllamaError(Exception):
    """An error like `ollama.ResponseError`, with a status and a message."""

    def __init__(self, error: str, status_code: int) -> None:
        super().__init__(error)
        self.error = error
        self.status_code = status_code


class LikeOllama(Embeddings):
    """Embeddings that speak Ollama's protocol and raise errors as Ollama's client does.

    Args:
        client: HTTP client of the server.
    """

    def __init__(self, client: httpx.Client) -> None:
        self._client = client

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Return the vectors of the texts from one request."""
        answer = self._client.post("/api/embed", json={"model": "m", "input": texts})
        if answer.status_code >= 400:
            raise OllamaError(answer.json()["error"], answer.status_code)
        found: list[list[float]] = answer.json()["embeddings"]
        return found

    def embed_query(self, text: str) -> list[float]:
        """Return the vector of one text."""
        return self.embed_documents([text])[0]


class TestInRows:
    """Many refused texts side by side are no sign that the server refuses everything."""

    @pytest.mark.parametrize(("first", "latency"), [(0, 0.0), (200, 0.0), (200, 0.1), (486, 0.0)])
    def test_a_row_of_refused_texts_in_small_batches_costs_only_itself(
        self, batch: Batch, server: LocalServer, first: int, latency: float
    ) -> None:
        """Of 500 texts in batches of 9, exactly a row of 14 refused ones fails."""
        server.configure(dimensions=DIMENSIONS, refuse_marker=BAD, latency=latency)
        bad = range(first, first + 14)
        embeddings = batch(max_batch_size=9, _clock=SYSTEM_CLOCK)
        failed = embed(embeddings, texts_with(500, bad))
        assert sorted(failed) == [*bad]
        assert {type(error) for error in failed.values()} == {openai.BadRequestError}
        assert server.stats()["requests"] < 260

    @pytest.mark.parametrize(
        "bad",
        [
            pytest.param(range(40), id="the first"),
            pytest.param(range(500, 540), id="in the middle"),
            pytest.param(range(960, 1000), id="the last"),
            pytest.param(spread(1000, 40), id="scattered"),
            pytest.param([*range(100, 120), *range(700, 720)], id="two rows"),
            pytest.param(range(0, 1000, 20), id="every twentieth"),
        ],
    )
    def test_with_default_options_exactly_the_refused_texts_fail(
        self, batch: Batch, server: LocalServer, bad: Sequence[int]
    ) -> None:
        """With default options exactly the refused texts fail, wherever they stand."""
        server.configure(dimensions=DIMENSIONS, refuse_marker=BAD)
        failed = embed(batch(), texts_with(1000, bad))
        assert sorted(failed) == [*bad], kinds(failed)
        # Halving needs at most some 2 log2(n) requests for each text that it finds.
        assert server.stats()["requests"] <= 20 * len(bad) + 100

    @pytest.mark.parametrize("status", [403, 404, 413, 418, 422, 451])
    def test_in_whatever_status_texts_are_refused_exactly_they_fail(
        self, batch: Batch, server: LocalServer, status: int
    ) -> None:
        """Exactly the refused texts fail, whatever the status of their refusal."""
        server.configure(dimensions=DIMENSIONS, refuse_marker=BAD, marker_status=status)
        bad = [*range(100, 110), *spread(600, 10)]
        assert sorted(embed(batch(), texts_with(600, bad))) == sorted(bad)

    def test_a_server_that_refuses_everything_is_left_alone(
        self, batch: Batch, server: LocalServer
    ) -> None:
        """A server that refuses any text gets fewer than 100 requests for 2,000 texts."""
        server.configure(dimensions=DIMENSIONS, refuse_marker="t")
        failed = embed(batch(), texts_with(2000, []))
        assert len(failed) == 2000
        assert server.stats()["requests"] < 100

    def test_a_corpus_that_is_all_refused_ends(self, batch: Batch, server: LocalServer) -> None:
        """A call all of whose texts are refused by a healthy server ends with their errors."""
        server.configure(dimensions=DIMENSIONS, refuse_marker=BAD)
        failed = embed(batch(), texts_with(200, range(200)))
        assert len(failed) == 200
        assert {type(e) for e in failed.values()} <= {openai.BadRequestError, NotSentError}

    def test_each_refused_text_carries_the_error_of_its_own(
        self, batch: Batch, serve: Serve, wrapped: Wrapped
    ) -> None:
        """Each refused text carries the server's message about itself."""

        def decide(asked: Asked) -> Reply | None:
            bad = [text for text in asked.texts if BAD in text]
            if not bad:
                return None
            number = bad[0].split()[1]
            return Reply(status=400, body={"error": {"message": f"policy {number} violated"}})

        bad = [7, 8, 9, 300, 577, 999]
        failed = embed(batch(wrapped(serve(decide))), texts_with(1000, bad))
        assert sorted(failed) == bad
        for index, error in failed.items():
            assert f"policy {index} violated" in str(error)

    def test_what_was_never_sent_says_so_and_what_was_refused_has_its_own_error(
        self, batch: Batch, serve: Serve, wrapped: Wrapped
    ) -> None:
        """If the money runs out during a call, each text without a vector carries its own error.

        A text that was sent carries the refusal or the spent quota, and any other a `NotSentError`.
        """
        sent: set[str] = set()

        def decide(asked: Asked) -> Reply | None:
            sent.update(asked.texts)
            if asked.number >= 40:
                error = {"message": "You exceeded your current quota", "code": "insufficient_quota"}
                return Reply(status=429, body={"error": error})
            if any(BAD in text for text in asked.texts):
                return Reply(status=400, body={"error": {"message": "policy violated"}})
            return None

        texts = texts_with(3000, range(5))
        failed = embed(batch(wrapped(serve(decide)), max_batch_size=10), texts)
        assert 0 < len(failed) < 3000
        for index, error in failed.items():
            if texts[index] not in sent:
                assert type(error) is NotSentError
            elif index < 5:  # found already, or in parts when the money ran out
                assert type(error) in (openai.BadRequestError, openai.RateLimitError)
            else:
                assert type(error) is openai.RateLimitError
        assert {type(error) for error in failed.values()} >= {NotSentError, openai.RateLimitError}


class TestFirewalls:
    """A firewall's page is about one text if others get through."""

    @pytest.mark.parametrize("at", [0, 1777, 3999])
    def test_one_text_of_many_that_a_firewall_refuses_fails_alone(
        self, batch: Batch, server: LocalServer, clock: FakeClock, at: int
    ) -> None:
        """Of 4,000 texts, only the one that a firewall refuses with an HTML 403 fails.

        Its error is a `PermissionDeniedError`.
        """
        server.configure(dimensions=DIMENSIONS, firewall_marker=BAD)
        failed = embed(batch(), texts_with(4000, [at]))
        assert {i: type(e) for i, e in failed.items()} == {at: openai.PermissionDeniedError}
        assert server.stats()["requests"] < 250
        assert clock.time < 30

    def test_many_texts_that_a_firewall_refuses_fail_alone(
        self, batch: Batch, server: LocalServer
    ) -> None:
        """Of 3,000 texts, exactly the 30 that a firewall refuses fail, some side by side."""
        server.configure(dimensions=DIMENSIONS, firewall_marker=BAD)
        bad = [*range(50, 60), *spread(3000, 20)]
        failed = embed(batch(), texts_with(3000, bad))
        assert sorted(failed) == sorted(set(bad))

    def test_a_text_that_a_gateway_answers_with_404_fails_alone(
        self, batch: Batch, serve: Serve, wrapped: Wrapped
    ) -> None:
        """A text that a router sends to a missing route, with a 404, fails alone among 1,000."""

        def decide(asked: Asked) -> Reply | None:
            bad = any(BAD in text for text in asked.texts)
            return Reply(status=404, body=PAGE.format("404 Not Found")) if bad else None

        failed = embed(batch(wrapped(serve(decide))), texts_with(1000, [500]))
        assert {i: type(e) for i, e in failed.items()} == {500: openai.NotFoundError}


class TestTextsThatCrashAServer:
    """A text for which a server always fails is given up soon, and fails alone."""

    @pytest.mark.parametrize(("at", "status"), [(0, 500), (1000, 500), (1999, 500), (1000, 520)])
    def test_one_text_of_many_that_always_gives_an_error_of_the_server(
        self, batch: Batch, server: LocalServer, clock: FakeClock, at: int, status: int
    ) -> None:
        """One text of 2,000 fails with the server's error, after few requests and seconds."""
        server.configure(dimensions=DIMENSIONS, refuse_marker=BAD, marker_status=status)
        failed = embed(batch(), texts_with(2000, [at]))
        assert {i: type(e) for i, e in failed.items()} == {at: openai.InternalServerError}
        assert server.stats()["requests"] < 160
        assert clock.time < 30

    @pytest.mark.parametrize("reply", [RESET, Reply(status=503, body=PAGE.format("503"))])
    def test_a_text_that_takes_the_server_down_fails_alone(
        self, batch: Batch, serve: Serve, wrapped: Wrapped, clock: FakeClock, reply: Reply
    ) -> None:
        """A text that causes a reset or a 503 fails alone among 500, within minutes."""
        endpoint = serve(lambda asked: reply if any(BAD in t for t in asked.texts) else None)
        failed = embed(batch(wrapped(endpoint)), texts_with(500, [123]))
        assert sorted(failed) == [123], kinds(failed)
        assert len(endpoint.asked) < 300
        assert clock.time < 700

    def test_a_text_that_hangs_fails_alone(
        self, batch: Batch, serve: Serve, wrapped: Wrapped
    ) -> None:
        """A text that times out fails alone among 200, with few requests.

        On a machine that stands still for a second, a sound request times out too and makes the
        batches
        small. What counts is that most texts are not sent alone.
        """
        endpoint = serve(lambda asked: HANG if any(BAD in t for t in asked.texts) else None)
        embeddings = batch(wrapped(endpoint), timeout=1, max_retries=2)
        failed = embed(embeddings, texts_with(200, [77]))
        assert sorted(failed) == [77], kinds(failed)
        assert len(endpoint.asked) < 150

    @pytest.mark.parametrize(
        ("kind", "bad"),
        [
            pytest.param("like Ollama", range(1200, 1260), id="row, like Ollama"),
            pytest.param("Ollama", spread(3000, 60), id="spread, Ollama"),
        ],
    )
    def test_texts_for_which_ollama_always_fails_fail_alone(
        self, batch: Batch, serve: Serve, clock: FakeClock, kind: str, bad: Sequence[int]
    ) -> None:
        """Of 3,000 texts, exactly the 60 that always get a 500 from Ollama fail."""

        def decide(asked: Asked) -> Reply | None:
            if any(BAD in text for text in asked.texts):
                return Reply(status=500, body={"error": "failed to encode response: NaN"})
            return None

        endpoint = serve(decide)
        with _ollama(kind, endpoint.host) as embeddings:
            failed = embed(batch(embeddings), texts_with(3000, bad))
        assert sorted(failed) == [*bad], kinds(failed)
        assert {getattr(error, "status_code", None) for error in failed.values()} == {500}
        assert len(endpoint.asked) < 60 * 25
        assert clock.time < 300


class TestOneTextThatIsTooLarge:
    """A refusal of one text for its size says nothing about requests with many texts."""

    def test_a_text_answered_with_413_fails_alone_and_later_requests_stay_large(
        self, batch: Batch, server: LocalServer
    ) -> None:
        """A text of 60 KB fails alone at a proxy that accepts 50 KB; later requests stay large."""
        server.configure(dimensions=DIMENSIONS, max_body_bytes=50_000)
        texts = texts_with(1000, [])
        texts[500] = "long " * 12_000
        embeddings = batch(
            long_inputs="truncate",
            max_tokens_per_input=20_000,
            limits=replace(OPENAI, strict=False),
        )
        failed = embed(embeddings, texts)
        assert {i: type(e) for i, e in failed.items()} == {500: openai.APIStatusError}
        later = [f"later {i}" for i in range(1000)]
        sent = []
        for asked in (embeddings, batch()):  # the second one has not seen that text
            server.configure(dimensions=DIMENSIONS, max_body_bytes=50_000)
            assert embed(asked, later) == {}
            sent.append(server.stats()["requests"])
        assert sent[0] <= sent[1] + 8

    def test_a_short_text_answered_with_413_does_not_shrink_later_requests(
        self, batch: Batch, server: LocalServer
    ) -> None:
        """A short text that always gets a 413 fails alone, and later requests stay large."""
        server.configure(dimensions=DIMENSIONS, refuse_marker=BAD, marker_status=413)
        embeddings = batch(max_batch_size=32)
        assert sorted(embed(embeddings, texts_with(1000, [500]))) == [500]
        server.configure(dimensions=DIMENSIONS)
        assert embed(embeddings, [f"later {i}" for i in range(1000)]) == {}
        # 32 at best; the first requests to an unknown server are smaller.
        assert server.stats()["requests"] <= 80

    def test_texts_near_the_limit_of_a_body_are_all_embedded(
        self, batch: Batch, server: LocalServer
    ) -> None:
        """A limit of a body is learnt in bytes, so texts of Cyrillic and ASCII all get through."""
        server.configure(dimensions=DIMENSIONS, max_body_bytes=20_000)
        texts = [f"{i} " + ("word " if i % 2 else "жжжжж ") * 100 for i in range(300)]
        embeddings = batch()
        assert embed(embeddings, texts) == {}
        assert server.stats()["by_status"].get("413", 0) <= 12


@contextlib.contextmanager
def _ollama(kind: str, host: str) -> Iterator[Embeddings]:
    if kind == "like Ollama":
        with httpx.Client(base_url=host, trust_env=False, timeout=60) as client:
            yield LikeOllama(client)
        return
    if importlib.util.find_spec("langchain_ollama") is None:
        pytest.skip("langchain-ollama is not installed")
    made = importlib.import_module("langchain_ollama").OllamaEmbeddings(model="m", base_url=host)
    yield made
    made._client._client.close()


class TestNamesOfParameters:
    """A refusal concerns every request only if it names an option that was sent."""

    @pytest.mark.parametrize(
        "param", ["None", "prompt", "contents[3]", "body.inputs", "text", "", "requests[0].content"]
    )
    def test_an_unknown_param_of_one_text_ends_nothing(
        self, batch: Batch, serve: Serve, wrapped: Wrapped, param: str
    ) -> None:
        """An unknown `param` in a refusal, such as LiteLLM's "None", fails only its text."""
        error = {"message": "invalid content", "type": "invalid_request_error", "param": param}
        reply = Reply(status=400, body={"error": error})
        endpoint = serve(lambda asked: reply if any(BAD in t for t in asked.texts) else None)
        failed = embed(batch(wrapped(endpoint)), texts_with(1000, [500]))
        assert list(failed) == [500]
        assert isinstance(failed[500], openai.BadRequestError)
        assert len(endpoint.asked) < 80
