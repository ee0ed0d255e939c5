"""Providers: each one's limits, refusals and throttles, in its own words, by a class of its name.

The real packages need not be installed. A fake has the real class's name, its options, and the
limits and errors of its provider. Errors have the form that the real class gives them; their
words are quoted from public reports where there were any, and made up where there were none.
"""

import copy
import multiprocessing
import os
import pickle
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
from langchain_core.embeddings import DeterministicFakeEmbedding, Embeddings
from langchain_openai import AzureOpenAIEmbeddings, OpenAIEmbeddings
from pydantic import BaseModel, ConfigDict, PrivateAttr, SecretStr
from pytest_mock import MockerFixture

from langchain_batch_embed import (
    BatchEmbeddings,
    BatchEmbeddingsError,
    Limits,
    OptionError,
    PartialEmbeddingsError,
)
from langchain_batch_embed.clock import SYSTEM_CLOCK
from langchain_batch_embed.limits import ESTIMATED, LOCAL_WORKERS, REMOTE_WORKERS, limits_of
from langchain_batch_embed.providers.wrapped import WrappedProvider
from langchain_batch_embed.simulator import vectors
from langchain_batch_embed.texts.tokens import ToktokCounter, count_bytes
from tests.support import FakeClock, LocalServer, assert_right, prose, wait_until

Batch = Callable[..., BatchEmbeddings]

WIDTH = 8
COUNTER = ToktokCounter("cl100k_base")
DENSER = 1.42
"""Tokens in place of one of cl100k_base: the most that was measured for prose, Vietnamese."""

Count = Callable[[Sequence[str]], int]


class ProviderError(Exception):
    """An SDK's exception, with the attributes that its provider's SDK gives it."""

    def __init__(self, text: str = "", /, **attributes: Any) -> None:
        super().__init__(text)
        vars(self).update(attributes)


class TooManyRequestsError(ProviderError):
    """Named as cohere's and boto3's are, which tells a throttle too."""


@dataclass
class Response:
    """The `response` of an exception of httpx or requests."""

    status_code: int
    headers: Mapping[str, str] = field(default_factory=dict)


def raised_from(cause: Exception) -> Exception:
    """Return an exception as a LangChain class raises it, around that of the SDK."""
    error = ProviderError(f"Error embedding content: {cause}")
    error.__cause__ = cause
    return error


def dense(texts: Sequence[str]) -> int:
    """Count tokens as a provider with a smaller vocabulary than OpenAI's does."""
    return int(np.ceil(COUNTER.count(texts) * DENSER).sum())


def letters(texts: Sequence[str]) -> int:
    """Count tokens as Mistral's tokenizers do with digits: each is one."""
    return int(count_bytes(texts).sum())


class Service:
    """What stands behind a fake: it enforces limits and counts what it is asked.

    Args:
        max_items: texts in one request.
        max_tokens: tokens in one request, by `count`.
        too_many: what is raised for too many texts, given how many there were.
        too_large: what is raised for too many tokens, given how many there were.
        script: what the first requests raise; `None` answers.
        unwanted: a text with this in it is refused, with its whole request.
        refusal: what is raised then.
        count: how the provider counts tokens.
    """

    def __init__(
        self,
        *,
        max_items: int | None = None,
        max_tokens: int | None = None,
        too_many: Callable[[int], Exception] | None = None,
        too_large: Callable[[int], Exception] | None = None,
        script: Sequence[Exception | None] = (),
        unwanted: str = "",
        refusal: Exception | None = None,
        count: Count = dense,
    ) -> None:
        self.max_items = max_items
        self.max_tokens = max_tokens
        self.too_many = too_many
        self.too_large = too_large
        self.script: Iterator[Exception | None] = iter(script)
        self.unwanted = unwanted
        self.refusal = refusal
        self.count = count
        self.lock = threading.Lock()  # guards all below
        self.sizes: list[int] = []
        self.refused = 0
        self.answered: list[str] = []

    def answer(self, texts: Sequence[str]) -> list[list[float]]:
        """Answer one request, or refuse it as the provider does."""
        with self.lock:
            self.sizes.append(len(texts))
            error = next(self.script, None) or self.refuse(texts)
            self.refused += error is not None
            if error is None:
                self.answered += texts
        if error is not None:
            raise error
        return [[float(x) for x in row] for row in vectors(list(texts), WIDTH)]

    def refuse(self, texts: Sequence[str]) -> Exception | None:
        """Return why a request is refused."""
        if self.max_items is not None and len(texts) > self.max_items:
            assert self.too_many is not None
            return self.too_many(len(texts))
        if self.max_tokens is not None and (tokens := self.count(texts)) > self.max_tokens:
            assert self.too_large is not None
            return self.too_large(tokens)
        if self.unwanted and any(self.unwanted in text for text in texts):
            return self.refusal
        return None


