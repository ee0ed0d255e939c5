"""Sends through the OpenAI SDK to OpenAI, Azure and every server that speaks their protocol.

The SDK's raw response gives access to the headers, and to base64 without a detour through Python
floats.
"""

import re
import sys
import threading
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

if TYPE_CHECKING:  # only a wrapped OpenAIEmbeddings needs it, and has imported it
    from langchain_openai import OpenAIEmbeddings

__all__ = ["OpenAIProvider", "seconds_of"]

_AROUND = 100
"""Tokens that a server may add to a text: two or three special tokens, and the instruction of E5,
Qwen3 or Instructor models, which has 10 to 40 tokens."""

_FORMAT = re.compile(r"encoding|base64", re.IGNORECASE)
"""A refusal with one of these words may be about `encoding_format`."""

_ELSE = re.compile(
    r"\b(?:input|inputs|text|texts|tokens?|length|large|long|batch|model|dimensions?|array|empty|"
    r"quota|rate|limit|key)\b",
    re.IGNORECASE,
)
"""A refusal with one of these words, and none of those above, is about something else."""

_REFUSALS = frozenset({400, 406, 415, 422, 501})
"""Statuses with which a server rejects a request that it does not understand or support."""

_MOST_TRIES = 3
"""After this many requests that were refused in another form too, the form is not the cause."""

_SUSPECT_ANSWERS = 2
"""After this many answers whose order is unclear, stop asking the server. A single one may be
corrupted."""


@dataclass(frozen=True, slots=True)
class _Form:
    """How a request is written.

    Attributes:
        encoding: the `encoding_format`.
        empty: the string that is sent for an empty text.
    """

    encoding: str | None = "base64"
    empty: str = ""


_BESIDE_THE_BODY = frozenset({"extra_headers", "extra_query", "timeout"})
"""Options of the SDK that are not part of a request's body."""


