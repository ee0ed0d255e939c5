"""Sends through the OpenAI SDK: to OpenAI, Azure and every server that speaks their protocol.

The SDK's raw response gives the headers, and base64 without a detour over Python floats.
"""

import re
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from types import FunctionType
from typing import TYPE_CHECKING, Any

from langchain_batch_embed.errors import OptionError, ResponseError
from langchain_batch_embed.journal import Space
from langchain_batch_embed.limits import Limits, attribute, is_hosted_by_openai
from langchain_batch_embed.providers.copies import Connections, client_of
from langchain_batch_embed.providers.decoding import OrderError, read_answer
from langchain_batch_embed.providers.identity import digest
from langchain_batch_embed.providers.provider import Answer
from langchain_batch_embed.providers.socket_deadline import limit_reads, time_limit
from langchain_batch_embed.providers.urls import shown

if TYPE_CHECKING:  # a wrapped OpenAIEmbeddings has imported it; nobody else needs it
    from langchain_openai import OpenAIEmbeddings

__all__ = ["OpenAIProvider", "seconds_of"]

_AROUND = 100
"""Tokens that a server may add to a text: two or three marks, and the instruction of E5, Qwen3 or
Instructor models, which has 10 to 40 tokens."""

_FORMAT = re.compile(r"encoding|base64", re.IGNORECASE)
"""A refusal with one of these words may be about `encoding_format`."""

_ELSE = re.compile(
    r"\b(?:input|inputs|text|texts|tokens?|length|large|long|batch|model|dimensions?|array|empty|"
    r"quota|rate|limit|key)\b",
    re.IGNORECASE,
)
"""A refusal with one of these words, and none of those, is about something else."""

_REFUSALS = frozenset({400, 406, 415, 422, 501})
"""Statuses of requests that a server does not understand, or does not want."""

_MOST_TRIES = 3
"""Refused requests that are sent once more in another form, while no answer has come."""

_SUSPECT_ANSWERS = 2
"""Answers in no certain order after which the server is not asked again. One may be spoilt."""


@dataclass(frozen=True, slots=True)
class _Form:
    """How a request is written.

    Attributes:
        encoding: the `encoding_format`.
        empty: what is sent for an empty text.
    """

    encoding: str | None = "base64"
    empty: str = ""


_BESIDE_THE_BODY = frozenset({"extra_headers", "extra_query", "timeout"})
"""Options of the SDK that are not in the body of a request."""