class Plain(Embeddings):
    """An `Embeddings` that is no pydantic model; one call is one request."""

    def __init__(self, service: Service, **options: Any) -> None:
        self.service = service
        vars(self).update(options)

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Send one request."""
        return self.service.answer(texts)

    def embed_query(self, text: str) -> list[float]:
        """Send one request."""
        return self.service.answer([text])[0]


def fake(name: str, service: Service, base: type[Plain] = Plain, **options: Any) -> Plain:
    """Return an object of a class with this name."""
    made: Plain = type(name, (base,), {"__module__": __name__})(service, **options)
    return made


@dataclass(frozen=True, kw_only=True)
class Row:
    """One provider: what it allows, and what it says when that is not kept.

    `items` and `tokens` are the provider's documented limits of one request.
    """

    name: str
    items: int | None = None
    too_many: Callable[[int, int], Exception] | None = None
    tokens: int | None = None
    too_large: Callable[[int, int], Exception] | None = None
    throttled: Exception | None = None
    too_long: Exception | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """Name the row, with its model where that matters."""
        return "-".join([self.name, *map(str, self.options.values())])

    def service(self, *, share: float = 1, **options: Any) -> Service:
        """Return the provider, with this share of its documented limits."""
        items = None if self.items is None else max(1, int(self.items * share))
        tokens = None if self.tokens is None else int(self.tokens * share)

        def too_many(got: int) -> Exception:
            assert self.too_many is not None
            assert items is not None
            return self.too_many(items, got)

        def too_large(got: int) -> Exception:
            assert self.too_large is not None
            assert tokens is not None
            return self.too_large(tokens, got)

        return Service(
            max_items=items, max_tokens=tokens, too_many=too_many, too_large=too_large, **options
        )


def _voyage_tokens(limit: int, got: int) -> Exception:
    return ProviderError(
        "Request to model 'voyage-3-large' failed. The max allowed tokens per submitted batch is "
        f"{limit}. Your batch has {got} tokens after truncation. Please lower the number of tokens "
        "in the batch.",
        http_status=400,
    )


def _voyage_items(limit: int, got: int) -> Exception:
    return ProviderError(
        f"The batch size limit is {limit}. Your batch size is {got}.", http_status=400
    )


def _mistral(message: str) -> Exception:
    return ProviderError(
        f"Client error '400 Bad Request': {message}", response=Response(status_code=400)
    )


def _google(code: int, status: str, message: str) -> Exception:
    return raised_from(ProviderError(message, code=code, status=status, message=message))


def _vertex_items(limit: int, got: int) -> Exception:
    return ProviderError(
        f"400 {limit} instance(s) is allowed per prediction. Actual: {got}", code=400
    )


def _vertex_tokens(limit: int, got: int) -> Exception:
    return ProviderError(
        f"400 Unable to submit request because the input token count is {got} but the model "
        f"supports up to {limit}.",
        code=400,
    )


def _bedrock(code: str, message: str, status: int) -> Exception:
    return ProviderError(
        f"An error occurred ({code}) when calling the InvokeModel operation: {message}",
        response={
            "Error": {"Code": code, "Message": message},
            "ResponseMetadata": {"HTTPStatusCode": status},
        },
    )


VOYAGE = Row(
    name="VoyageAIEmbeddings",
    items=1000,
    too_many=_voyage_items,
    tokens=120_000,
    too_large=_voyage_tokens,
    throttled=ProviderError("You have exceeded your rate limit.", http_status=429),
    options={"model": "voyage-3-large", "batch_size": 1000},
)
GEMINI = Row(
    name="GoogleGenerativeAIEmbeddings",
    items=100,
    too_many=lambda limit, _: _google(
        400,
        "INVALID_ARGUMENT",
        f"* BatchEmbedContentsRequest.requests: at most {limit} requests can be in one batch\n",
    ),
    throttled=_google(
        429, "RESOURCE_EXHAUSTED", "You exceeded your current quota, please check your plan."
    ),
    options={"model": "models/gemini-embedding-001"},
)
VERTEX = Row(
    name="VertexAIEmbeddings",
    items=250,
    too_many=_vertex_items,
    tokens=20_000,
    too_large=_vertex_tokens,
    throttled=ProviderError("429 Quota exceeded for aiplatform.googleapis.com", code=429),
    options={"model_name": "text-embedding-005", "max_retries": 6},
)
BEDROCK = Row(
    name="BedrockEmbeddings",
    items=1,
    too_many=lambda _, __: ProviderError("Titan has no list", status_code=400),
    throttled=_bedrock(
        "ThrottlingException", "Too many requests, please wait before trying again", 429
    ),
    too_long=_bedrock(
        "ValidationException",
        "400 Bad Request: Too many input tokens. Max input tokens: 8192, request input token "
        "count: 9000",
        400,
    ),
    options={"model_id": "amazon.titan-embed-text-v2:0"},
)

ROWS = [
    Row(
        name="CohereEmbeddings",
        items=96,
        too_many=lambda limit, got: ProviderError(
            status_code=400,
            body={
                "message": f"invalid request: total number of texts must be at most {limit} - "
                f"received {got}"
            },
        ),
        throttled=TooManyRequestsError(
            status_code=429, body={"message": "You are past the per minute request limit"}
        ),
        options={"model": "embed-english-v3.0", "max_retries": 3},
    ),
    VOYAGE,
    Row(
        name="VoyageAIEmbeddings",
        items=1000,
        too_many=_voyage_items,
        tokens=320_000,
        too_large=_voyage_tokens,
        options={"model": "voyage-4"},
    ),
    Row(
        name="VoyageAIEmbeddings",
        items=1000,
        too_many=_voyage_items,
        tokens=1_000_000,
        too_large=_voyage_tokens,
        options={"model": "voyage-3.5-lite"},
    ),
    Row(
        name="MistralAIEmbeddings",
        items=512,
        too_many=lambda _, __: _mistral("Too many inputs in request, split into more batches."),
        tokens=16_384,
        too_large=lambda limit, got: _mistral(
            f"Too many tokens in batch. Max is {limit} got {got}"
        ),
        throttled=ProviderError(
            "Client error '429 Too Many Requests'", response=Response(status_code=429)
        ),
        options={"model": "mistral-embed", "max_retries": 5},
    ),
    GEMINI,
    VERTEX,
    Row(
        name="VertexAIEmbeddings",
        items=1,
        too_many=_vertex_items,
        options={"model_name": "gemini-embedding-001"},
    ),
    Row(
        name="JinaEmbeddings",
        items=2048,
        too_many=lambda limit, got: RuntimeError(f"batch of {got} is over {limit}"),
        throttled=RuntimeError("Rate limit exceeded"),
        options={"model_name": "jina-embeddings-v3"},
    ),
    BEDROCK,
    Row(
        name="BedrockEmbeddings",
        items=96,
        too_many=lambda limit, _: _bedrock(
            "ValidationException", f"#/texts: expected maximum item count: {limit}", 400
        ),
        options={"model_id": "cohere.embed-multilingual-v3"},
    ),
    Row(
        name="NVIDIAEmbeddings",
        items=50,
        too_many=lambda limit, got: ProviderError(f"[422] batch size {got} is over {limit}"),
        throttled=Exception("[429] Too Many Requests\n"),
        too_long=ProviderError(
            "[400] Bad Request\nInput length 548 exceeds maximum allowed token size 512"
        ),
        options={"model": "nvidia/nv-embedqa-e5-v5", "max_batch_size": 50},
    ),
    Row(
        name="HuggingFaceEndpointEmbeddings",
        items=32,
        too_many=lambda limit, got: ProviderError(
            f"Client error '422': batch size {got} > maximum allowed batch size {limit}",
            response=Response(status_code=422),
        ),
        throttled=ProviderError("Model is overloaded", response=Response(status_code=429)),
        too_long=ProviderError(
            "Input validation error: `inputs` must have less than 512 tokens. Given: 534",
            response=Response(status_code=413),
        ),
        options={"model": "BAAI/bge-small-en-v1.5"},
    ),
    Row(
        name="InfinityEmbeddings",
        items=128,
        too_many=lambda _, __: Exception(
            "Infinity returned an unexpected response with status 422: too many items"
        ),
        throttled=Exception("Infinity returned an unexpected response with status 503: overloaded"),
        options={"model": "BAAI/bge-small"},
    ),
    Row(
        name="OllamaEmbeddings",
        items=512,
        too_many=lambda _, __: ProviderError("request body too large", status_code=413),
        throttled=ProviderError(
            "server busy, please try again.  maximum pending requests exceeded", status_code=503
        ),
        too_long=ProviderError("the input length exceeds the context length", status_code=400),
        options={"model": "nomic-embed-text"},
    ),
    Row(
        name="HuggingFaceEmbeddings",
        items=1024,
        too_many=lambda _, got: RuntimeError(f"CUDA out of memory at {got} texts"),
        options={"model_name": "all-MiniLM-L6-v2"},
    ),
    Row(
        name="LlamaCppEmbeddings",
        items=512,
        too_many=lambda _, __: RuntimeError("llama_decode returned 1"),
        options={"model_path": "model.gguf"},
    ),
]

NAME_THEIR_LIMIT = {
    "CohereEmbeddings",
    "GoogleGenerativeAIEmbeddings",
    "HuggingFaceEndpointEmbeddings",
}


def rows(only: Callable[[Row], object] = bool) -> pytest.MarkDecorator:
    """Parametrize a test by the rows that have what it needs."""
    return pytest.mark.parametrize(
        "row", [pytest.param(row, id=row.id) for row in ROWS if only(row)]
    )


class TestEachProvider:
    """Batches keep each provider's limits; its refusals and throttles are understood."""

    @rows()
    def test_keeps_the_limits(self, row: Row) -> None:
        """No request is refused, although the provider makes 1.42 tokens of ours."""
        service = row.service()
        texts = [prose(150, i) for i in range(1500)]
        embeddings = BatchEmbeddings(
            fake(row.name, service, **row.options), hedge=False, _clock=FakeClock()
        )
        assert_right(embeddings.embed_numpy(texts), texts)
        assert service.refused == 0
        assert sorted(service.answered) == sorted(texts)

    @rows(lambda row: row.items != 1)
    def test_understands_a_refusal_of_too_many_texts(self, row: Row) -> None:
        """A provider that takes a third of the texts gets smaller requests, and every text once."""
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
        """A provider that takes a third of the tokens gets smaller requests, and each text once."""
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
        """A few refusals teach a third of the limits; the next call is refused next to nothing.

        A limit that no refusal names is tested again now and then.
        """
        service = row.service(share=1 / 3)
        if row.name in NAME_THEIR_LIMIT:
            service.max_tokens = None
        texts = [prose(100, i) for i in range(5000)]
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
        """A throttled request is sent again, once, after a wait."""
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
        """The provider refuses a whole request for one text: only that text has no vector."""
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
        """A user's own subclass has the same limits."""
        mine = type("Mine", (type(fake(row.name, Service())),), {})(Service(), **row.options)
        assert limits_of(mine).max_batch_size == row.items