class OpenAIProvider:
    """Sends through the OpenAI SDK, with the SDK's own retries turned off."""

    shares_queries = True

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
        limit_reads(client._client)  # noqa: SLF001  # there is no public access to it
        self._resource = client.embeddings
        named: str = attribute(embeddings, "model") or ""
        self.model: str | None = model or named or None
        self.encoding: str | None = attribute(embeddings, "tiktoken_model_name") or named or None
        self._request_timeout = attribute(embeddings, "request_timeout")
        self.timeout = seconds_of(self._request_timeout)
        self._clock = clock
        url = str(client.base_url)
        self.address = shown(url)
        self.class_name = type(embeddings).__name__
        # Only OpenAI's and Azure's hosts. A gateway or a private server just speaks the protocol.
        self.is_known = is_hosted_by_openai(url)
        self.name = limits.provider if self.is_known else self.address
        self.dimensions: int | None = attribute(embeddings, "dimensions")
        # OpenAIEmbeddings does this with the texts of first-generation models.
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
        self._trying = threading.Lock()  # held by the one request that tries another form
        self._tries = 0  # requests that were refused in another form too
        self._suspects = 0  # answers whose order is unclear, less those with a clear order
        self.space = Space(
            provider=limits.provider,
            model=named,
            dimensions=self.dimensions,
            endpoint=url,
            variant=digest(extra),
        )

    def send(self, texts: Sequence[str], *, timeout: float) -> Answer:
        """Send one request that ends within `timeout` seconds, and check its answer.

        If the server refuses base64 or an empty text, the request is sent once more in a form that
        the server may accept. Of several such requests one tries that form, and the others wait.
        """
        if self._joins_lines:
            texts = [text.replace("\n", " ") for text in texts]
        end = self._clock() + timeout
        form = self._form
        try:
            return self._ask(texts, form, end, timeout)
        except Exception as error:
            if self._other_form(form, error, texts) is None:
                raise
            refusal = error
        if not self._trying.acquire(timeout=max(0.0, end - self._clock())):
            raise TimeoutError(f"no other form of the request was answered within {timeout:g} s")
        try:
            other = self._other_form(form, refusal, texts)
            if other is None:
                raise refusal
            if other != self._form:
                return self._try(texts, other, refusal, end, timeout)
        finally:
            self._trying.release()
        return self._ask(texts, other, end, timeout)  # it has just been found

    def _try(
        self, texts: Sequence[str], form: _Form, refusal: Exception, end: float, timeout: float
    ) -> Answer:
        """Send a refused request in another form, which is kept if it is answered."""
        try:
            answer = self._ask(texts, form, end, timeout)
        except Exception as error:
            if attribute(error, "status_code") not in {*_REFUSALS, 500}:
                raise  # a 429, for example, says nothing about the form
            self._tries += 1
            raise refusal from None  # the form was not the cause
        self._form = form
        return answer

    send_query = send
    """OpenAI embeds a query in the same way as a document."""

    @property
    def empty_in_batches(self) -> str:
        """The string sent for an empty text in the Batch API, where no second form can be tried."""
        return " " if self._replaces_empty else ""

    def request_body(self) -> dict[str, Any]:
        """Return the JSON of a request without its texts, for the Batch API.

        Raises:
            OptionError: the options include some outside the body, or the model needs its texts
                changed before they are sent.
        """
        options = dict(self._options)
        body = options.pop("extra_body", None) or {}
        others = sorted(name for name in options if name in _BESIDE_THE_BODY)
        if others:
            raise OptionError(
                f"the Batch API cannot send {', '.join(others)}; leave them out of model_kwargs"
            )
        if self._joins_lines:
            raise OptionError(
                "submit does not support OpenAI's first-generation models; use embed_documents"
            )
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
                # The SDK's time-out applies to each read, so a server that sends byte by byte never
                # exceeds it. Some connections do not obey the time limit either.
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
        if len(texts) > 1:  # the server does number its vectors
            self._suspects = max(0, self._suspects - 1)
        self._has_answered = True
        return Answer(vectors=vectors, tokens=tokens, model=model, headers=headers)

    def _created(self, texts: Sequence[str], **options: Any) -> AbstractContextManager[Any]:
        """Call the SDK, and any tracing package that watches its calls.

        The SDK inspects every item of `input`, which takes 22 ms for 2,048 texts. It does not
        inspect `extra_body`, which overrides `input` and holds the texts. So `input` holds them as
        well only if something watches the call.
        """
        streaming = type(self._resource.with_streaming_response)(self._resource)
        is_watched = not _is_the_sdks_own(type(self._resource).create)
        return streaming.create(input=list(texts) if is_watched else [], **options)

    def _other_form(self, form: _Form, error: Exception, texts: Sequence[str]) -> _Form | None:
        """Return a form in which the server may accept a refused request, or `None`."""
        if self._form != form:
            return self._form  # another request has found a form that works
        status = attribute(error, "status_code")
        if self._replaces_empty and not form.empty and "" in texts and status in _REFUSALS:
            return replace(form, empty=" ")
        if self._is_form_fixed or self._has_answered or self._tries >= _MOST_TRIES:
            return None
        told = f"{attribute(error, 'message')} {attribute(error, 'body')}"
        is_named = _FORMAT.search(told) is not None
        is_dark = not is_named and not self._tries and _ELSE.search(told) is None
        if (is_named and status in {*_REFUSALS, 500}) or (is_dark and status in _REFUSALS):
            return replace(form, encoding="float")
        return None

    def _judged(self, error: OrderError) -> ResponseError:
        """Return the error for an answer whose order is unclear.

        A single such answer may be corrupted, and is retried. After several, the server
        is the cause, and the error is final.
        """
        self._suspects += 1
        if self._suspects < _SUSPECT_ANSWERS:
            return error
        return ResponseError(
            f"{error}: it is not known which vector belongs to which text. With max_batch_size=1 "
            "there is no doubt",
            is_final=True,
        )


def seconds_of(timeout: Any) -> float | None:
    """Return the seconds for reading, from a time-out in any form that the SDK accepts."""
    if isinstance(timeout, tuple):  # connect, read, and perhaps others
        timeout = timeout[1]
    timeout = getattr(timeout, "read", timeout)  # an `httpx.Timeout`
    return float(timeout) if isinstance(timeout, int | float) else None


def timeout_of(given: Any, seconds: float) -> Any:
    """Return the time-out of one request, keeping the parts that the user made shorter.

    Args:
        given: the wrapped object's time-out, in any form that the SDK accepts.
        seconds: the time for the request; reading may take all of it.
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
    """Return whether a method is the SDK's own, not one that a tracing package or a test put in."""
    home = attribute(sys.modules.get("openai.resources.embeddings"), "__file__")
    return (
        isinstance(function, FunctionType)
        and function.__code__.co_filename == home
        and not hasattr(function, "__wrapped__")
    )


def _most_tokens(texts: Sequence[str]) -> int:
    """Return an upper bound on the tokens of texts, which holds for any tokenizer.

    A token has at least one byte, and a character at most four bytes in UTF-8. `_AROUND` leaves
    room for what a server adds to each text.
    """
    return 4 * sum(map(len, texts)) + _AROUND * len(texts)


def _joined(chunks: list[bytes]) -> bytes:
    """Join the chunks and drop them, because an answer has 17 MB and many are read at a time."""
    body = b"".join(chunks)
    chunks.clear()
    return body
