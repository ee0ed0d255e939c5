"""The options of the simulator: limits, quotas, latency, and which faults occur."""

import dataclasses
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, Literal, Self, get_args

from .batch_scenario import LINE_FAULTS, QUEUES, BatchApi, is_number
from .quota import UsedOf

# Requests and tokens per minute for text-embedding-3-small and -large
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

# Faults that replace an answer. Nothing is computed, charged or billed.
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

# Faults that spoil an answer as it is sent. The request was charged to the quota. If vectors were
# computed (for all faults but "html" and "error_200"), it was billed as well.
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

# Refusals that consist of a status only: "status_400" to "status_599".
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
# Options that are tuples of tuples, with the contents of each inner tuple.
_PERIODS: Final[Mapping[str, str]] = MappingProxyType(
    {"outages": "start, seconds", "slow_periods": "start, seconds, factor"}
)


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """What the server allows, how fast it is, and what goes wrong; the defaults match OpenAI.

    Attributes:
        dimensions: width of a vector. A request may ask for a smaller width, except from
            text-embedding-ada-002.
        models: names of the models that exist. A request for any other model gets a 404. An empty
            tuple accepts any model.
        api_key: the only key that is accepted. A request with any other key gets a 401. `None`
            accepts any key, or none at all.
        tier: 1 to 5, sets both quotas as in `TIERS`. A quota that is given explicitly wins.
        requests_per_minute: the request quota; `None` if there is none.
        tokens_per_minute: the token quota; `None` if there is none. A request is charged
            UTF-8 bytes / 4, as OpenAI's limiter does.
        bucket_seconds: how many seconds of quota can be saved up. Buckets start full and refill
            continuously. With 1.0 the limiter applies 60 per minute as 1 per second.
        fixed_window_seconds: count the quota in windows of this length, each of which allows its
            share of a minute. The first window begins with the first request that is checked
            against the quota. A refused request has to wait until its window ends.
            `bucket_seconds` has no effect then. `None` uses a bucket.
        used_of: what a 429 reports as `Used`. "minute" adds the difference between the limit per
            minute and the bucket's capacity, so that (Used + Requested - Limit) * 60 / Limit is
            the true wait for a bucket. "bucket" leaves that difference out, so that
            Used + Requested may be below Limit.
        refused_share: share of its cost, 0 to 1, that a request refused for quota is charged.
        rate_limit_headers: send x-ratelimit-* headers on 200 and 429, if there are quotas.
        refusal_hint: how a 429 announces the wait, if waiting helps. "exact" sends
            retry-after-ms, retry-after and the wait in the message; "text" only the message. The
            other hints leave the wait out of the message. "zero" sends `Retry-After: 0`, "date"
            sends Retry-After with an HTTP date, and "none" sends nothing.
        error_details: False sends a gateway's bare 429, with no number or reason in its body.
        latency: factor on the latency; 0 answers at once. At 1 the server takes
            (80 ms + 7 ms per kilotoken) * lognormal(0, 0.85), the network 40 to 150 ms, and a new
            connection 300 ms more. These figures are fitted to public recordings of OpenAI's
            endpoint.
        stall_probability: share of requests that take `stall_factor` times as long.
        stall_factor: factor on the whole latency of a stalled request.
        slow_periods: one (start, seconds, factor on the latency) per period. Starts are in seconds
            since the first request. The time of a request's arrival decides its factor. The
            factors of overlapping periods multiply.
        workers: how many requests are computed at the same time. Further requests wait in a
            first-in, first-out queue. `None` computes all requests at once.
        seconds_per_request: computing time of every request, in addition to its latency.
        seconds_per_text: additional computing time for each text of the request.
        notices_leaving: True skips a queued request whose client has disconnected. False computes
            it anyway. A worker always finishes a request that it has started.
        max_in_flight: how many requests a proxy in front of the server admits at the same time.
            The proxy refuses further requests at once with an HTML page and without a hint, as
            nginx's limit_conn does. A request counts until it is answered or its client has
            disconnected. `None` if there is no limit.
        busy_status: the status of that page, 429 or 503.
        outages: (start, seconds) of each outage of the endpoint. Starts are in seconds since the
            first request.
        outage: what happens during an outage. "reset" ends connections without an answer,
            including those of requests in flight when the outage starts. "503" answers all of
            these requests with a proxy's HTML page. "hang" keeps them waiting until the outage is
            over and answers them then.
        max_inputs: maximum number of inputs in a request.
        max_tokens_per_input: maximum number of true tokens (cl100k_base) in one input.
        max_tokens_per_request: maximum number of tokens in a request, counted as
            `request_tokens_by` specifies.
        request_tokens_by: "tokens" counts true tokens, "bytes" counts UTF-8 bytes / 4, rounded up.
        max_body_bytes: requests with a longer body get a 413; `None` if there is no limit.
        text_limit_words: the message of the 400 for more than `max_inputs` inputs. `None` uses the
            provider's message.
        refuse_marker: a request with a text that contains this marker fails as a whole. The error
            does not say which text caused it.
        marker_status: the status of that error, 400 to 599. 400 imitates a content filter; 500
            imitates a text that always crashes the server.
        firewall_marker: a request with a text that contains this marker gets a 403 with an HTML
            page, as from a web application firewall. The page does not say which text caused it.
        base64: False answers with floats even if the request asks for base64.
        token_arrays: False answers inputs of token ids with 422.
        index: False leaves `index` out of every item.
        usage: False leaves `usage` out of the answer.
        honour_dimensions: False ignores the request's `dimensions`.
        faults: name -> probability, drawn for each request. The names are those in `FAULTS`, and
            "status_400" to "status_599" for plain JSON errors with any other status.
        script: a fault's name or "ok" for each of the first requests, in order of arrival. The
            probabilities in `faults` apply to all later requests.
        hang_seconds: how long a hanging request is kept open before its connection is closed.
        drip_seconds: seconds between two bytes of a dripping answer.
        retry_after: seconds that 429s announce in place of the true wait, in the form that
            `refusal_hint` sets. `None` announces the true wait.
        vector_cache: keep what was computed for a text, so that repeated texts cost next to
            nothing (8 KB per text at 1,536 dimensions).
        batch_api: options of files and batches; see `BatchApi`.
        seed: seed of all random draws. With the same seed, the n-th request always draws the same
            latency and faults.

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
            raise ValueError("models and script must be tuples of strings, not one string")
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
            if value is not None and not (is_number(value) and 0 <= value < math.inf):
                raise ValueError(f"{name} must be a number of at least 0, not {value!r}")
        for name in _ABOVE_ZERO:
            value = getattr(self, name)
            if value is not None and not (is_number(value) and 0 < value < math.inf):
                raise ValueError(f"{name} must be a number above 0, not {value!r}")

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
                raise ValueError(f"{name} must be text that is not empty, or None, not {value!r}")
        if status_of(f"status_{self.marker_status}") is None:
            raise ValueError(f"marker_status must be 400 to 599, not {self.marker_status!r}")

    def _check_chances(self) -> None:
        shares = {
            "refused_share": self.refused_share,
            "stall_probability": self.stall_probability,
            **{f"faults[{name!r}]": share for name, share in self.faults.items()},
        }
        for name, share in shares.items():
            if not (is_number(share) and 0 <= share <= 1):
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
        """The quotas of requests and tokens per minute; the tier sets those not given."""
        requests, tokens = TIERS[self.tier] if self.tier is not None else (None, None)
        return (
            requests if self.requests_per_minute is None else self.requests_per_minute,
            tokens if self.tokens_per_minute is None else self.tokens_per_minute,
        )

    @property
    def queue(self) -> int | None:
        """How many tokens may be enqueued in batches; the tier sets it unless given explicitly."""
        given = self.batch_api.max_enqueued_tokens
        return QUEUES.get(self.tier or 0) if given is None else given

    def to_json(self) -> str:
        """Write the scenario as a JSON object, for `from_json`."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Read a scenario from a JSON object of its options; those left out keep their defaults.

        Raises:
            ValueError: `text` is not a JSON object, an option is unknown, or a value is not
                allowed.

        """
        options: Any = json.loads(text)
        if not isinstance(options, dict):
            raise ValueError("a scenario must be a JSON object of options")
        known = [option.name for option in dataclasses.fields(cls)]
        unknown = sorted({*options} - {*known})
        if unknown:
            raise ValueError(f"unknown options {unknown}; known are {', '.join(known)}")
        try:
            return cls(**options)
        except TypeError as error:
            raise ValueError(f"an option has a value of the wrong type: {error}") from error


def status_of(fault: str) -> int | None:
    """Return the status of a fault like "status_424"; `None` for a fault with any other name."""
    match = _STATUS.fullmatch(str(fault))
    return int(match[1]) if match else None


def is_refusal(fault: str) -> bool:
    """Return whether this fault replaces an answer."""
    return fault in REFUSALS or status_of(fault) is not None


def _tuples(name: str, value: Any) -> tuple[tuple[float, ...], ...]:
    """Return an option's lists of lists, as read from JSON, as tuples of tuples of numbers.

    Raises:
        ValueError: the value has another shape, a number is negative or not finite, or a period
            lasts 0 seconds.

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
