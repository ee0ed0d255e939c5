"""Each provider's limits are kept, and its refusals and throttles are understood."""

import threading
from collections.abc import Callable

import numpy as np
import pytest

from langchain_batch_embed import (
    BatchEmbeddings,
    Limits,
    PartialEmbeddingsError,
)
from langchain_batch_embed.limits import ESTIMATED, LOCAL_WORKERS, REMOTE_WORKERS, limits_of
from langchain_batch_embed.texts.tokens import count_bytes
from tests.providers.fakes import COUNTER, Plain, Service, fake, letters
from tests.providers.rows import ROWS, VOYAGE, Row
from tests.support import FakeClock, assert_right, prose

NAME_THEIR_LIMIT = {
    "CohereEmbeddings",
    "GoogleGenerativeAIEmbeddings",
    "HuggingFaceEndpointEmbeddings",
}


def rows(only: Callable[[Row], object] = bool) -> pytest.MarkDecorator:
    """Parametrize a test with the rows that have what it needs."""
    return pytest.mark.parametrize(
        "row", [pytest.param(row, id=row.id) for row in ROWS if only(row)]
    )


class TestEachProvider:
    """Batches keep each provider's limits; its refusals and throttles are understood."""

    @rows()
    def test_keeps_the_limits(self, row: Row) -> None:
        """No request is refused, although the provider counts 1.42 tokens for each of ours."""
        service = row.service()
        count = 100 if row.items == 1 else 1500
        texts = [prose(150 if row.tokens else 10, i) for i in range(count)]
        embeddings = BatchEmbeddings(
            fake(row.name, service, **row.options), hedge=False, _clock=FakeClock()
        )
        assert_right(embeddings.embed_numpy(texts), texts)
        assert service.refused == 0
        assert sorted(service.answered) == sorted(texts)

    @rows(lambda row: row.items != 1)
    def test_understands_a_refusal_of_too_many_texts(self, row: Row) -> None:
        """A provider that accepts a third of the texts gets smaller requests, each text once."""
        service = row.service(share=1 / 3)
        service.max_tokens = None
        texts = [f"section {i}" for i in range(2500)]
        embeddings = BatchEmbeddings(
            fake(row.name, service, **row.options), max_workers=1, hedge=False, _clock=FakeClock()
        )
        assert_right(embeddings.embed_numpy(texts), texts)
        assert service.refused > 0
        assert sorted(service.answered) == sorted(texts)

    @rows(lambda row: row.tokens)
    def test_understands_a_refusal_of_too_many_tokens(self, row: Row) -> None:
        """A provider that accepts a third of the tokens gets smaller requests, each text once."""
        service = row.service(share=1 / 3)
        service.max_items = None
        texts = [prose(1000, i) for i in range(400)]
        embeddings = BatchEmbeddings(
            fake(row.name, service, **row.options), max_workers=1, hedge=False, _clock=FakeClock()
        )
        assert_right(embeddings.embed_numpy(texts), texts)
        assert service.refused > 0
        assert sorted(service.answered) == sorted(texts)

    @rows(lambda row: row.tokens or row.name in NAME_THEIR_LIMIT)
    def test_learns_a_limit_that_a_refusal_names(self, row: Row) -> None:
        """A limit that refusals name is learnt after a few of them, and then kept.

        A limit that no refusal names is tested again now and then.
        """
        service = row.service(share=1 / 3)
        if row.name in NAME_THEIR_LIMIT:
            service.max_tokens = None
        texts = [prose(100 if service.max_tokens else 10, i) for i in range(5000)]
        embeddings = BatchEmbeddings(
            fake(row.name, service, **row.options), max_workers=1, hedge=False, _clock=FakeClock()
        )
        embeddings.embed_numpy(texts[:4000])
        refused = service.refused
        assert 1 <= refused <= 6
        embeddings.embed_numpy(texts[4000:])
        assert service.refused <= refused + 2

    @rows(lambda row: row.throttled)
    def test_waits_out_a_throttle(self, row: Row) -> None:
        """A throttled request is sent once more, after a wait."""
        clock = FakeClock()
        service = row.service(script=[row.throttled])
        embeddings = BatchEmbeddings(
            fake(row.name, service, **row.options), hedge=False, _clock=clock, _draw=lambda: 1.0
        )
        assert_right(embeddings.embed_numpy(["a"]), ["a"])
        assert service.sizes == [1, 1]
        assert clock.time > 0

    @rows(lambda row: row.too_long)
    def test_one_text_that_is_too_long_fails_alone(self, row: Row) -> None:
        """If one text makes the provider refuse a whole request, only that text fails."""
        service = row.service(unwanted="endless", refusal=row.too_long)
        texts = [*(f"section {i}" for i in range(200)), "endless", "last"]
        embeddings = BatchEmbeddings(
            fake(row.name, service, **row.options), hedge=False, _clock=FakeClock()
        )
        with pytest.raises(PartialEmbeddingsError) as caught:
            embeddings.embed_documents(texts)
        assert [failure.index for failure in caught.value.failures] == [200]
        assert caught.value.failures[0].error is row.too_long

    @rows()
    def test_works_with_a_subclass(self, row: Row) -> None:
        """A user's own subclass has the same limits as the provider's class."""
        mine = type("Mine", (type(fake(row.name, Service())),), {})(Service(), **row.options)
        assert limits_of(mine).max_batch_size == row.items