class TestModels:
    """Where the models of one provider differ, the model's own limits count."""

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
        """A model that is not known gets the smallest limit of all."""
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
        """One class serves two providers, and the other one takes a single text of Gemini's."""
        limits = limits_of(
            fake("GoogleGenerativeAIEmbeddings", Service(), model=model, _use_vertexai=vertex)
        )
        assert (limits.provider, limits.max_batch_size) == expected

    def test_a_table_of_digits_fits_too(self) -> None:
        """Mistral makes a token of each digit, twice as many as are counted here: none refused."""
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
        """A request of prose holds more than twice the bytes that its limit has tokens."""
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
    """Waits in its first request for a second one to arrive beside it."""

    second = threading.Event()
    met: bool | None = None

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Note whether two requests were under way at once."""
        kind = type(self)
        if kind.met is None:
            kind.met = False
            kind.met = kind.second.wait(0.1)
        else:
            kind.second.set()
        return super().embed_documents(texts)


class TestWorkers:
    """A model on this machine gets one request at a time, a hosted one many."""

    @rows()
    def test_only_hosted_providers_get_requests_side_by_side(self, row: Row) -> None:
        """A second request only slows a local model down, or breaks it."""
        service = row.service()
        kind = type(row.name, (Meeting,), {"second": threading.Event()})
        embeddings = BatchEmbeddings(kind(service, **row.options), max_batch_size=1)
        embeddings.embed_numpy(["a", "b", "c"])
        local = ("OllamaEmbeddings", "HuggingFaceEmbeddings", "LlamaCppEmbeddings")
        assert kind.met is (row.name not in local)  # type: ignore[attr-defined]
        workers = LOCAL_WORKERS if row.name in local else REMOTE_WORKERS
        assert embeddings.limits.max_workers == workers

    def test_limits_take_the_place_of_all_that_is_known(self) -> None:
        """`limits=` overrides the provider's row, its name and workers too."""
        mine = Limits(provider="my cluster", max_batch_size=7, max_workers=3)
        service = Service()
        embeddings = BatchEmbeddings(fake("OllamaEmbeddings", service), limits=mine)
        embeddings.embed_numpy([f"section {i}" for i in range(20)])
        assert embeddings.limits == mine
        assert max(service.sizes) <= 7


