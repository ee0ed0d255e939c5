"""How providers phrase refusals, as data, and the figures in their messages.

Every pattern stands for the wording of a provider that its comment or its test names.
"""

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from types import MappingProxyType
from typing import NamedTuple

__all__ = [
    "ACCOUNT_CODE",
    "ACCOUNT_TEXT",
    "BODY_TOO_LARGE",
    "INPUT_NAME",
    "ONE_TEXT",
    "OPTION_NAME",
    "OPTION_TEXT",
    "THROTTLE_NAME",
    "THROTTLE_START",
    "THROTTLE_TEXT",
    "QuotaWords",
    "delay",
    "index_of",
    "item_limit",
    "out_of_quota",
    "quota_words",
    "spent",
    "token_limit",
]

_NUMBER = r"[0-9]{1,15}(?:\.[0-9]{1,9})?"
_COUNT = r"([0-9]{1,3}(?:,[0-9]{3})+|[0-9]{1,12})"

# --- How long to wait ----------------------------------------------------------------------

LONGEST = 86_400.0
"""A day. A longer delay is a mistake, or not a rate limit."""

_HEADERS = (
    ("retry-after-ms", 0.001),
    ("x-ms-retry-after-ms", 0.001),  # Azure
    ("retry-after", 1.0),
    ("x-retry-after", 1.0),
    ("llm_provider-retry-after-ms", 0.001),  # LiteLLM passes its provider's headers on so
    ("llm_provider-retry-after", 1.0),
)
_SECONDS_SINCE_1970 = 1e9
"""A number from here on is a point in time, in 2001 or later, and not a duration."""

_UNIT = (
    r"milliseconds?|millis|msecs?|ms|seconds?|secs?|s|minutes?|mins?|m|hours?|hrs?|h"
    r"|毫秒|秒钟?|分钟?|小时"
)
_AMOUNT = r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]{1,15})(?:\.[0-9]{1,9})?"
_WORDS = MappingProxyType({"a": 1, "an": 1, "one": 1, "two": 2, "five": 5, "ten": 10, "thirty": 30})
_PART = rf"(?:{_AMOUNT}|\b(?:{'|'.join(_WORDS)})\b)\s*(?:more\s+)?(?:{_UNIT})(?![a-z])"
_DURATION = rf"{_PART}(?:(?:\s*,)?(?:\s*and)?\s*{_PART}){{0,3}}"
_PARTS = re.compile(
    rf"({_AMOUNT}|\b(?:{'|'.join(_WORDS)})\b)\s*(?:more\s+)?({_UNIT})(?![a-z])", re.IGNORECASE
)
_CLOCK = r"[0-9]{1,2}:[0-9]{2}(?::[0-9]{2})?(?![0-9:])"
_DATE = (
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,9})?"
    r"\s?(?:Z|UTC|GMT|[+-][0-9]{2}:?[0-9]{2})?"
    r"|[A-Z][a-z]{2}, [0-9]{1,2} [A-Z][a-z]{2} [0-9]{4} [0-9]{2}:[0-9]{2}:[0-9]{2} GMT"
)
_AGAIN = (
    r"(?:try(?:ing)?(?: it)? again|(?:please )?retry(?:ing)?"
    r"(?: again| (?:your|the|this|these) requests?)?"
    r"|wait(?:ing)?|come back|cool(?:ing)? ?down|back ?off|sleep|slow down"
    r"|(?:available|possible|allowed)(?: again)?|resets?|refresh(?:es)?|replenish(?:es|ed)?)"
)
_LINK = (
    r"[\s:=]+(?:(?:in|after|for|at|on|is|at least|at most|up to|until|about|around|approximately"
    r"|another|the next)[\s:]+){0,3}"
)
_DELAYS = (
    re.compile(rf"\b{_AGAIN}{_LINK}(?P<told>{_DATE}|{_CLOCK}|{_DURATION})", re.IGNORECASE),
    # "in 20 seconds you may try again", "12 seconds remaining"
    re.compile(
        rf"\b(?:in|after)\s+(?P<told>{_DURATION})[^.\n]{{0,40}}?\b(?:try again|retry)\b",
        re.IGNORECASE,
    ),
    re.compile(rf"(?<![0-9.,])(?P<told>{_DURATION})\s+(?:remaining|left|to wait)\b", re.IGNORECASE),
    re.compile(rf"(?<![0-9.,])(?P<told>{_DURATION})\s*(?:之?后|以后)", re.IGNORECASE),
    # Google's RetryInfo, as JSON.
    re.compile(rf"retry_?delay[\"']?\s*[:=]\s*[\"']?(?P<told>{_DURATION})", re.IGNORECASE),
)
# The same as a protobuf message is printed.
_RETRY_INFO = re.compile(
    r"retry_delay\s*\{\s*(?:seconds:\s*([0-9]{1,9}))?\s*(?:nanos:\s*([0-9]{1,9}))?"
)
_RETRY_AFTER = re.compile(
    rf"retry[-_ ]?after(?:[-_ ]?(ms|milliseconds|seconds|secs?))?[\"']?\s*[:=]\s*[\"']?({_NUMBER})"
    rf"\s*({_UNIT})?(?![a-z0-9])",
    re.IGNORECASE,
)
_PLAIN_NUMBER = re.compile(r"[+-]?[0-9]{1,20}(?:\.[0-9]{1,20})?(?:e[+-]?[0-9]{1,3})?")


