"""All that the simulator is told: limits, quotas, latency, and what is to go wrong."""

import dataclasses
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, Literal, Self, get_args

from .batch_scenario import LINE_FAULTS, QUEUES, BatchApi
from .quota import UsedOf

# Requests and tokens a minute of text-embedding-3-small and -large
# (OpenAI's rate limit page, platform.openai.com/docs/guides/rate-limits).
TIERS: Final[Mapping[int, tuple[int, int]]] = MappingProxyType(
    {
        1: (3_000, 1_000_000),
        2: (5_000, 1_000_000),
        3: (5_000, 5_000_000),
        4: (10_000, 5_000_000),
        5: (10_000, 10_000_000),
    }
)

# Faults that take the place of an answer: nothing is computed, charged or billed.
REFUSALS: Final = (
    "401",
    "403",
    "403_html",
    "404",
    "408",
    "409",
    "429",
    "429_azure",
    "429_bare",
    "429_requests",
    "500",
    "502_html",
    "503",
    "hang",
    "insufficient_quota",
    "reset",
    "too_large_for_quota",
)

# Faults that spoil an answer on its way out: it was charged to the quota and, where vectors were
# computed (all but "html" and "error_200"), billed.
SPOILED: Final = (
    "bad_usage",
    "doubled",
    "drip",
    "empty_data",
    "error_200",
    "html",
    "nan",
    "no_index",
    "nulls",
    "short",
    "short_one",
    "shuffled",
    "truncated",
    "wrong_model",
    "wrong_width",
    "zeros",
)

FAULTS: Final = tuple(sorted(REFUSALS + SPOILED))

# Refusals by their status alone: "status_400" to "status_599".
_STATUS: Final = re.compile(r"status_([45][0-9]{2})")

RequestTokens = Literal["tokens", "bytes"]
RefusalHint = Literal["exact", "text", "zero", "date", "none"]
BusyStatus = Literal[429, 503]
Outage = Literal["reset", "503", "hang"]

