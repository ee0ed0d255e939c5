"""The limits, refusals and throttles of each provider, in the provider's own words.

Errors have the form that the real class gives them. Their words are quoted from public reports
where there are any, and invented where there are none.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.providers.fakes import (
    ProviderError,
    Response,
    Service,
    TooManyRequestsError,
    raised_from,
)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One provider with its limits and its errors for requests beyond them.

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
        """Return the row's name, with its model where that matters."""
        return "-".join([self.name, *map(str, self.options.values())])

    def service(self, *, share: float = 1, **options: Any) -> Service:
        """Return the provider's service, with this share of its documented limits."""
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