class Retrying(Plain):
    """Tries so often as `max_retries` says, the first attempt among them, as tenacity does."""

    max_retries: int | None

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Send a request, and again after an error."""
        for _ in range((self.max_retries or 1) - 1):
            try:
                return super().embed_documents(texts)
            except ProviderError:
                continue
        return super().embed_documents(texts)


class Slicing(Plain):
    """Cuts a call into requests of its own."""

    batch_size: int

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Send a request for each slice."""
        size = self.batch_size
        slices = [texts[i : i + size] for i in range(0, len(texts), size)]
        return [vector for part in slices for vector in super(Slicing, self).embed_documents(part)]


class Modelled(BaseModel, Embeddings):
    """A pydantic class as the providers' own are, frozen, with a private client."""

    model_config = ConfigDict(frozen=True)
    model: str = "embed-english-v3.0"
    max_retries: int = 3
    _service: Service = PrivateAttr()

    def __init__(self, service: Service, **options: Any) -> None:
        super().__init__(**options)
        self._service = service

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Send a request, and again after an error."""
        return Retrying(self._service, max_retries=self.max_retries).embed_documents(texts)

    def embed_query(self, text: str) -> list[float]:
        """Send a request, and again after an error."""
        return self.embed_documents([text])[0]


class TestOneLayerRetries:
    """What a class retries and slices by itself does not multiply with what is done here."""

    @pytest.mark.parametrize(
        ("name", "theirs"),
        [
            ("CohereEmbeddings", 3),
            ("MistralAIEmbeddings", 5),
            ("VertexAIEmbeddings", 6),
            ("VoyageEmbeddings", 6),
        ],
    )
    def test_the_classes_own_retries_are_turned_off(self, name: str, theirs: int) -> None:
        """Three failures and a success are four requests and three retries; theirs would be one."""
        error = ProviderError("overloaded", status_code=503)
        service = Service(script=[error] * 3)
        wrapped = fake(name, service, Retrying, max_retries=theirs, model="m")
        embeddings = BatchEmbeddings(wrapped, hedge=False, _clock=FakeClock())
        assert_right(embeddings.embed_numpy(["a"]), ["a"])
        assert embeddings.last_report is not None
        assert embeddings.last_report.retries == 3

    @pytest.mark.parametrize("name", ["VoyageAIEmbeddings", "VoyageEmbeddings"])
    def test_the_classes_own_slices_are_as_large_as_a_request(self, name: str) -> None:
        """A small `batch_size` of the class does not make several requests of one call."""
        service = Service()
        wrapped = fake(name, service, Slicing, batch_size=7, model="voyage-4")
        embeddings = BatchEmbeddings(wrapped, max_workers=1, hedge=False, _clock=FakeClock())
        embeddings.embed_numpy([f"section {i}" for i in range(500)])
        assert service.sizes == [500]

    def test_nvidias_slices_are_as_large_as_the_user_says(self) -> None:
        """`max_batch_size=200` reaches the class, which would cut at 50."""
        wrapped = fake("NVIDIAEmbeddings", Service(), max_batch_size=50)
        provider = WrappedProvider(wrapped, limits=limits_of(wrapped).override(max_batch_size=200))
        assert vars(provider._embeddings)["max_batch_size"] == 200

    def test_the_users_own_object_stays_as_it_is(self) -> None:
        """Options are changed on a copy, which shares the object's client."""
        service = Service()
        wrapped = fake("CohereEmbeddings", service, Retrying, max_retries=3)
        embeddings = BatchEmbeddings(wrapped)
        embeddings.embed_numpy(["a"])
        embeddings.embed_query("b")
        assert vars(wrapped) == {"service": service, "max_retries": 3}
        assert embeddings.embeddings is wrapped
        assert service.answered == ["a", "b"]

    def test_pydantic_classes_are_copied_too_even_frozen_ones(self) -> None:
        """The providers' own classes are pydantic models with private attributes."""
        service = Service(script=[ProviderError("overloaded", status_code=503)] * 3)
        wrapped = type("CohereEmbeddings", (Modelled,), {"__module__": __name__})(service)
        embeddings = BatchEmbeddings(wrapped, hedge=False, _clock=FakeClock())
        assert_right(embeddings.embed_numpy(["a"]), ["a"])
        assert embeddings.last_report is not None
        assert (embeddings.last_report.retries, wrapped.max_retries) == (3, 3)

    def test_a_version_without_the_option_is_used_as_it_is(self) -> None:
        """Nothing is invented on an object that has no such option."""
        wrapped = fake("CohereEmbeddings", Service())
        assert WrappedProvider(wrapped, limits=limits_of(wrapped))._embeddings is wrapped

    def test_options_of_unknown_classes_are_left_alone(self) -> None:
        """What `max_retries` means is known only for known classes."""
        wrapped = fake("MyEmbeddings", Service(), Retrying, max_retries=3)
        assert WrappedProvider(wrapped, limits=limits_of(wrapped))._embeddings is wrapped

    @pytest.mark.parametrize(
        ("name", "said"),
        [
            ("BedrockEmbeddings", 'config=Config(retries={"total_max_attempts": 1}'),
            ("CohereEmbeddings", "cohere SDK"),
            ("GoogleGenerativeAIEmbeddings", "20,000 tokens"),
            ("MistralAIEmbeddings", "16,000 tokens"),
        ],
    )
    def test_what_cannot_be_turned_off_is_logged(
        self, name: str, said: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A log line says what a class goes on doing by itself, and how to stop it if one can."""
        caplog.set_level("INFO", logger="langchain_batch_embed")
        BatchEmbeddings(fake(name, Service()))
        assert f"{name}: " in caplog.text
        assert said in caplog.text

    def test_what_is_changed_is_logged(self, caplog: pytest.LogCaptureFixture) -> None:
        """A log line names the options that are changed on the copy."""
        caplog.set_level("INFO", logger="langchain_batch_embed")
        BatchEmbeddings(fake("VertexAIEmbeddings", Service(), max_retries=6))
        assert "VertexAIEmbeddings: {'max_retries': 1}, in a copy" in caplog.text


@pytest.fixture
def azure(server: LocalServer) -> Iterator[Callable[..., AzureOpenAIEmbeddings]]:
    """Make an `AzureOpenAIEmbeddings` whose requests go to the local server."""
    made: list[AzureOpenAIEmbeddings] = []

    def make(**options: Any) -> AzureOpenAIEmbeddings:
        defaults: dict[str, Any] = {
            "azure_endpoint": server.azure_endpoint,
            "api_key": "sk-test",
            "api_version": "2024-10-21",
            "model": "text-embedding-3-small",
        }
        made.append(AzureOpenAIEmbeddings(**{**defaults, **options}))
        return made[-1]

    yield make
    for embeddings in made:
        embeddings.client._client.close()


Azure = Callable[..., AzureOpenAIEmbeddings]


class TestAzure:
    """Azure gets the fast path of OpenAI, and is understood where it differs."""

    @pytest.mark.parametrize("options", [{}, {"azure_deployment": "text-embedding-3-small"}])
    def test_takes_the_raw_path(
        self, azure: Azure, clock: FakeClock, mocker: MockerFixture, options: dict[str, str]
    ) -> None:
        """The class's own `embed_documents` is not asked, and the vectors are right."""
        slow = mocker.patch.object(AzureOpenAIEmbeddings, "embed_documents")
        texts = [f"section {i}" for i in range(300)]
        embeddings = BatchEmbeddings(azure(**options), hedge=False, _clock=clock)
        assert embeddings.limits.provider == "Azure OpenAI"
        assert_right(embeddings.embed_numpy(texts), texts)
        slow.assert_not_called()

    def test_signs_in_with_a_token_provider(self, azure: Azure, server: LocalServer) -> None:
        """Microsoft Entra's tokens, which are fetched anew when they run out, go along."""
        server.configure(api_key="a-token")
        wrapped = azure(api_key=None, azure_ad_token_provider=lambda: "a-token")
        assert_right(BatchEmbeddings(wrapped).embed_numpy(["a"]), ["a"])

    def test_learns_no_quota_from_headers_without_a_limit(
        self, azure: Azure, server: LocalServer, clock: FakeClock
    ) -> None:
        """Azure says what remains but not of how much, so nothing is concluded from it."""
        server.configure(tokens_per_minute=100_000_000, requests_per_minute=100_000)
        embeddings = BatchEmbeddings(azure(), max_batch_size=50, hedge=False, _clock=clock)
        texts = [f"section {i}" for i in range(1000)]
        assert_right(embeddings.embed_numpy(texts), texts)
        pacer = embeddings._pipeline.dispatcher.sender.pacer
        assert (pacer.tokens.rate, pacer.requests.rate, clock.time) == (None, None, 0.0)

    def test_waits_as_long_as_the_text_says(
        self, azure: Azure, server: LocalServer, clock: FakeClock
    ) -> None:
        """`Please retry after 46 seconds`, twice, with no header: twice 46 s, then all is right.

        Refused twice although it waited as long as it was told, the batch is sent in parts.
        """
        server.configure(script=("429_azure", "429_azure"), retry_after=46, refusal_hint="text")
        embeddings = BatchEmbeddings(
            azure(), max_workers=1, max_batch_size=100, hedge=False, _clock=clock
        )
        texts = [f"section {i}" for i in range(500)]
        assert_right(embeddings.embed_numpy(texts), texts)
        assert 92 <= clock.time < 100
        by_status = server.stats()["by_status"]
        assert by_status["429"] == 2
        assert by_status["200"] <= 10

    def test_an_old_deployment_teaches_its_limit(
        self, azure: Azure, server: LocalServer, clock: FakeClock
    ) -> None:
        """`The max number of inputs is 16.` is told once, and kept from then on."""
        server.configure(max_inputs=16)
        embeddings = BatchEmbeddings(azure(), max_workers=1, hedge=False, _clock=clock)
        texts = [f"section {i}" for i in range(160)]
        assert_right(embeddings.embed_numpy(texts), texts)
        assert server.stats()["by_status"] == {"200": 10, "400": 1}

    def test_the_sdks_retries_are_off(
        self, azure: Azure, server: LocalServer, clock: FakeClock
    ) -> None:
        """Each failure is seen, and counted, by us; the SDK's retries would hide four of five."""
        server.configure(script=("500",) * 5)
        wrapped = azure(max_retries=4)
        embeddings = BatchEmbeddings(wrapped, hedge=False, _clock=clock)
        assert_right(embeddings.embed_numpy(["a"]), ["a"])
        assert embeddings.last_report is not None
        assert server.stats()["by_status"]["500"] == 5
        assert embeddings.last_report.requests == server.stats()["requests"]
        assert wrapped.client._client.max_retries == 4

    def test_a_wrong_key_ends_the_call_at_once(
        self, azure: Azure, server: LocalServer, clock: FakeClock
    ) -> None:
        """No retry and no halving helps against a 401."""
        server.configure(api_key="another")
        with pytest.raises(openai.AuthenticationError):
            BatchEmbeddings(azure(), hedge=False, _clock=clock).embed_query("a")
        assert server.stats()["requests"] <= 5
        assert clock.time <= 5


def test_another_class_of_openais_name_goes_through_its_own_methods() -> None:
    """langchain-community has an `OpenAIEmbeddings` too, which is built differently."""
    service = Service()
    embeddings = BatchEmbeddings(fake("OpenAIEmbeddings", service))
    assert embeddings.limits.provider == "OpenAI"
    assert_right(embeddings.embed_numpy(["a", "b"]), ["a", "b"])
    assert sorted(service.answered) == ["a", "b"]


def test_a_users_subclass_of_openais_class_keeps_the_raw_path(
    server: LocalServer, mocker: MockerFixture
) -> None:
    """Deriving from `OpenAIEmbeddings` costs no speed."""

    class Mine(OpenAIEmbeddings):
        """A user's own."""

    slow = mocker.patch.object(OpenAIEmbeddings, "embed_documents")
    wrapped = Mine(base_url=server.url, api_key=SecretStr("sk-test"))
    assert_right(BatchEmbeddings(wrapped).embed_numpy(["a"]), ["a"])
    slow.assert_not_called()
    wrapped.client._client.close()


class Prefixed(OpenAIEmbeddings):
    """Puts a prefix before each text, as some models want it."""

    def embed_documents(
        self, texts: list[str], chunk_size: int | None = None, **options: Any
    ) -> list[list[float]]:
        """Embed passages."""
        passages = [f"passage: {text}" for text in texts]
        return super().embed_documents(passages, chunk_size, **options)

    def embed_query(self, text: str, **options: Any) -> list[float]:
        """Embed a question."""
        return super().embed_documents([f"query: {text}"], **options)[0]


class TestOwnMethods:
    """A subclass of OpenAI's class that embeds in its own way is asked itself."""

    @pytest.fixture
    def wrapped(self, server: LocalServer) -> Iterator[Prefixed]:
        """Return one that sends strings, for which it needs no vocabulary."""
        made = Prefixed(
            base_url=server.url, api_key=SecretStr("sk-test"), check_embedding_ctx_length=False
        )
        yield made
        made.client._client.close()

    def test_its_vectors_are_those_that_it_makes_itself(self, wrapped: Prefixed) -> None:
        """A prefix is not lost, of documents or of a query."""
        embeddings = BatchEmbeddings(wrapped)
        assert embeddings.limits.provider == "OpenAI"
        assert_right(embeddings.embed_numpy(["a", "b"]), ["passage: a", "passage: b"])
        assert_right([embeddings.embed_query("a")], ["query: a"])

    def test_they_are_others_in_a_journal(self, wrapped: Prefixed, tmp_path: Path) -> None:
        """The plain class's vectors for the same text are not taken for them."""
        plain = OpenAIEmbeddings(base_url=wrapped.openai_api_base, api_key=SecretStr("sk-test"))
        journal = tmp_path / "journal.db"
        assert_right(BatchEmbeddings(plain, journal=journal).embed_numpy(["a"]), ["a"])
        own = BatchEmbeddings(wrapped, journal=journal)
        assert_right(own.embed_numpy(["a"]), ["passage: a"])
        plain.client._client.close()

    def test_one_call_is_one_request_and_none_is_sent_twice(
        self, wrapped: Prefixed, server: LocalServer, clock: FakeClock
    ) -> None:
        """It slices and retries nothing itself, in a copy: the object stays as it is."""
        embeddings = BatchEmbeddings(
            wrapped, max_workers=1, max_retries=0, hedge=False, _clock=clock
        )
        texts = [f"section {i}" for i in range(2000)]
        assert_right(embeddings.embed_numpy(texts), [f"passage: {text}" for text in texts])
        assert server.stats()["requests"] == 1
        server.configure(script=("503",))
        with pytest.raises(openai.InternalServerError):
            embeddings.embed_query("a")
        assert server.stats()["requests"] == 1
        assert (wrapped.chunk_size, wrapped.client._client.max_retries) == (1000, 2)


class TestCopies:
    """A copy, or what is unpickled in another process, embeds as the original does."""

    class Private(OpenAIEmbeddings):
        """Keeps its prefix where pydantic does not look."""

        _prefix: str = PrivateAttr("")
        _calls: int = PrivateAttr(0)
        _lock: threading.Lock = PrivateAttr(default_factory=threading.Lock)

        def embed_documents(
            self, texts: list[str], chunk_size: int | None = None, **options: Any
        ) -> list[list[float]]:
            """Put the prefix before each text."""
            with self._lock:
                self._calls += 1
            texts = [self._prefix + text for text in texts]
            return super().embed_documents(texts, chunk_size, **options)

    @pytest.fixture
    def make(self, server: LocalServer) -> Iterator[Callable[[str], OpenAIEmbeddings]]:
        """Return what makes one with a prefix."""
        made: list[OpenAIEmbeddings] = []

        def make(prefix: str) -> OpenAIEmbeddings:
            wrapped = self.Private(
                base_url=server.url, api_key=SecretStr("k"), check_embedding_ctx_length=False
            )
            wrapped._prefix = prefix
            made.append(wrapped)
            return wrapped

        yield make
        for wrapped in made:
            wrapped.client._client.close()

    @pytest.mark.parametrize(
        "again",
        [copy.copy, copy.deepcopy, lambda it: pickle.loads(pickle.dumps(it))],  # noqa: S301
    )
    def test_private_attributes_are_copied(
        self,
        make: Callable[[str], OpenAIEmbeddings],
        again: Callable[[BatchEmbeddings], BatchEmbeddings],
    ) -> None:
        """Plain ones: without its prefix it would make other vectors, and nobody would know."""
        other = again(BatchEmbeddings(make("p: ")))
        assert_right(other.embed_numpy(["a"]), ["p: a"])
        assert isinstance(other.embeddings, OpenAIEmbeddings)
        other.embeddings.client._client.close()

    def test_private_attributes_tell_vectors_apart(
        self, make: Callable[[str], OpenAIEmbeddings]
    ) -> None:
        """In a journal, those of one prefix are not taken for those of another."""
        one, other = make("p: "), make("q: ")
        spaces = [BatchEmbeddings(each)._pipeline.provider.space for each in (one, other)]
        assert spaces[0] != spaces[1]
        one.embed_documents(["counts its calls"])
        assert BatchEmbeddings(one)._pipeline.provider.space == spaces[0]

    def test_a_client_of_the_users_own_cannot_be_copied(self, server: LocalServer) -> None:
        """The copy would send the texts to another server, so it is an error."""
        own = openai.OpenAI(base_url=server.url, api_key="k")
        embeddings = BatchEmbeddings(
            OpenAIEmbeddings(client=own.embeddings, api_key=SecretStr("k"))
        )
        assert_right(embeddings.embed_numpy(["a"]), ["a"])
        with pytest.raises(OptionError, match="base_url= rather than"):
            copy.copy(embeddings)
        own.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
class TestForks:
    """A child process neither reads its parent's answers nor waits for its threads."""

    def fork(self, embeddings: BatchEmbeddings, expected: str = "child") -> None:
        """Embed a text in a child, and wait for its end."""

        def child() -> None:
            assert_right(embeddings.embed_numpy(["child"]), [expected])

        process = multiprocessing.get_context("fork").Process(target=child)
        process.start()
        process.join(30)
        assert process.exitcode == 0

    def test_each_process_has_connections_of_its_own(
        self, batch: Batch, server: LocalServer
    ) -> None:
        """Both go on after a fork, and both get their own vectors."""
        embeddings = batch()
        embeddings.embed_documents(["before"])
        self.fork(embeddings)
        assert_right(embeddings.embed_numpy(["parent"]), ["parent"])
        assert server.stats()["connections"] == 2

    def test_a_child_that_was_forked_from_a_child_has_too(
        self, batch: Batch, server: LocalServer
    ) -> None:
        """Nothing was sent by the one between, and another object used the same client."""
        used = batch()
        used.embed_documents(["before"])
        embeddings = batch(used.embeddings)

        def child() -> None:
            assert embeddings.last_report is None
            self.fork(embeddings)

        process = multiprocessing.get_context("fork").Process(target=child)
        process.start()
        process.join(30)
        assert process.exitcode == 0
        assert_right(used.embed_numpy(["parent"]), ["parent"])
        assert server.stats()["connections"] == 2

    def test_a_subclass_that_is_asked_itself_has_too(
        self, batch: Batch, server: LocalServer
    ) -> None:
        """The same holds where its own methods send."""
        wrapped = Prefixed(
            base_url=server.url, api_key=SecretStr("k"), check_embedding_ctx_length=False
        )
        embeddings = batch(wrapped)
        embeddings.embed_documents(["before"])
        self.fork(embeddings, "passage: child")
        assert_right(embeddings.embed_numpy(["parent"]), ["passage: parent"])
        assert server.stats()["connections"] == 2
        wrapped.client._client.close()

    def test_what_is_under_way_in_the_parent_is_not_waited_for(
        self, batch: Batch, server: LocalServer
    ) -> None:
        """Neither its requests nor its prefetches: their threads are not in the child."""
        server.configure(script=("hang",), hang_seconds=2)
        embeddings = batch(max_workers=1, max_retries=1, _clock=SYSTEM_CLOCK)
        with embeddings.prefetch(["child"]) as prefetch:
            wait_until(lambda: server.stats()["requests"] == 1)
            self.fork(embeddings)
            assert prefetch._running
            assert_right(embeddings.embed_numpy(["child"]), ["child"])

    def test_a_users_own_http_client_is_not_shared(
        self,
        batch: Batch,
        openai_embeddings: Callable[..., OpenAIEmbeddings],
        mocker: MockerFixture,
    ) -> None:
        """It may have a proxy, so there is no other one like it: an error says what to do."""
        own = openai.DefaultHttpxClient()
        used, unused = (batch(openai_embeddings(http_client=own)) for _ in range(2))
        used.embed_documents(["before"])
        mocker.patch("os.getpid", return_value=os.getpid() + 1)
        with pytest.raises(BatchEmbeddingsError, match="BatchEmbeddings in each process"):
            used.embed_query("after")
        assert_right([unused.embed_query("after")], ["after"])


def test_the_time_out_holds_for_a_subclass_that_is_asked_itself(server: LocalServer) -> None:
    """Its client is told ours, in a copy of the object."""
    server.configure(script=("hang",), hang_seconds=5)
    wrapped = Prefixed(
        base_url=server.url, api_key=SecretStr("k"), check_embedding_ctx_length=False
    )
    embeddings = BatchEmbeddings(wrapped, timeout=0.3, max_retries=1, deadline=4)
    assert_right(embeddings.embed_numpy(["a"]), ["passage: a"])
    assert embeddings.last_report is not None
    assert embeddings.last_report.retries == 1
    wrapped.client._client.close()


@pytest.mark.parametrize(
    ("given", "seconds"),
    [(2, 2), (2.5, 2.5), ((2.0, 3.0), 3), (openai.Timeout(4), 4), (openai.Timeout(None), 120)],
)
def test_the_wrapped_objects_time_out_is_kept(
    batch: Batch,
    openai_embeddings: Callable[..., OpenAIEmbeddings],
    given: Any,
    seconds: float,
) -> None:
    """In each form that the SDK takes; 120 seconds where it has none."""
    embeddings = batch(openai_embeddings(timeout=given))
    assert embeddings._pipeline.dispatcher.sender.timeout == seconds


def test_the_wrapped_objects_context_length_is_kept(
    batch: Batch,
    openai_embeddings: Callable[..., OpenAIEmbeddings],
    server: LocalServer,
) -> None:
    """A compatible server's shorter one, which `OpenAIEmbeddings` was told; our option wins."""
    server.configure(max_tokens_per_input=512)
    wrapped = openai_embeddings(embedding_ctx_length=512)
    assert batch(wrapped).embed_numpy(["word " * 2000, "a"]).shape[0] == 2
    assert batch(wrapped, max_tokens_per_input=300).limits.max_tokens_per_input == 300


def test_an_unknown_class_works() -> None:
    """Any `Embeddings` can be wrapped, one that tells no model too."""
    wrapped = DeterministicFakeEmbedding(size=3)
    texts = [f"section {i}" for i in range(250)]
    got = BatchEmbeddings(wrapped).embed_documents(texts)
    np.testing.assert_allclose(got, wrapped.embed_documents(texts), rtol=1e-6)


class TestSpaces:
    """Vectors that are not the same are not the same in a journal."""

    class Server(Embeddings):
        """One that can be told how to make its vectors."""

        def __init__(self, *, api_key: str = "k", **options: Any) -> None:
            self.model = "m"
            self.api_key = api_key
            self.options = options
            self.client = object()

        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            """Return what does not matter."""
            return [[1.0] for _ in texts]

        def embed_query(self, text: str) -> list[float]:
            """Return what does not matter."""
            return [float(len(text))]

    def space(self, **options: Any) -> object:
        """Return the space of an object with these options."""
        return BatchEmbeddings(self.Server(**options))._pipeline.provider.space

    def test_options_of_a_wrapped_object_tell_its_vectors_apart(self) -> None:
        """Whatever it has in plain attributes, such as a prefix or the server's address."""
        assert self.space(normalize=True) == self.space(normalize=True)
        assert self.space(normalize=True) != self.space(normalize=False)
        assert self.space(encode={"prompt": "query: "}) != self.space(encode={"prompt": ""})
        assert self.space(base_url="http://a") != self.space(base_url="http://b")

    def test_what_is_not_plain_hides_nothing_beside_it(self) -> None:
        """An object among the options is left out, alone."""
        one = {"prompt": "query: ", "pool": object(), "sizes": [1, object()]}
        assert self.space(encode=one) == self.space(encode={**one, "pool": object()})
        assert self.space(encode=one) != self.space(encode={**one, "prompt": ""})
        assert self.space(encode=one) != self.space(encode={**one, "sizes": [2, object()]})

    def test_a_new_key_is_no_other_space(self) -> None:
        """It changes no vector, and is nothing to be told of, even as a digest."""
        assert self.space(api_key="old") == self.space(api_key="new")
