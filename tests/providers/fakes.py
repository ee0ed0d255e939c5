"""Classes and services that stand in for providers whose packages need not be installed.

A fake has the real class's name, its options, and the limits and errors of its provider.
"""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from langchain_core.embeddings import Embeddings
from langchain_openai import OpenAIEmbeddings

from langchain_batch_embed.simulator import vectors
from langchain_batch_embed.texts.tokens import ToktokCounter, count_bytes

WIDTH = 8


COUNTER = ToktokCounter("cl100k_base")


DENSER = 1.42
"""Tokens for one token of cl100k_base, the highest ratio measured for prose, in Vietnamese."""


Count = Callable[[Sequence[str]], int]


class ProviderError(Exception):
    """An SDK's exception, with the attributes that its provider's SDK gives it."""

    def __init__(self, text: str = "", /, **attributes: Any) -> None:
        super().__init__(text)
        vars(self).update(attributes)


class TooManyRequestsError(ProviderError):
    """An exception with the name that cohere and boto3 use, which also marks a throttle."""


@dataclass
class Response:
    """The `response` of an exception of httpx or requests."""

    status_code: int
    headers: Mapping[str, str] = field(default_factory=dict)


def raised_from(cause: Exception) -> Exception:
    """Return the exception that a LangChain class raises around the SDK's exception."""
    error = ProviderError(f"Error embedding content: {cause}")
    error.__cause__ = cause
    return error


def dense(texts: Sequence[str]) -> int:
    """Count tokens as a provider with a smaller vocabulary than OpenAI's does."""
    return int(np.ceil(COUNTER.count(texts) * DENSER).sum())


def letters(texts: Sequence[str]) -> int:
    """Count each letter as a token, as Mistral's tokenizers count digits."""
    return int(count_bytes(texts).sum())


class Service:
    """The service behind a fake, which enforces limits and records its requests.

    Args:
        max_items: texts in one request.
        max_tokens: tokens in one request, by `count`.
        too_many: makes the error for too many texts, given their number.
        too_large: makes the error for too many tokens, given their number.
        script: errors for the first requests; `None` stands for an answer.
        unwanted: a text that contains this is refused, with its whole request.
        refusal: the error for that text.
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
        self.lock = threading.Lock()  # guards everything below
        self.sizes: list[int] = []
        self.refused = 0
        self.answered: list[str] = []

    def answer(self, texts: Sequence[str]) -> list[list[float]]:
        """Answer one request, or refuse it as the provider would."""
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
        """Return the error for a request, or `None` if it is accepted."""
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
    """An `Embeddings` that is no pydantic model and sends one request a call."""

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
    """Return an object whose class has this name."""
    made: Plain = type(name, (base,), {"__module__": __name__})(service, **options)
    return made


class Prefixed(OpenAIEmbeddings):
    """An `OpenAIEmbeddings` that puts a prefix before each text, as some models require."""

    def embed_documents(
        self, texts: list[str], chunk_size: int | None = None, **options: Any
    ) -> list[list[float]]:
        """Embed passages."""
        passages = [f"passage: {text}" for text in texts]
        return super().embed_documents(passages, chunk_size, **options)

    def embed_query(self, text: str, **options: Any) -> list[float]:
        """Embed a question."""
        return super().embed_documents([f"query: {text}"], **options)[0]
