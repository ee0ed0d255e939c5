"""Decides what to do about a failed request: wait and retry, split, or give up.

Pure: an exception goes in, a decision comes out. Exceptions are read by their attributes
(`status_code`, `code`, `body`, `response.headers`), which the SDKs of all providers have in
one form or another, so no SDK is imported. The wordings are those that OpenAI, Azure and
compatible servers send.
"""

import math
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from langchain_batch_embed.errors import DimensionsError, ResponseError, causes
from langchain_batch_embed.quota import Quota, seconds

__all__ = ["Backoff", "Decision", "GiveUp", "Retry", "Split", "decide"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """Exponential backoff with full jitter: uniform between 0 and `first * 2**attempt`.

    Full jitter spreads the retries of many clients best; see "Exponential Backoff And
    Jitter" in the AWS architecture blog.

    Attributes:
        first: the bound of the first wait, in seconds.
        longest: no bound grows above this, in seconds.
    """

    first: float = 0.5
    longest: float = 30.0

    def wait(self, attempt: int, draw: Callable[[], float]) -> float:
        """Return the seconds before retry number `attempt`, counted from 0."""
        bound: float = min(self.longest, self.first * 2 ** min(attempt, 30))
        return bound * draw()


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """Send the same batch again.

    Attributes:
        after: not before this many seconds.
        throttled: a rate limit was hit, so nothing else should be sent meanwhile.
        overloaded: the server has more to do than it can: fewer requests at once may help.
        quota: what the refusal said about the quota, if it said it.
    """

    after: float
    throttled: bool = False
    overloaded: bool = False
    quota: Quota | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Send the batch in smaller parts.

    Attributes:
        max_items: the provider's own limit of inputs a request, if it was named.
        shrink: the share of the batch's tokens that would have been let through, if known.
        learn: whether later batches should be made smaller too.
        at: the position of the one input that was refused, if it was named.
    """

    max_items: int | None = None
    shrink: float | None = None
    learn: bool = False
    at: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GiveUp:
    """Do not send this batch again.

    Attributes:
        everything: the error concerns the account or the request's form, not these texts:
            no other batch can succeed either.
        exhausted: it would have been retried, but was often enough.
    """

    everything: bool = False
    exhausted: bool = False


Decision = Retry | Split | GiveUp

# Limits of money, not of rate: no waiting helps.
_SPENT = frozenset(
    {
        "insufficient_quota",
        "credit_balance_exhausted",
        "organization_spend_limit_exceeded",
        "project_spend_limit_exceeded",
        "organization_usage_limit_exceeded",
        "billing_hard_limit_reached",
        "billing_not_active",
    }
)
_ACCOUNT_STATUS = frozenset({401, 402, 403, 404, 405})
_RETRY_STATUS = frozenset({408, 409, 425, 429})
_GRPC_STATUS = {
    "ABORTED": 409,
    "DEADLINE_EXCEEDED": 504,
    "INTERNAL": 500,
    "INVALID_ARGUMENT": 400,
    "NOT_FOUND": 404,
    "PERMISSION_DENIED": 403,
    "RESOURCE_EXHAUSTED": 429,
    "UNAUTHENTICATED": 401,
    "UNAVAILABLE": 503,
}
_OVERLOADED_STATUS = frozenset({503, 504, 529})
_REFUSED_STATUS = frozenset({400, 413, 422})

_NUMBER = r"\d+(?:\.\d+)?"
_TRY_AGAIN = re.compile(rf"(?:try again|retry) in ((?:{_NUMBER}(?:ms|h|m|s))+)", re.IGNORECASE)
_RETRY_AFTER = re.compile(rf"retry after ({_NUMBER}) (milli)?second", re.IGNORECASE)
_QUOTA = re.compile(
    rf"on (?P<kind>tokens|requests) per min.*?Limit:? (?P<limit>{_NUMBER}), "
    rf"(?:Used:? (?P<used>{_NUMBER}), )?Requested:? (?P<requested>{_NUMBER})",
    re.IGNORECASE | re.DOTALL,
)
_REQUEST_TOKENS = re.compile(
    r"Requested (?P<requested>\d+) tokens, max (?P<limit>\d+) tokens per request"
    r"|maximum request size is \d+ tokens|max_tokens_per_request"
    # Mistral, Voyage, Vertex AI
    r"|too many tokens (?:in batch|overall)(?:\. Max is (?P<limit2>\d+) got (?P<requested2>\d+))?"
    r"|tokens per submitted batch is (?P<limit3>\d+)\. Your batch has (?P<requested3>\d+)"
    r"|token count is (?P<requested4>\d+) but the model supports up to (?P<limit4>\d+)",
    re.IGNORECASE,
)
_MAX_ITEMS = re.compile(
    r"array length must be (\d+) or less|max(?:imum)? number of inputs is (\d+)"
    r"|maximum allowed batch size (\d+)"
    # Cohere, Gemini, Vertex AI, Voyage
    r"|number of texts must be at most (\d+)|at most (\d+) requests can be in one batch"
    r"|(\d+) instance\(s\) is allowed per prediction|batch size limit is (\d+)",
    re.IGNORECASE,
)
# infinity says "unexpected response with status 503", NVIDIA begins with "[429] Too Many Requests".
_TOLD_STATUS = re.compile(r"response with status ([45]\d\d)\b|^\[([45]\d\d)\] ")
_INDEX = re.compile(r"input\[(\d+)\]")
_OTHER_PARAMETER = re.compile(r"\b(dimensions|encoding_format)\b")
_TOO_LARGE = re.compile(r"request too large|body too large|payload too large", re.IGNORECASE)
_TIMEOUT_NAME = re.compile(r"time(d)?.?out", re.IGNORECASE)
_CONNECTION_NAME = re.compile(
    r"oserror|connect|network|protocol|transport|decoding|unavailable|internalserver|overloaded",
    re.IGNORECASE,
)
_THROTTLE_NAME = re.compile(r"ratelimit|throttl|toomanyrequests|resourceexhausted", re.IGNORECASE)

# All that is left of a 429 in `JinaEmbeddings`.
_THROTTLE_TEXT = re.compile(r"rate.?limit|too many requests", re.IGNORECASE)


def decide(
    error: BaseException,
    *,
    attempt: int,
    inputs: int,
    max_retries: int,
    backoff: Backoff,
    draw: Callable[[], float],
) -> Decision:
    """Decide what to do about a failed request.

    Args:
        error: what the request raised.
        attempt: how often this batch was retried before, from 0.
        inputs: how many inputs the batch has.
        max_retries: how often a batch may be retried.
        backoff: how long to wait where the server does not say.
        draw: a source of random numbers, uniform in 0 to 1.
    """
    signs = _Signs.of(error)
    if signs.spent or isinstance(error, DimensionsError):
        return GiveUp(everything=True)
    if (split := _split(signs, inputs, attempt)) is not None:
        return split if inputs > 1 else GiveUp()
    if signs.status in _ACCOUNT_STATUS or signs.concerns_another_parameter:
        return GiveUp(everything=True)
    if not signs.passing:
        return GiveUp()
    if attempt >= max_retries:
        return GiveUp(exhausted=True)
    told = signs.retry_after
    wait = backoff.wait(attempt, draw)
    return Retry(
        # Nobody is helped by coming back early; a little later keeps many clients apart.
        after=wait if told is None else told + 0.1 * min(wait, told),
        throttled=signs.throttled,
        overloaded=signs.overloaded,
        quota=signs.quota,
    )


def _split(signs: "_Signs", inputs: int, attempt: int) -> Split | None:
    """Return how to split, or `None` where the error does not ask for smaller requests."""
    if signs.throttled:
        quota = _QUOTA.search(signs.message)
        if quota and float(quota["requested"]) > float(quota["limit"]) > 0:
            # It asks for more than the whole quota: no retry of the same can succeed.
            return Split(shrink=float(quota["limit"]) / float(quota["requested"]), learn=True)
        return Split(learn=True) if _TOO_LARGE.search(signs.message) else None
    if signs.timed_out and attempt > 0 and inputs > 1:
        return Split()  # perhaps the batch is what takes so long
    if signs.status not in _REFUSED_STATUS and not signs.unknown:
        return None
    if (tokens := _REQUEST_TOKENS.search(signs.text)) is not None:
        named = {name.rstrip("234"): int(n) for name, n in tokens.groupdict().items() if n}
        shrink = None
        if named:
            shrink = min(1.0, named["limit"] / max(1, named["requested"]))
        return Split(shrink=shrink, learn=True)
    if (items := _MAX_ITEMS.search(signs.message)) is not None:
        return Split(max_items=max(1, int(next(filter(None, items.groups())))), learn=True)
    if signs.status == 413 or _TOO_LARGE.search(signs.message):  # noqa: PLR2004
        return Split(learn=True)
    if signs.concerns_another_parameter:
        return None
    index = _INDEX.search(signs.text)
    at = int(index[1]) if index else None
    return Split(at=at if at is not None and at < inputs else None)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Signs:
    """What an exception, or one that caused it, tells about the request."""

    status: int | None
    codes: frozenset[str]
    message: str
    param: str | None
    headers: Mapping[str, str]
    names: str
    response_error: bool

    @classmethod
    def of(cls, error: BaseException) -> "_Signs":
        chain = list(causes(error))  # wrapped classes often re-raise
        telling = next((e for e in chain if _status(e) is not None), error)
        body = _error_body(telling)
        codes = [getattr(telling, "code", None), getattr(telling, "type", None)]
        codes += [body.get("code"), body.get("type")]
        param = getattr(telling, "param", None) or body.get("param")
        message = body.get("message") or getattr(telling, "message", None) or str(telling)
        response = getattr(telling, "response", None)
        if not body:  # httpx and requests leave it to the caller to read it
            with suppress(Exception):  # of a response that is streamed it cannot be read
                message = f"{message} {getattr(response, 'text', '')}"
        return cls(
            status=_status(telling),
            codes=frozenset(str(code) for code in codes if code),
            message=str(message),
            param=str(param) if param else None,
            headers=getattr(response, "headers", None) or getattr(telling, "headers", None) or {},
            names=" ".join(base.__name__ for e in chain for base in type(e).__mro__[:-2]),
            response_error=any(isinstance(e, ResponseError) for e in chain),
        )

    @property
    def text(self) -> str:
        return f"{self.message} {self.param} {' '.join(self.codes)}"

    @property
    def spent(self) -> bool:
        return bool(self.codes & _SPENT)

    @property
    def throttled(self) -> bool:
        if self.status is not None:
            return self.status == 429  # noqa: PLR2004
        told = _THROTTLE_NAME.search(self.names) or _THROTTLE_TEXT.search(self.message)
        return told is not None

    @property
    def timed_out(self) -> bool:
        return self.status is None and _TIMEOUT_NAME.search(self.names) is not None

    @property
    def overloaded(self) -> bool:
        return self.timed_out or self.status in _OVERLOADED_STATUS

    @property
    def passing(self) -> bool:
        """Whether the same request can succeed later."""
        if self.status is not None:
            return self.status in _RETRY_STATUS or self.status >= 500  # noqa: PLR2004
        return not self.unknown

    @property
    def unknown(self) -> bool:
        """Whether there is neither a status nor a telling name: perhaps a text is the cause."""
        return (
            self.status is None
            and not self.response_error
            and not self.throttled
            and not self.timed_out
            and _CONNECTION_NAME.search(self.names) is None
        )

    @property
    def concerns_another_parameter(self) -> bool:
        """Whether the refusal names a parameter that is not the input."""
        if self.status not in _REFUSED_STATUS:
            return False
        if self.param is None:
            return _OTHER_PARAMETER.search(self.message) is not None
        return not self.param.startswith(("input", "$.input", "max_tokens"))

    @property
    def quota(self) -> Quota | None:
        match = _QUOTA.search(self.message)
        if match is None or match["used"] is None:
            return None
        return Quota(
            kind=match["kind"].lower(), limit=float(match["limit"]), used=float(match["used"])
        )

    @property
    def retry_after(self) -> float | None:
        """The time to wait that the server named, in seconds."""
        for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
            # Absent, which is `None` in some libraries' headers, or a date: the text may say it.
            with suppress(KeyError, TypeError, ValueError):
                if 0 <= (told := float(self.headers[name])) < math.inf:
                    return told * unit
        if (match := _TRY_AGAIN.search(self.message)) is not None:
            return seconds(match[1])
        if (match := _RETRY_AFTER.search(self.message)) is not None:
            return float(match[1]) * (0.001 if match[2] else 1.0)
        return None


def _status(error: BaseException) -> int | None:
    response: Any = getattr(error, "response", None)
    candidates = [
        getattr(error, "status_code", None),
        getattr(response, "status_code", None),
        getattr(error, "http_status", None),
        getattr(error, "code", None),
        getattr(error, "status", None),
    ]
    if isinstance(response, Mapping):  # botocore
        candidates.append(response.get("ResponseMetadata", {}).get("HTTPStatusCode"))
    if callable(code := getattr(error, "code", None)):  # gRPC
        candidates.append(_GRPC_STATUS.get(getattr(code(), "name", "")))
    for value in candidates:
        text = str(value) if isinstance(value, int | str) and not isinstance(value, bool) else ""
        if text.isdecimal() and 400 <= int(text) < 600:  # noqa: PLR2004
            return int(text)
    # Plain exceptions of some LangChain classes tell it in their text alone.
    told = _TOLD_STATUS.search(str(error))
    return int(told[1] or told[2]) if told else None


def _error_body(error: BaseException) -> Mapping[str, Any]:
    body: Any = getattr(error, "body", None)
    if isinstance(body, Mapping):
        inner = body.get("error", body)
        return inner if isinstance(inner, Mapping) else {"message": str(inner)}
    return {"message": body} if isinstance(body, str) else {}