def delay(headers: Mapping[str, str], text: str, now: float) -> float | None:
    """Return the seconds that the server asked to wait, or `None` if it did not say.

    Impossible delays, such as negative ones or more than a day, are ignored.

    Args:
        headers: headers with lower-case names.
        text: the server's message.
        now: seconds since 1970, to compare a date with.
    """
    for name, unit in _HEADERS:
        if (value := _sensible(_header_seconds(headers.get(name), unit, now))) is not None:
            return value
    return _told_in(text, now)


def _told_in(text: str, now: float) -> float | None:
    for pattern in _DELAYS:
        for match in pattern.finditer(text):
            if (value := _sensible(_seconds(match["told"], now))) is not None:
                return value
    if (info := _RETRY_INFO.search(text)) is not None:
        value = _sensible(float(info[1] or 0) + float(info[2] or 0) / 1e9)
        if value is not None:
            return value
    if (field := _RETRY_AFTER.search(text)) is not None:
        return _sensible(float(field[2]) * _unit_seconds(field[3] or field[1] or "s"))
    return None


def _sensible(seconds: float | None) -> float | None:
    return seconds if seconds is not None and 0 < seconds <= LONGEST else None


def _header_seconds(value: str | None, unit: float, now: float) -> float | None:
    """Return the seconds of a header: a number, a duration or a date."""
    value = (value or "").strip()
    if value.count(",") == 1 and len(set(map(str.strip, value.split(",")))) == 1:
        value = value.split(",")[0].strip()  # two proxies have said the same
    if _PLAIN_NUMBER.fullmatch(value):
        number = float(value)
        if number < _SECONDS_SINCE_1970:
            return number * unit
        return (number / 1000 if number >= 1000 * _SECONDS_SINCE_1970 else number) - now
    return _seconds(value, now)


def _seconds(told: str, now: float) -> float | None:
    """Return the seconds of a duration, of a time on a clock's face, or until a date."""
    if re.fullmatch(_DURATION, told, re.IGNORECASE):
        return math.fsum(_amount(n) * _unit_seconds(unit) for n, unit in _PARTS.findall(told))
    if re.fullmatch(_CLOCK, told):
        parts = [int(part) for part in told.split(":")]
        return math.fsum(part * 60**power for power, part in enumerate(reversed(parts)))
    try:
        return _date(told).timestamp() - now
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def _date(told: str) -> datetime:
    """Read a date in HTTP's or ISO's form; without a zone it is UTC."""
    if re.match(r"[0-9]{4}-", told):
        date = datetime.fromisoformat(re.sub(r"\s?(?:Z|UTC|GMT)$", "+00:00", told))
    else:
        date = parsedate_to_datetime(told)
    return date if date.tzinfo else date.replace(tzinfo=UTC)


