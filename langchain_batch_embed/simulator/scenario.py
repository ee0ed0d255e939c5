"""All that the simulator is told: limits, quotas, latency, and what is to go wrong."""

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, Literal, Self

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
    "doubled",
    "drip",
    "empty_data",
    "error_200",
    "html",
    "nan",
    "no_index",
    "nulls",
    "short",
    "shuffled",
    "truncated",
    "wrong_width",
)

FAULTS: Final = tuple(sorted(REFUSALS + SPOILED))

_AT_LEAST_ONE = (
    "dimensions",
    "requests_per_minute",
    "tokens_per_minute",
    "max_inputs",
    "max_tokens_per_input",
    "max_tokens_per_request",
    "max_body_bytes",
)
_AT_LEAST_ZERO = ("latency", "hang_seconds", "drip_seconds", "retry_after")


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
        refused_share: share of its cost, 0 to 1, that a request refused for quota is charged.
        rate_limit_headers: send x-ratelimit-* where there are quotas, on 200 and 429.
        retry_headers: send retry-after-ms and retry-after on 429.
        error_details: False is a gateway's bare 429, without a number or a reason in its body.
        latency: scale of the latency; 0 answers at once. At 1 the server takes
            (80 ms + 7 ms a kilotoken) * lognormal(0, 0.85), the network 40 to 150 ms, a new
            connection 300 ms more: a fit to public recordings of OpenAI's endpoint.
        stall_probability: share of requests that take 20 times as long.
        max_inputs: inputs a request.
        max_tokens_per_input: true tokens (cl100k_base).
        max_tokens_per_request: as counted by `request_tokens_by`.
        request_tokens_by: "tokens" are true tokens, "bytes" are UTF-8 bytes / 4, rounded up.
        max_body_bytes: longer requests are answered with 413; None is no limit.
        refuse_marker: a text that contains it makes its whole request a 400 that does not say
            which text it was.
        base64: False answers with floats also where base64 was asked for.
        token_arrays: False answers inputs of token ids with 422.
        index: False leaves `index` out of every item.
        usage: False leaves `usage` out of the answer.
        honour_dimensions: False ignores the request's `dimensions`.
        faults: name -> probability, drawn for each request. The names are in `FAULTS`.
        script: a fault's name or "ok" for each of the first requests, in order of arrival;
            after it the probabilities apply.
        hang_seconds: how long a hanging request is kept open before its connection is closed.
        drip_seconds: between two bytes of a dripping answer.
        retry_after: seconds told in every 429, also where the true wait is another.
        vector_cache: keep what was computed for a text, so that the same texts cost next to
            nothing the next time (8 KB a text at 1,536 dimensions).
        seed: of everything random. The same seed gives the n-th request the same luck.

    Raises:
        ValueError: a value is out of its range, or a fault is unknown.

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
    refused_share: float = 1.0
    rate_limit_headers: bool = True
    retry_headers: bool = True
    error_details: bool = True
    latency: float = 1.0
    stall_probability: float = 0.0
    max_inputs: int = 2048
    max_tokens_per_input: int = 8192
    max_tokens_per_request: int = 300_000
    request_tokens_by: Literal["tokens", "bytes"] = "tokens"
    max_body_bytes: int | None = None
    refuse_marker: str | None = None
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
    seed: int = 0

    def __post_init__(self) -> None:
        """Check every value, and make the collections immutable."""
        if isinstance(self.models, str) or isinstance(self.script, str):
            raise ValueError("models and script are tuples of strings, not one string")
        object.__setattr__(self, "models", tuple(self.models))
        object.__setattr__(self, "script", tuple(self.script))
        object.__setattr__(self, "faults", dict(self.faults))
        for name in _AT_LEAST_ONE:
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < 1):
                raise ValueError(f"{name} must be a whole number of at least 1, not {value!r}")
        for name in _AT_LEAST_ZERO:
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise ValueError(f"{name} must be a number of at least 0, not {value!r}")
        if not 0 < self.bucket_seconds < math.inf:
            raise ValueError(f"bucket_seconds must be above 0, not {self.bucket_seconds!r}")
        if self.tier is not None and self.tier not in TIERS:
            raise ValueError(f"tier must be one of {list(TIERS)}, not {self.tier!r}")
        if self.request_tokens_by not in ("tokens", "bytes"):
            raise ValueError(
                f'request_tokens_by must be "tokens" or "bytes", not {self.request_tokens_by!r}'
            )
        if self.refuse_marker == "":
            raise ValueError("refuse_marker must not be empty: every text contains that")
        self._check_chances()

    def _check_chances(self) -> None:
        shares = {
            "refused_share": self.refused_share,
            "stall_probability": self.stall_probability,
            **{f"faults[{name!r}]": share for name, share in self.faults.items()},
        }
        for name, share in shares.items():
            if not 0 <= share <= 1:
                raise ValueError(f"{name} must be between 0 and 1, not {share!r}")
        unknown = sorted(({*self.faults} | {*self.script}) - {*FAULTS, "ok"})
        if unknown or "ok" in self.faults:
            raise ValueError(
                f"unknown faults {unknown or ['ok']}; known are {', '.join(FAULTS)}"
                ' (and "ok" in a script)'
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
