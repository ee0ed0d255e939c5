"""Every refusal that providers are known to send, sorted by its meaning."""

from tests.pacing.answers.others import ACCOUNTS, FAILURES, OPTIONS, OVERLOADS
from tests.pacing.answers.quotas import SPENDS, THROTTLES
from tests.pacing.answers.sizes import REFUSALS, TOO_LARGE

__all__ = ["ANSWERS", "WORDED"]

WORDED = THROTTLES | SPENDS | TOO_LARGE | OPTIONS
"""Refusals that are recognised by the server's words and not by the status alone."""

ANSWERS = WORDED | REFUSALS | ACCOUNTS | OVERLOADS | FAILURES
"""All recorded refusals."""