def _amount(told: str) -> float:
    return float(_WORDS.get(told.lower()) or told.replace(",", ""))


def _unit_seconds(unit: str) -> float:
    unit = unit.lower()
    if unit.startswith(("ms", "mil", "毫")):
        return 0.001
    return {"s": 1.0, "m": 60.0, "h": 3600.0, "秒": 1.0, "分": 60.0, "小": 3600.0}[unit[0]]


# --- The quota -----------------------------------------------------------------------------

_QUOTA = re.compile(
    r"on (?P<kind>tokens|requests) per (?P<period>min|day).{0,80}?"
    rf"Limit:? (?P<limit>{_NUMBER})(?: / (?:min|day))?[.,]\s"
    rf"(?:(?:Used|Current):? (?P<used>{_NUMBER})[ ,.])?"
    rf"(?:.{{0,10}}?Requested:? (?P<requested>{_NUMBER}))?",
    re.IGNORECASE | re.DOTALL,
)


_RATE = re.compile(
    # slowapi and flask-limiter
    rf"(?:rate ?limit|too many requests).{{0,40}}?\b(?P<count>{_NUMBER}) per "
    r"(?:(?P<times>[0-9]{1,4}) )?(?P<unit>second|minute)"
    rf"|\bRPM limit ?[=:] ?(?P<rpm>{_NUMBER})",  # LiteLLM
    re.IGNORECASE | re.DOTALL,
)
_MINUTE = 60.0


class QuotaWords(NamedTuple):
    """A quota in the wording of a server.

    Attributes:
        kind: `tokens` or `requests`.
        minute: whether the quota is one a minute; else it is one a day.
        limit: how many are allowed.
        used: how many of them are in use, if given.
        requested: how many the request asked for, if given.
    """

    kind: str
    minute: bool
    limit: float
    used: float | None
    requested: float | None


def quota_words(text: str) -> QuotaWords | None:
    """Return the quota that a refusal names, or `None`."""
    match = _QUOTA.search(text)
    if match is None:
        return _rate_words(text)
    return QuotaWords(
        kind=match["kind"].lower(),
        minute=match["period"].lower() == "min",
        limit=float(match["limit"]),
        used=float(match["used"]) if match["used"] else None,
        requested=float(match["requested"]) if match["requested"] else None,
    )


def _rate_words(text: str) -> QuotaWords | None:
    """Return a quota of requests in the wording of libraries that limit rates, or `None`.

    A count for longer than a minute is ignored, as it may all be used up within a minute.
    """
    match = _RATE.search(text)
    if match is None:
        return None
    is_seconds = (match["unit"] or "").lower() == "second"
    seconds = (1.0 if is_seconds else _MINUTE) * float(match["times"] or 1)
    if not 0 < seconds <= _MINUTE:
        return None
    limit = float(match["rpm"] or match["count"]) * _MINUTE / seconds
    return QuotaWords("requests", minute=True, limit=limit, used=None, requested=None)


# --- No money, or a quota of a day and more ------------------------------------------------

