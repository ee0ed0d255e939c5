"""What both kinds of a shared quota, and the pause, have in common in this process."""

import math
from dataclasses import dataclass

__all__ = ["PATIENCE", "Terms"]

PATIENCE = 2.0
"""Seconds without an answer of the ledger after which a worker goes on by itself."""


@dataclass(slots=True, kw_only=True)
class Terms:
    """What the last exchange said, in this process's own time.

    Attributes:
        workers: how many share the quota.
        share: of the rate that is used.
        has_joined: the ledger has answered since the calls began.
        is_known: the ledger knows at least one kind of quota.
        is_failing: it cannot be reached.
        answer_by: when an answer is due at the latest; `inf`: nothing waits for one.
        due: when the reservation that waits may be used.
        pause_until: the end of the pause that a worker has asked for.
        paused_at: when this was heard.
        passed: requests let through since the last report.
        refused_sent: when the last refused request was sent that is not reported yet.
    """

    workers: int = 1
    share: float = 1.0
    has_joined: bool = False
    is_known: bool = False
    is_failing: bool = False
    answer_by: float = math.inf
    due: float = -math.inf
    pause_until: float = -math.inf
    paused_at: float = -math.inf
    passed: int = 0
    refused_sent: float | None = None

    def is_cut_off(self, now: float) -> bool:
        """Tell whether this worker has to go on by itself."""
        return self.is_failing or now >= self.answer_by

    def await_answer(self, now: float) -> float:
        """Return the seconds until this worker goes on by itself, which begin now at the latest."""
        self.answer_by = min(self.answer_by, now + PATIENCE)
        return self.answer_by - now