_AT_LEAST_ONE = (
    "dimensions",
    "requests_per_minute",
    "tokens_per_minute",
    "max_inputs",
    "max_tokens_per_input",
    "max_tokens_per_request",
    "max_body_bytes",
    "workers",
    "max_in_flight",
)
_AT_LEAST_ZERO = (
    "latency",
    "stall_factor",
    "seconds_per_request",
    "seconds_per_text",
    "hang_seconds",
    "drip_seconds",
    "retry_after",
)
_ABOVE_ZERO = ("bucket_seconds", "fixed_window_seconds")
_NOT_EMPTY = ("refuse_marker", "firewall_marker", "text_limit_words")
_ONE_OF: Final[Mapping[str, tuple[Any, ...]]] = MappingProxyType(
    {
        "used_of": get_args(UsedOf),
        "refusal_hint": get_args(RefusalHint),
        "request_tokens_by": get_args(RequestTokens),
        "busy_status": get_args(BusyStatus),
        "outage": get_args(Outage),
    }
)
# Options that are tuples of tuples, and what each of those holds.
_PERIODS: Final[Mapping[str, str]] = MappingProxyType(
    {"outages": "start, seconds", "slow_periods": "start, seconds, factor"}
)


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """What the server allows, how fast it is, and what goes wrong; the defaults are OpenAI's.

    Attributes:
        dimensions: width of a vector; a request may ask for fewer (text-embedding-ada-002 may not).
        models: every other model is answered with 404; an empty tuple accepts any.
        api_key: any other key is answered with 401; None accepts any key, and none.
        tier: 1 to 5, sets both quotas as in `TIERS`, unless they are given themselves.
        requests_per_minute: None is no quota.
        tokens_per_minute: charged by UTF-8 bytes / 4, as OpenAI's limiter does; None is no quota.
        bucket_seconds: how many seconds of quota can be saved up. Buckets start full and refill
            continuously. 1.0 is a limiter that applies 60 a minute as 1 a second.
        fixed_window_seconds: count the quota in windows of this length instead, of which each
            allows its share of a minute. The first begins with the first request that is held
            against the quota; the true wait of a refused request is until its window ends.
            `bucket_seconds` has no effect then. None is a bucket.
        used_of: what a 429 counts as `Used`. "minute" adds what the minute's limit has more than
            the bucket, so that (Used + Requested - Limit) * 60 / Limit is a bucket's true wait.
            "bucket" leaves that out, so that Used + Requested may be below Limit.
        refused_share: share of its cost, 0 to 1, that a request refused for quota is charged.
        rate_limit_headers: send x-ratelimit-* where there are quotas, on 200 and 429.
        refusal_hint: how a 429 that can be waited for says how long. "exact" is retry-after-ms,
            retry-after and the text; "text" is the text alone. The others say nothing in the
            text: "zero" is `Retry-After: 0`, "date" is Retry-After with an HTTP date, "none" is
            nothing at all.
        error_details: False is a gateway's bare 429, without a number or a reason in its body.
        latency: scale of the latency; 0 answers at once. At 1 the server takes
            (80 ms + 7 ms a kilotoken) * lognormal(0, 0.85), the network 40 to 150 ms, a new
            connection 300 ms more: a fit to public recordings of OpenAI's endpoint.
        stall_probability: share of requests that take `stall_factor` times as long.
        stall_factor: on all of the latency.
        slow_periods: (start, seconds, factor on the latency) each. Starts are in seconds since
            the first request. A request has the factor of the moment it arrives; those of
            periods at the same time multiply.
        workers: how many requests are computed at a time. The others wait in a queue, first in,
            first out. None computes all of them at once.
        seconds_per_request: computing time of any request, beside its latency.
        seconds_per_text: computing time of each of its texts on top.
        notices_leaving: True skips requests whose client has gone while they were in the queue.
            False computes them all the same. What a worker has begun, it always ends.
        max_in_flight: a proxy before the server refuses more requests at a time than this with
            an HTML page, at once and without a hint, as nginx's limit_conn does. A request
            counts until it is answered or its client has gone. None is no limit.
        busy_status: the status of that page, 429 or 503.
        outages: (start, seconds) of each time that the endpoint is away. Starts are in seconds
            since the first request.
        outage: what it does while it is away. "reset" ends connections without an answer, also
            those of requests in flight at its start. "503" is a proxy's HTML page, also for
            those. "hang" lets all of them wait until it is back, and answers then.
        max_inputs: inputs a request.
        max_tokens_per_input: true tokens (cl100k_base).
        max_tokens_per_request: as counted by `request_tokens_by`.
        request_tokens_by: "tokens" are true tokens, "bytes" are UTF-8 bytes / 4, rounded up.
        max_body_bytes: longer requests are answered with 413; None is no limit.
        text_limit_words: the message of the 400 for more than `max_inputs`, in place of the
            provider's. None is the provider's.
        refuse_marker: a text that contains it makes its whole request an error that does not say
            which text it was.
        marker_status: the status of that error, 400 to 599. 400 is a content filter's refusal;
            500 is a text that always crashes the server.
        firewall_marker: a text that contains it makes its whole request a 403 with an HTML page,
            as a web application firewall does, that does not say which text it was.
        base64: False answers with floats also where base64 was asked for.
        token_arrays: False answers inputs of token ids with 422.
        index: False leaves `index` out of every item.
        usage: False leaves `usage` out of the answer.
        honour_dimensions: False ignores the request's `dimensions`.
        faults: name -> probability, drawn for each request. The names are in `FAULTS`, and
            "status_400" to "status_599" for plain JSON errors with any other status.
        script: a fault's name or "ok" for each of the first requests, in order of arrival;
            after it the probabilities apply.
        hang_seconds: how long a hanging request is kept open before its connection is closed.
        drip_seconds: between two bytes of a dripping answer.
        retry_after: seconds told in every 429 that tells any, also where the true wait is
            another.
        vector_cache: keep what was computed for a text, so that the same texts cost next to
            nothing the next time (8 KB a text at 1,536 dimensions).
        batch_api: files and batches; see `BatchApi`.
        seed: of everything random. The same seed gives the n-th request the same luck.

    Raises:
        ValueError: a value is out of its range or of the wrong type, or a fault is unknown.

    """

    dimensions: int = 1536
    models: tuple[str, ...] = (
        "text-embedding-3-small",
        "text-embedding-3-large",
        "text-embedding-ada-002",
    )
    api_key: str | None = None
    tier: int | None = None
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    bucket_seconds: float = 60.0
    fixed_window_seconds: float | None = None
    used_of: UsedOf = "minute"
    refused_share: float = 1.0
    rate_limit_headers: bool = True
    refusal_hint: RefusalHint = "exact"
    error_details: bool = True
    latency: float = 1.0
    stall_probability: float = 0.0
    stall_factor: float = 20.0
    slow_periods: tuple[tuple[float, float, float], ...] = ()
    workers: int | None = None
    seconds_per_request: float = 0.0
    seconds_per_text: float = 0.0
    notices_leaving: bool = False
    max_in_flight: int | None = None
    busy_status: BusyStatus = 503
    outages: tuple[tuple[float, float], ...] = ()
    outage: Outage = "reset"
    max_inputs: int = 2048
    max_tokens_per_input: int = 8192
    max_tokens_per_request: int = 300_000
    request_tokens_by: RequestTokens = "tokens"
    max_body_bytes: int | None = None
    text_limit_words: str | None = None
    refuse_marker: str | None = None
    marker_status: int = 400
    firewall_marker: str | None = None
    base64: bool = True
    token_arrays: bool = True
    index: bool = True
    usage: bool = True
    honour_dimensions: bool = True
    faults: Mapping[str, float] = field(default_factory=dict)
    script: tuple[str, ...] = ()
    hang_seconds: float = 3600.0
    drip_seconds: float = 1.0
    retry_after: float | None = None
    vector_cache: bool = False
    batch_api: BatchApi = field(default_factory=BatchApi)
    seed: int = 0

    def __post_init__(self) -> None:
        """Check every value, and make the collections immutable."""
        if isinstance(self.models, str) or isinstance(self.script, str):
            raise ValueError("models and script are tuples of strings, not one string")
        object.__setattr__(self, "models", tuple(self.models))
        object.__setattr__(self, "script", tuple(self.script))
        object.__setattr__(self, "faults", dict(self.faults))
        object.__setattr__(self, "batch_api", BatchApi.of(self.batch_api))
        for name in _PERIODS:
            object.__setattr__(self, name, _tuples(name, getattr(self, name)))
        self._check_numbers()
        self._check_choices()
        self._check_chances()

    def _check_numbers(self) -> None:
        for name in _AT_LEAST_ONE:
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < 1):
                raise ValueError(f"{name} must be a whole number of at least 1, not {value!r}")
        for name in _AT_LEAST_ZERO:
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise ValueError(f"{name} must be a number of at least 0, not {value!r}")
        for name in _ABOVE_ZERO:
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"{name} must be above 0, not {value!r}")

    def _check_choices(self) -> None:
        for option in dataclasses.fields(self):
            value = getattr(self, option.name)
            if option.type is bool and type(value) is not bool:
                raise ValueError(f"{option.name} must be True or False, not {value!r}")
        if self.tier is not None and self.tier not in TIERS:
            raise ValueError(f"tier must be one of {list(TIERS)}, not {self.tier!r}")
        for name, allowed in _ONE_OF.items():
            value = getattr(self, name)
            if value not in allowed:
                raise ValueError(f"{name} must be one of {list(allowed)}, not {value!r}")
        for name in _NOT_EMPTY:
            value = getattr(self, name)
            if value is not None and (not isinstance(value, str) or not value):
                raise ValueError(f"{name} must not be empty, but text or None, not {value!r}")
        if status_of(f"status_{self.marker_status}") is None:
            raise ValueError(f"marker_status must be 400 to 599, not {self.marker_status!r}")

    def _check_chances(self) -> None:
        shares = {
            "refused_share": self.refused_share,
            "stall_probability": self.stall_probability,
            **{f"faults[{name!r}]": share for name, share in self.faults.items()},
        }
        for name, share in shares.items():
            if not 0 <= share <= 1:
                raise ValueError(f"{name} must be between 0 and 1, not {share!r}")
        odd = {*self.batch_api.line_faults} - {*SPOILED, *LINE_FAULTS}
        if any(status_of(name) is None for name in odd):
            raise ValueError(f"unknown line_faults {sorted(odd)} of batch_api")
        names = {*self.faults} | ({*self.script} - {"ok"})
        unknown = sorted(name for name in names - {*FAULTS} if status_of(name) is None)
        if unknown:
            raise ValueError(
                f"unknown faults {unknown}; known are {', '.join(FAULTS)}, status_400 to"
                ' status_599 (and "ok" in a script)'
            )
        if math.fsum(self.faults.values()) > 1 + 1e-9:
            raise ValueError("the probabilities in faults must not add up to more than 1")

    @property
    def quotas(self) -> tuple[int | None, int | None]:
        """Requests and tokens a minute, from the tier where they are not given themselves."""
        requests, tokens = TIERS[self.tier] if self.tier is not None else (None, None)
        return (
            requests if self.requests_per_minute is None else self.requests_per_minute,
            tokens if self.tokens_per_minute is None else self.tokens_per_minute,
        )

    @property
    def queue(self) -> int | None:
        """Tokens that may be enqueued in batches, from the tier where it is not given itself."""
        given = self.batch_api.max_enqueued_tokens
        return QUEUES.get(self.tier or 0) if given is None else given

    def to_json(self) -> str:
        """Write the scenario as a JSON object, for `from_json`."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Read a scenario from a JSON object of its options; those left out keep their defaults.

        Raises:
            ValueError: not a JSON object, an unknown option, or a value that is not allowed.

        """
        options: Any = json.loads(text)
        if not isinstance(options, dict):
            raise ValueError("a scenario is a JSON object of options")
        known = [option.name for option in dataclasses.fields(cls)]
        unknown = sorted({*options} - {*known})
        if unknown:
            raise ValueError(f"unknown options {unknown}; known are {', '.join(known)}")
        try:
            return cls(**options)
        except TypeError as error:
            raise ValueError(f"an option has a value of the wrong type: {error}") from error


def status_of(fault: str) -> int | None:
    """Return the status of a fault like "status_424"; None where it has another kind of name."""
    match = _STATUS.fullmatch(str(fault))
    return int(match[1]) if match else None


def is_refusal(fault: str) -> bool:
    """Return whether this fault takes the place of an answer."""
    return fault in REFUSALS or status_of(fault) is not None


def _tuples(name: str, value: Any) -> tuple[tuple[float, ...], ...]:
    """Return lists of lists, as JSON has them, as tuples of numbers that are in range.

    Raises:
        ValueError: not such tuples, a number below 0 or not finite, or no seconds.

    """
    parts = _PERIODS[name]
    count = len(parts.split(", "))
    wrong = ValueError(
        f"{name} must be a tuple of ({parts}), of numbers of at least 0 and with seconds above 0,"
        f" not {value!r}"
    )
    try:
        periods = tuple(tuple(period) for period in value)
        fits = all(
            len(period) == count
            and all(0 <= number < math.inf for number in period)
            and period[1] > 0
            for period in periods
        )
    except TypeError:
        raise wrong from None
    if not fits:
        raise wrong
    return periods