_SPENT_CODES = (
    r"insufficient_(?:user_)?quota|insufficient_(?:balance|credits?|funds)"
    r"|credit_balance_exhausted|[a-z]+_(?:spend|usage)_limit_exceeded|billing_hard_limit_reached"
    r"|billing_not_active|access_terminated"
    r"|budget_exceeded|exceeded_current_quota_error"  # LiteLLM, Moonshot
    r"|free-models-per-day"  # OpenRouter
)
_SPENT_CODE = re.compile(
    rf"{_SPENT_CODES}|arrearage|accountoverdueerror", re.IGNORECASE
)  # Alibaba, Volcengine
_MONEY = re.compile(
    rf"\b(?:{_SPENT_CODES})\b"
    # LiteLLM
    r"|budget (?:has been )?exceeded|exceeded ?(?:token ?)?budget|over budget|crossed budget"
    r"|exceeded (?:your|the|its) (?:[a-z]+ )?budget"
    # OpenRouter, DeepSeek, Moonshot, Voyage, Jina, SiliconFlow, Anthropic, Together
    r"|(?:insufficient|not enough|out of|no more|no remaining) (?:[a-z]+ ){0,2}?"
    r"(?:credits?|balance|funds)\b"
    r"|\b(?:credits?|balance|funds)\b(?: [a-z]+){0,3} "
    r"(?:exhausted|depleted|insufficient|too low|not enough|used up)"
    r"|requires more credits|can only afford|credit limit (?:has been )?exceeded"
    r"|(?:billing|spend|spending)[a-z ]{0,10} (?:limit|cap) (?:has been |was )?"
    r"(?:reached|exceeded|hit)"
    r"|(?:reached|exceeded|hit) (?:your |the |its )?(?:[a-z]+ )?(?:billing|spend|spending)"
    r"(?: hard)? (?:limit|cap)"
    # Fireworks, Portkey, OpenRouter, Jina, Volcengine
    r"|(?:monthly |total )?(?:spending|key|budget) limit (?:has been )?(?:exceeded|exhausted)"
    r"|usage limit exceeded for the virtual key"
    r"|(?:reaching|reached) (?:the |your )?monthly spending limit|failure to pay"
    r"|run out of (?:free )?(?:tokens|credits?)|overdue ?balance|prepaid balance is \$0(?:\.0+)?\b"
    r"|allowance is (?:depleted|exhausted|used up)|usage cap (?:has been )?(?:reached|exceeded|hit)"
    r"|余额不足|额度不足|欠费",  # Zhipu, one-api, Alibaba
    re.IGNORECASE,
)
_NO_QUOTA = re.compile(  # Google: the plan has none of it at all
    r"exceeded for (?:quota )?metric.{0,200}?\blimit:? 0\b", re.IGNORECASE | re.DOTALL
)
_CURRENT_QUOTA = re.compile(
    r"exceeded (?:your|the) current quota|usage limit (?:has been )?(?:reached|exceeded)",
    re.IGNORECASE,
)
_QUOTA_WORD = (
    r"(?:quotas?|limits?|tokens|requests|credits?|allowance|allocation|usage|resets?|used up)"
)
_DAY_WORD = r"(?:today(?:'s)?|tomorrow|midnight|24 ?h|24[ -]?h(?:ou)?rs?)"
_LONG_PERIOD = re.compile(
    r"per[\s_-]*(?:calendar[\s_-]*)?(?:day|week|month|year)|/ ?(?:day|week|month|year)\b"
    r"|\b(?:a|each|every|this) (?:day|week|month|year)\b|\b(?:RPD|TPD|ASPD)\b"
    r"|ByDay\b|\b(?:for|in|of) (?:the|one|1) day\b|\b86,?400 ?s|每[天日月]|[今当本][天日月]"
    rf"|\b{_QUOTA_WORD}\b[^.\n]{{0,40}}?\b{_DAY_WORD}\b|\b{_DAY_WORD}\b[^.\n]{{0,20}}?\b{_QUOTA_WORD}\b"
    r"|\b(?:daily|weekly|monthly|yearly)\b[^.\n]{0,40}?"
    r"\b(?:limit|quota|usage|allowance|allocation|budget|cap|credits?|requests|tokens)\b",
    re.IGNORECASE,
)
_SHORT_PERIOD = re.compile(
    r"per[\s_-]*(?:min|sec|hour)|/ ?(?:min|sec|hour|s\b|m\b|h\b)|\b(?:RPM|TPM|QPM|RPS|TPS|QPS)\b",
    re.IGNORECASE,
)
# Of several, the one that was exceeded: Google's `quotaId`, and OpenAI's and Groq's wording.
_EXCEEDED_LONG = re.compile(r"[a-z]PerDay|\bon [a-z]+ per day\b")
# An offer does not say what was spent: "Add 10 credits to unlock 1000 requests per day".
_ADVERT = re.compile(
    r"https?://\S+|\b(?:upgrade|unlock|need more|add (?:[0-9]+|more|your|a)\b|to increase|visit)"
    r"[^.\n]*",
    re.IGNORECASE,
)
_GOOGLE = re.compile(r"resource_?exhausted|googleapis\.com", re.IGNORECASE)


