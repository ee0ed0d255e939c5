"""The state that the two buckets and the throttle of a shared quota have in common."""

import math
from dataclasses import dataclass

__all__ = ["PATIENCE", "Terms"]

PATIENCE = 2.0
"""After this many seconds without an answer from the ledger, a worker continues without it."""


@dataclass(slots=True, kw_only=True)
class Terms:
    """What this process knows from its exchanges with the ledger, and has yet to report.

    All times are on this process's clock.

    Attributes:
        workers: how many processes share the quota.
        share: the share of the rate that is used.
        has_joined: whether the ledger has answered since the calls began.
        is_known: whether the ledger knows at least one kind of quota.
        is_failing: whether the ledger cannot be reached.
        answer_by: when this worker stops waiting for an answer; `inf` if nothing waits for one.
        due: when the pending reservation may be used; `inf` if the ledger does not know yet.
        pause_until: the end of a pause that any worker has requested.
        paused_at: when this process learnt of that pause.
        passed: how many requests the server let through since the last report.
        refused_sent: when the latest refused request that is not reported yet was sent; `None` if
            there is none.
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
        """Return whether this worker has to continue without the ledger."""
        return self.is_failing or now >= self.answer_by

    def await_answer(self, now: float) -> float:
        """Return the seconds for which this worker still waits for an answer of the ledger.

        The wait begins now, unless it has begun already, and takes `PATIENCE` seconds in all. After
        it, the worker continues without the ledger.
        """
        self.answer_by = min(self.answer_by, now + PATIENCE)
        return self.answer_by - now