class TestModels:
    """If the models of a provider differ, the model's own limits apply."""

    @pytest.mark.parametrize(
        ("model", "tokens"),
        [
            ("voyage-4-lite", 1_000_000),
            ("voyage-3.5-lite", 1_000_000),
            ("voyage-4", 320_000),
            ("voyage-3.5", 320_000),
            ("voyage-2", 320_000),
            ("voyage-4-large", 120_000),
            ("voyage-3-large", 120_000),
            ("voyage-3-lite", 120_000),
            ("voyage-code-3", 120_000),
            ("voyage-context-3", 120_000),
            ("voyage-of-next-year", 120_000),
        ],
    )
    def test_voyages_token_limit_is_the_models(self, model: str, tokens: int) -> None:
        """Voyage's limit on tokens depends on the model, and an unknown model gets the smallest."""
        limits = limits_of(fake("VoyageAIEmbeddings", Service(), model=model))
        assert limits.max_tokens_per_request == tokens * ESTIMATED

    @pytest.mark.parametrize(
        ("model", "vertex", "expected"),
        [
            ("models/gemini-embedding-001", False, ("Gemini API", 100)),
            ("gemini-embedding-001", True, ("Vertex AI", 1)),
            ("text-embedding-005", True, ("Vertex AI", 100)),
        ],
    )
    def test_geminis_class_can_stand_for_vertex(
        self, model: str, vertex: bool, expected: tuple[str, int]
    ) -> None:
        """Google's class serves Vertex AI too, which accepts one text a request for Gemini."""
        limits = limits_of(
            fake("GoogleGenerativeAIEmbeddings", Service(), model=model, _use_vertexai=vertex)
        )
        assert (limits.provider, limits.max_batch_size) == expected

    def test_a_table_of_digits_fits_too(self) -> None:
        """A table of digits exceeds no limit, though Mistral counts a token for each digit.

        That is twice as many as are counted here.
        """
        row = next(row for row in ROWS if row.name == "MistralAIEmbeddings")
        service = row.service(count=letters)
        rng = np.random.default_rng(0)
        texts = [",".join(map(str, rng.integers(0, 99_999, 40).tolist())) for _ in range(400)]
        embeddings = BatchEmbeddings(
            fake(row.name, service, **row.options), hedge=False, _clock=FakeClock()
        )
        assert_right(embeddings.embed_numpy(texts), texts)
        assert service.refused == 0

    def test_far_fewer_requests_than_by_bytes(self) -> None:
        """A request of prose holds more than twice as many bytes as its limit has tokens."""
        service = VOYAGE.service(count=lambda texts: int(COUNTER.count(texts).sum()))
        texts = [prose(500, i) for i in range(1000)]
        embeddings = BatchEmbeddings(
            fake(VOYAGE.name, service, **VOYAGE.options),
            max_workers=1,
            hedge=False,
            _clock=FakeClock(),
        )
        embeddings.embed_numpy(texts)
        assert count_bytes(texts).sum() / len(service.sizes) > 2 * 120_000


class Meeting(Plain):
    """Embeddings whose first request waits for a second one to arrive beside it."""

    second = threading.Event()
    met: bool | None = None

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Record whether two requests were in progress at the same time."""
        kind = type(self)
        if kind.met is None:
            kind.met = False
            kind.met = kind.second.wait(0.1)
        else:
            kind.second.set()
        return super().embed_documents(texts)


class TestWorkers:
    """A local model gets one request at a time, and a hosted one many."""

    @rows()
    def test_only_hosted_providers_get_requests_side_by_side(self, row: Row) -> None:
        """Only hosted providers get concurrent requests, which would slow down a local model."""
        service = row.service()
        kind = type(row.name, (Meeting,), {"second": threading.Event()})
        embeddings = BatchEmbeddings(kind(service, **row.options), max_batch_size=1)
        embeddings.embed_numpy(["a", "b", "c"])
        local = ("OllamaEmbeddings", "HuggingFaceEmbeddings", "LlamaCppEmbeddings")
        assert kind.met is (row.name not in local)  # type: ignore[attr-defined]
        workers = LOCAL_WORKERS if row.name in local else REMOTE_WORKERS
        assert embeddings.limits.max_workers == workers

    def test_limits_take_the_place_of_all_that_is_known(self) -> None:
        """The option `limits=` replaces everything that is known of the provider."""
        mine = Limits(provider="my cluster", max_batch_size=7, max_workers=3)
        service = Service()
        embeddings = BatchEmbeddings(fake("OllamaEmbeddings", service), limits=mine)
        embeddings.embed_numpy([f"section {i}" for i in range(20)])
        assert embeddings.limits == mine
        assert max(service.sizes) <= 7