def spent(codes: tuple[str, ...]) -> bool:
    """Return whether a code says that no money or no quota is left."""
    return any(_SPENT_CODE.fullmatch(code) for code in codes)


def out_of_quota(text: str, names: str, *, throttled: bool, told: bool) -> bool:
    """Return whether the text says that waiting within a run does not help.

    Args:
        text: the server's message.
        names: class names and codes, which identify Google.
        throttled: whether it refuses for a rate or a quota; only then periods count.
        told: whether the server asked to wait for a time.
    """
    if _MONEY.search(text) or _NO_QUOTA.search(text):
        return True
    if not throttled:
        return False
    if _EXCEEDED_LONG.search(text):
        return True
    short = _SHORT_PERIOD.search(text) is not None
    if _LONG_PERIOD.search(_ADVERT.sub(" ", text)) and not short:
        return True
    # Google also says this of its limits a minute.
    passing = told or short or _GOOGLE.search(f"{text} {names}") is not None
    return _CURRENT_QUOTA.search(text) is not None and not passing


# --- Too much for one request --------------------------------------------------------------

_REQUEST_TOKENS = re.compile(
    rf"Requested {_COUNT} tokens, max {_COUNT} tokens per request"  # OpenAI
    rf"|maximum request size is {_COUNT} tokens|max_tokens_per_request"
    # Mistral, Voyage, Vertex AI
    rf"|too many tokens (?:in batch|overall)(?:\. Max is {_COUNT} got {_COUNT})?"
    rf"|tokens per submitted batch is {_COUNT}\. Your batch has {_COUNT}"
    rf"|token count is {_COUNT} but the model supports up to {_COUNT}",
    re.IGNORECASE,
)
# Groups of the pattern above: for each limit, the group of what was requested.
_TOKEN_GROUPS = ((2, 1), (3, None), (4, 5), (6, 7), (9, 8))

_ITEMS = re.compile(
    rf"array length must be {_COUNT} or less"  # OpenAI
    rf"|max(?:imum)? number of inputs is {_COUNT}"  # Azure
    rf"|maximum allowed batch size {_COUNT}"  # TEI
    rf"|number of texts must be at most {_COUNT}"  # Cohere
    rf"|at most {_COUNT} requests can be in one batch"  # Gemini
    rf"|{_COUNT} instance\(s\) is allowed per prediction"  # Vertex AI
    rf"|batch size limit is {_COUNT}|array longer than {_COUNT}"  # Voyage
    rf"|maximum item count: {_COUNT}"  # Cohere at Bedrock
    rf"|batch size is invalid, it should not be larger than {_COUNT}"  # Alibaba
    rf"|should have at most {_COUNT} items"  # pydantic: infinity, FastAPI
    rf"|最大不得超过\s*{_COUNT}\s*条",  # Zhipu
    re.IGNORECASE,
)
_TOO_MANY = re.compile(
    r"too many (?:inputs|items|texts) in (?:the )?(?:request|batch)", re.IGNORECASE
)
BODY_TOO_LARGE = re.compile(
    r"(?:request|body|payload|entity)(?: entity| body)? (?:is )?too large"
    r"|payload size exceeds the limit",  # Gemini
    re.IGNORECASE,
)
ONE_TEXT = re.compile(
    r"must have less than [0-9]+ tokens"  # TEI, with 413
    r"|is too large to process"  # llama.cpp, with 500
    r"|exceeds (?:the )?(?:maximum )?context length",  # Ollama
    re.IGNORECASE,
)


