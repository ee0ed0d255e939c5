"""The options of the simulator's Batch API: times, limits, and which faults occur."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, Literal, get_args

# By tier, the tokens that may be enqueued for one embedding model (OpenAI's rate limit page).
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

# Faults of a line, in addition to those of an answer and "status_400" to "status_599".
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
        exists: False answers all paths of the Batch API with 404, like a server without one.
        day: seconds that stand for the 24 hours of the completion window.
        validating: seconds from a batch's creation until it runs.
        running: seconds from then until all its lines are answered, one after the other.
        finalizing: seconds from then until the output can be read.
        cancelling: seconds from the request to cancel until the batch is cancelled.
        max_lines: maximum number of lines in a batch.
        max_inputs: maximum number of inputs in all lines of a batch.
        max_bytes: maximum size of a file.
        max_enqueued_tokens: maximum number of tokens in all batches that have not ended. `None`
            uses the tier's limit; without a tier there is none.
        visible_after: seconds from a file's upload until batches can find it.
        listed_after: seconds from a batch's creation until it appears in the list of batches.
        shuffled: write the output in an order that differs from the input's.
        empty_ids: what a batch shows as the id of a file without lines. "null" shows null, "empty"
            shows "", and "file" shows the id of an empty file.
        fates: what happens to the first batches, in order of creation; later ones are "ok".
            "expires" answers `expired_share` of the lines before the day is over. "stuck" answers
            none and expires, "stuck_validating" does not even start to run, and "stuck_for_good"
            never ends, not even when it is cancelled. The other fates fail the batch, because of
            the enqueued tokens or requests, a file that cannot be found, its first line, its
            model, or an unknown cause.
        expired_share: share of the lines of an expiring batch that are answered.
        creations: what happens to the first calls that create a batch. "lost" and "late" create
            the batch and end the connection without an answer. "late" also hides the batch from
            the list for `listed_after`. "token_limit" and "unseen_file" are refused at once with
            400.
        call_faults: name -> probability for every call to files and batches. "reset" and "503"
            fail before the server does anything. "lost" does what was asked, but sends no answer.
        line_faults: name -> share of the lines. The names are those of faults that spoil an
            answer, "status_400" to "status_599", "missing" (the line is in neither file),
            "status_0" and "twice" (both in the output).
        outages: (start, seconds) of each period in which connections are reset. Starts are in
            seconds since the first call.

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
            is_unlimited = value is None and name == "max_enqueued_tokens"
            if not is_unlimited and (type(value) is not int or value < 1):
                raise ValueError(f"{name} must be a whole number of at least 1, not {value!r}")
        for name in (*_AT_LEAST_ZERO, *_ABOVE_ZERO):
            value = getattr(self, name)
            is_in_range = is_number(value) and 0 <= value < math.inf
            if not is_in_range or (name in _ABOVE_ZERO and not value):
                least = "above 0" if name in _ABOVE_ZERO else "of at least 0"
                raise ValueError(f"{name} must be a number {least}, not {value!r}")
        for name in ("exists", "shuffled"):
            if type(getattr(self, name)) is not bool:
                raise ValueError(f"{name} must be True or False")
        for shares in (self.call_faults, self.line_faults, {"expired_share": self.expired_share}):
            if not all(is_number(share) and 0 <= share <= 1 for share in shares.values()):
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
        """Return a `BatchApi` as it is, or build one from a mapping of options (from JSON).

        Raises:
            ValueError: the argument is neither, or an option is unknown or not allowed.
        """
        if isinstance(options, cls):
            return options
        if not isinstance(options, Mapping):
            raise ValueError("batch_api must be an object of options")
        known = [option.name for option in dataclasses.fields(cls)]
        unknown = sorted({*options} - {*known})
        if unknown:
            raise ValueError(
                f"unknown options {unknown} of batch_api; known are {', '.join(known)}"
            )
        return cls(**options)


def is_number(value: object) -> bool:
    """Return whether a value is a number, which True and False are not."""
    return isinstance(value, int | float) and not isinstance(value, bool)
