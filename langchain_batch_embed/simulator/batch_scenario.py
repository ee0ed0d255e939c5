"""The scenario of the simulator's Batch API: times, limits, and what goes wrong."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, Literal, get_args

# Tokens that may be enqueued for one embedding model (OpenAI's rate limit page).
QUEUES: Final[Mapping[int, int]] = MappingProxyType(
    {1: 3_000_000, 2: 20_000_000, 3: 100_000_000, 4: 500_000_000, 5: 4_000_000_000}
)

Fate = Literal[
    "ok",
    "expires",
    "stuck",
    "stuck_validating",
    "stuck_for_good",
    "token_limit",
    "request_limit",
    "unseen_file",
    "bad_line",
    "bad_model",
    "unknown_failure",
]
Call = Literal["ok", "reset", "lost", "500", "503", "late", "token_limit", "unseen_file"]
EmptyIds = Literal["null", "empty", "file"]

# Faults of a line beside those of an answer and "status_400" to "status_599".
LINE_FAULTS: Final = ("missing", "status_0", "twice")

_ABOVE_ZERO = ("day", "expired_share")
_AT_LEAST_ZERO = (
    *("validating", "running", "finalizing", "cancelling"),
    *("visible_after", "listed_after"),
)
_AT_LEAST_ONE = ("max_lines", "max_inputs", "max_bytes", "max_enqueued_tokens")


@dataclass(frozen=True, kw_only=True)
class BatchApi:
    """What the Batch API allows, how fast it is, and what goes wrong; times are in seconds.

    Attributes:
        exists: False answers its addresses with 404, like a server without a Batch API.
        day: how long the 24 hours of the completion window last.
        validating: from a batch's creation until it runs.
        running: until all its lines are answered, one after the other.
        finalizing: until the output can be read.
        cancelling: from the wish to cancel until the batch is cancelled.
        max_lines: in a batch.
        max_inputs: over all lines of a batch.
        max_bytes: of a file.
        max_enqueued_tokens: in all batches that have not ended; None is the tier's, or none.
        visible_after: from the upload until batches can find the file.
        listed_after: from a batch's creation until it is in the list of batches.
        shuffled: write the output in another order than the input.
        empty_ids: what the id of a file without lines is: null, "", or that of an empty file.
        fates: what becomes of the first batches, in order of their creation; the others are "ok".
            "expires" answers `expired_share` of the lines within the day. "stuck" answers nothing
            until then, "stuck_validating" does not even begin, and "stuck_for_good" does not end
            when it is cancelled either. The others fail: at the enqueued tokens or requests, as the
            file cannot be found, for their first line, for the model, or for no known reason.
        expired_share: of the lines of a batch that expires, those that are answered.
        creations: what becomes of the first calls that create a batch. "lost" and "late" create
            it and end the connection without an answer, "late" also hides it from the list for
            `listed_after`. "token_limit" and "unseen_file" are refusals at once, with 400.
        call_faults: name -> probability for any call to files and batches. "reset" and "503" do
            nothing, "lost" does it and does not say so.
        line_faults: name -> share of the lines. The names are those of faults that spoil an
            answer, "status_400" to "status_599", and "missing" (in neither file), "status_0" and
            "twice" (in the output).
        outages: (start, seconds) of each time that connections are reset, since the first call.

    Raises:
        ValueError: a value is out of its range or of the wrong type, or a name is unknown.

    """

    exists: bool = True
    day: float = 60.0
    validating: float = 0.05
    running: float = 0.3
    finalizing: float = 0.05
    cancelling: float = 0.1
    max_lines: int = 50_000
    max_inputs: int = 50_000
    max_bytes: int = 200_000_000
    max_enqueued_tokens: int | None = None
    visible_after: float = 0.0
    listed_after: float = 0.0
    shuffled: bool = True
    empty_ids: EmptyIds = "null"
    fates: tuple[Fate, ...] = ()
    expired_share: float = 0.5
    creations: tuple[Call, ...] = ()
    call_faults: Mapping[str, float] = field(default_factory=dict)
    line_faults: Mapping[str, float] = field(default_factory=dict)
    outages: tuple[tuple[float, float], ...] = ()

    def __post_init__(self) -> None:
        """Check every value, and make the collections immutable."""
        for name in ("fates", "creations"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        object.__setattr__(self, "outages", tuple(map(tuple, self.outages)))
        for name in ("call_faults", "line_faults"):
            object.__setattr__(self, name, dict(getattr(self, name)))
        self._check_numbers()
        self._check_names()

    def _check_numbers(self) -> None:
        for name in _AT_LEAST_ONE:
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < 1):
                raise ValueError(f"{name} must be a whole number of at least 1, not {value!r}")
        for name in (*_ABOVE_ZERO, *_AT_LEAST_ZERO):
            value = getattr(self, name)
            if not 0 <= value < math.inf or (name in _ABOVE_ZERO and not value):
                raise ValueError(f"{name} must be a number of at least 0, not {value!r}")
        for name in ("exists", "shuffled"):
            if type(getattr(self, name)) is not bool:
                raise ValueError(f"{name} must be True or False")
        for shares in (self.call_faults, self.line_faults, {"expired_share": self.expired_share}):
            if any(not 0 <= share <= 1 for share in shares.values()):
                raise ValueError(f"shares must be between 0 and 1, not {shares!r}")

    def _check_names(self) -> None:
        allowed = {"fates": Fate, "creations": Call}
        for name, kinds in allowed.items():
            unknown = sorted({*getattr(self, name)} - {*get_args(kinds)})
            if unknown:
                raise ValueError(f"unknown {name} {unknown}; known are {get_args(kinds)}")
        if self.empty_ids not in get_args(EmptyIds):
            raise ValueError(f"empty_ids must be one of {get_args(EmptyIds)}")
        unknown = sorted({*self.call_faults} - {"reset", "lost", "503"})
        if unknown:
            raise ValueError(f"unknown call_faults {unknown}; known are reset, lost, 503")

    @classmethod
    def of(cls, options: Any) -> "BatchApi":
        """Return it as it is, or made of a mapping of its options, as JSON has them."""
        if isinstance(options, cls):
            return options
        if not isinstance(options, Mapping):
            raise ValueError("batch_api is an object of options")
        known = [option.name for option in dataclasses.fields(cls)]
        unknown = sorted({*options} - {*known})
        if unknown:
            raise ValueError(
                f"unknown options {unknown} of batch_api; known are {', '.join(known)}"
            )
        return cls(**options)