class OpenAIProvider:
    """Sends through the OpenAI SDK, with its own retrying turned off."""

    def __init__(
        self,
        embeddings: "OpenAIEmbeddings",
        *,
        limits: Limits,
        model: str | None = None,
        connections: Connections = "ours",
        replaces_empty: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.client = client = client_of(embeddings, connections)
        limit_reads(client._client)  # noqa: SLF001  # no public way to it
        self._resource = client.embeddings
        named: str = attribute(embeddings, "model") or ""
        self.model: str | None = model or named or None
        self.encoding: str | None = attribute(embeddings, "tiktoken_model_name") or named or None
        self._request_timeout = attribute(embeddings, "request_timeout")
        self.timeout = seconds_of(self._request_timeout)
        self._clock = clock
        url = str(client.base_url)
        self.address = shown(url)
        # A gateway or a private server only speaks the same protocol.
        self.is_known = is_hosted_by_openai(url)
        self.name = limits.provider if self.is_known else self.address
        self.dimensions: int | None = attribute(embeddings, "dimensions")
        # What OpenAIEmbeddings does with the texts of first-generation models.
        self._joins_lines = named.endswith("001")
        extra: dict[str, Any] = attribute(embeddings, "model_kwargs") or {}
        self._options: dict[str, Any] = {**extra, "model": named}
        if self.dimensions is not None:
            self._options["dimensions"] = self.dimensions
        own = {**extra, **(extra.get("extra_body") or {})}
        self._is_form_fixed = self.is_known or "encoding_format" in own
        self._form = _Form(encoding=own.get("encoding_format", "base64"))
        self._replaces_empty = replaces_empty
        if replaces_empty and self.is_known:
            self._form = replace(self._form, empty=" ")  # "input cannot be an empty string"
        self._has_answered = False
        self._tries = 0  # of other forms
        self._suspects = 0  # answers in no certain order, before any in order
        self.space = Space(
            provider=limits.provider,
            model=named,
            dimensions=self.dimensions,
            endpoint=url,
            variant=digest(extra),
        )

    def send(self, texts: Sequence[str], *, timeout: float) -> Answer:
        """Send one request that ends within `timeout` seconds, and check its answer.

        A refusal of base64, or of an empty text, is answered with what the server takes instead.
        """
        if self._joins_lines:
            texts = [text.replace("\n", " ") for text in texts]
        end = self._clock() + timeout
        form = self._form
        try:
            return self._ask(texts, form, end, timeout)
        except Exception as error:
            other = self._other_form(form, error, texts)
            if other is None:
                raise
            try:
                answer = self._ask(texts, other, end, timeout)
            except Exception:  # noqa: BLE001  # then the form was not the cause
                raise error from None
            self._form = other
            return answer

    send_query = send
    """OpenAI embeds a query as it does a document."""

    @property
    def empty_in_batches(self) -> str:
        """What a batch has for an empty text: it cannot be tried there what the server takes."""
        return " " if self._replaces_empty else ""

    def request_body(self) -> dict[str, Any]:
        """Return the JSON of a request but for its texts, for a batch.

        Raises:
            OptionError: a request has more than a body, or its texts are changed on their way.
        """
        options = dict(self._options)
        body = options.pop("extra_body", None) or {}
        others = sorted(name for name in options if name in _BESIDE_THE_BODY)
        if others:
            raise OptionError(
                f"the Batch API sends no {', '.join(others)}; leave them out of model_kwargs"
            )
        if self._joins_lines:
            raise OptionError("the Batch API is not for OpenAI's first-generation models")
        return {**options, **body, "encoding_format": self._form.encoding}

    def _ask(self, texts: Sequence[str], form: _Form, end: float, timeout: float) -> Answer:
        if form.empty and "" in texts:
            texts = [text or form.empty for text in texts]
        body = {**(self._options.get("extra_body") or {}), "input": texts}
        options = {**self._options, "extra_body": body, "encoding_format": form.encoding}
        chunks: list[bytes] = []
        with (
            time_limit(end, self._clock),
            self._created(
                texts, timeout=timeout_of(self._request_timeout, timeout), **options
            ) as response,
        ):
            for chunk in response.iter_bytes():
                chunks.append(chunk)
                # The SDK's time-out is for each read, and a server that drips never meets it. Some
                # connections do not keep the time limit either.
                if self._clock() > end:
                    raise TimeoutError(f"the answer was not complete after {timeout:g} s")
            headers = response.headers
        try:
            vectors, tokens, model = read_answer(
                _joined(chunks),
                expected=len(texts),
                dimensions=self.dimensions,
                most_tokens=_most_tokens(texts),
            )
        except OrderError as error:
            raise self._judged(error) from None
        self._suspects -= len(texts) > 1  # the server can number its vectors
        self._has_answered = True
        return Answer(vectors=vectors, tokens=tokens, model=model, headers=headers)

    def _created(self, texts: Sequence[str], **options: Any) -> AbstractContextManager[Any]:
        """Call the SDK, and with it whatever traces its calls.

        The SDK inspects every item of `input`, which takes 22 ms for 2,048 texts. `extra_body` is
        put over it unseen, so the texts are given twice only where somebody looks at the call.
        """
        streaming = type(self._resource.with_streaming_response)(self._resource)
        is_watched = not _is_the_sdks_own(type(self._resource).create)
        return streaming.create(input=list(texts) if is_watched else [], **options)

    def _other_form(self, form: _Form, error: Exception, texts: Sequence[str]) -> _Form | None:
        """Return the form in which a refused request may be taken; `None`: there is no other."""
        if self._form != form:
            return self._form  # another request has found it
        status = attribute(error, "status_code")
        if self._replaces_empty and not form.empty and "" in texts and status in _REFUSALS:
            return replace(form, empty=" ")
        if self._is_form_fixed or self._has_answered or self._tries >= _MOST_TRIES:
            return None
        told = f"{attribute(error, 'message')} {attribute(error, 'body')}"
        is_named = _FORMAT.search(told) is not None
        is_dark = not is_named and not self._tries and _ELSE.search(told) is None
        if (is_named and status in {*_REFUSALS, 500}) or (is_dark and status in _REFUSALS):
            self._tries += 1
            return replace(form, encoding="float")
        return None

    def _judged(self, error: OrderError) -> ResponseError:
        """Return an answer in no certain order as what it is: spoilt, or this server's way."""
        self._suspects += 1
        if self._suspects < _SUSPECT_ANSWERS:
            return error
        return ResponseError(
            f"{error}: it cannot be told which vector is whose. With max_batch_size=1 there is "
            "no doubt",
            is_final=True,
        )


def seconds_of(timeout: Any) -> float | None:
    """Return the seconds for reading, from a time-out in any form that the SDK takes."""
    if isinstance(timeout, tuple):  # connect, read, and perhaps others
        timeout = timeout[1]
    timeout = getattr(timeout, "read", timeout)  # of `httpx.Timeout`
    return float(timeout) if isinstance(timeout, int | float) else None


def timeout_of(given: Any, seconds: float) -> Any:
    """Return the time-out of one request, with those parts that the user made shorter.

    Args:
        given: the wrapped object's time-out, in any form that the SDK takes.
        seconds: for the request; reading has all of them.
    """
    if isinstance(given, tuple):
        parts = dict(zip(("connect", "read", "write", "pool"), given, strict=False))
    elif hasattr(given, "connect"):
        parts = {name: attribute(given, name) for name in ("connect", "write", "pool")}
    else:
        return seconds
    shorter = {
        name: min(seconds, parts[name]) if isinstance(parts.get(name), int | float) else seconds
        for name in ("connect", "write", "pool")
    }
    return sys.modules["openai"].Timeout(read=seconds, **shorter)


def _is_the_sdks_own(function: Any) -> bool:
    """Tell whether a method is the SDK's, and not what a tracing package or a test put there."""
    home = attribute(sys.modules.get("openai.resources.embeddings"), "__file__")
    return (
        isinstance(function, FunctionType)
        and function.__code__.co_filename == home
        and not hasattr(function, "__wrapped__")
    )


def _most_tokens(texts: Sequence[str]) -> int:
    """Return how many tokens texts can have at most, by any tokenizer.

    A token has at least one byte, and a character at most four bytes in UTF-8. The rest is room for
    what a server adds to each text.
    """
    return 4 * sum(map(len, texts)) + _AROUND * len(texts)


def _joined(chunks: list[bytes]) -> bytes:
    """Join the chunks and drop them, as an answer has 17 MB and many are read at a time."""
    body = b"".join(chunks)
    chunks.clear()
    return body