def _int(count: str) -> int:
    return int(count.replace(",", ""))


def token_limit(text: str) -> tuple[float | None] | None:
    """Return the share of a request's tokens within its limit; `None` if no limit is named."""
    match = _REQUEST_TOKENS.search(text)
    if match is None:
        return None
    for limit, requested in _TOKEN_GROUPS:
        if match[limit] and requested:
            asked = max(1, _int(match[requested]))
            return (min(1.0, max(1, _int(match[limit])) / asked),)
    return (None,)


def item_limit(text: str) -> tuple[int | None] | None:
    """Return a request's limit of texts; `None` if it names none."""
    if (match := _ITEMS.search(text)) is not None:
        return (max(1, _int(next(filter(None, match.groups())))),)
    return (None,) if _TOO_MANY.search(text) else None


# --- Which part of the request -------------------------------------------------------------

OPTION_NAME = re.compile(
    r"(?:\$\.|body\.)?(?:model|dimensions|encoding_format|user)\b(?!\[)", re.IGNORECASE
)
OPTION_TEXT = re.compile(
    r"\b(?:dimensions|encoding_format|output_?dimension(?:s|ality)?)\b"
    r"|\b(?:invalid|unknown|unsupported|no such|specified) model\b"
    r"|\bmodel\b.{1,80}?(?:is not supported|does not exist|not found|is not a valid)"
    r"|supported models are",
    re.IGNORECASE,
)
_INPUT = r"(?:inputs?|texts?|contents?|prompts?|instances|requests|documents|data|messages)"
INPUT_NAME = re.compile(rf"(?:\$\.|body\.|#/)?(?:{_INPUT}\b|max_tokens)", re.IGNORECASE)
_INDEX = re.compile(rf"\b{_INPUT}(?:\[|\.)([0-9]{{1,6}})\b", re.IGNORECASE)


def index_of(text: str) -> int | None:
    """Return the position of the one input that a refusal names."""
    match = _INDEX.search(text)
    return int(match[1]) if match else None


# --- Other codes, names and texts ----------------------------------------------------------

THROTTLE_NAME = re.compile(
    r"rate.?limit|throttl|too.?many.?requests|resource.?exhausted|service.?quota.?exceeded",
    re.IGNORECASE,
)
THROTTLE_TEXT = re.compile(
    r"rate.?limit|too many requests|requests? limit (?:has been )?(?:reached|exceeded)",
    re.IGNORECASE,
)
THROTTLE_START = re.compile(
    # Only where a message begins: a refused text may contain such words, and be quoted.
    r"(?:^|\b(?:message|msg|error|detail|code): (?:[0-9]{3} )?)\W*"
    r"(?:rate.?limit(?:s| is| was| has been)? (?:exceeded|reached|hit)|rate.?limited"
    r"|too many requests|(?:the |your )?requests? (?:was|were|is|are|has been)? ?throttled"
    r"|quota exceeded for [^.]{1,60} per (?:second|minute)|(?:please )?slow down)",
    re.IGNORECASE,
)
ACCOUNT_CODE = re.compile(
    # AWS and Google send these with 400 too.
    r"invalid_?api_?key|api_?key_?invalid|access_?denied(?:exception)?|unrecognizedclientexception"
    r"|expiredtoken(?:exception)?|invalidsignatureexception|missingauthenticationtoken(?:exception)?",
    re.IGNORECASE,
)
ACCOUNT_TEXT = re.compile(
    r"api[ _]?key (?:is )?(?:not valid|invalid|expired|not found)|API_KEY_INVALID"
    r"|(?:invalid|incorrect) api[ _-]?key|user location is not supported",
    re.IGNORECASE,
)
