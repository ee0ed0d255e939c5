"""Decides whether a hidden quota counts requests or tokens.

After a refusal without headers, both rates are measured at the same time, and only one of them is
real. If the server counts requests, batches should be as large as possible. If it counts tokens, a
batch above its bucket never passes. Few observations have to decide:

- Every quota of tokens accepts one text of the greatest length. If less than that was sent in all,
  the refusal is not about tokens.
- Otherwise batches several times the usual size are tried, as often as usual ones were sent. If
  they pass, more tokens flow than the measured quota of tokens allows: the server counts requests.
- If a large batch is refused, the server counts tokens, or it was bad luck. A few small batches
  are sent later to check (`SmallBatches`). If the server counts tokens, more of them pass, and the
  trial costs nothing. Otherwise large batches are tried again.
"""

import math
from typing import Literal

from langchain_batch_embed.pacing.small_batches import SmallBatches

__all__ = ["LEAST_QUOTA", "LENIENT", "SLOWEST", "WhichQuota"]

LEAST_QUOTA = 8192
"""Tokens that any quota of tokens accepts at once: the longest text that OpenAI takes."""

TRIAL = 5.0
"""While it is undecided, batches hold up to this many times the usual number of tokens."""

PROOF = 3.0
"""The server counts requests if this many times the tokens passed that the measured quota of tokens
would have accepted."""

ENOUGH = 8
"""After this many large batches have passed, a refused one was not too large: the measured rates
were wrong."""

LENIENT = 1.5
"""While it is undecided, a request waits for up to this many times the interval of usual requests.
After that a quota of requests accepts it."""

DRY = 3
"""After this many backoff pauses in a row the quota is used up for a while, as with a limiter that
counts in fixed minutes. From then on batches are as large as possible."""

LONG = 5.0
"""If a server asks for a pause of this many seconds, its quota is used up for a while."""

SLOWEST = 1.0
"""Longest first guess at the seconds between requests: a server that asks for a pause of 40 s need
not mean one request in 40 s."""

SHORT = 0.25
"""A batch that holds the tokens of this many seconds is not too large for any usual bucket."""

PATIENCE = 12
"""After this many refusals in a row, in more than a minute, the server does not count requests."""


class WhichQuota:
    """What is known about which quota the server enforces.

    Attributes:
        kind: the quota; `None` while it may be either.
        is_certain: the server counts requests, and no refusal of a large batch changes that.
        is_dry: the quota was once used up for longer than a bucket needs to accept one request.
    """

    def __init__(self) -> None:
        self.kind: Literal["requests", "tokens"] | None = None
        self.is_certain = self.is_dry = False
        self._small = SmallBatches()  # check the conclusion "tokens"
        self._largest = float(LEAST_QUOTA)  # tokens of a request that certainly passes
        self._largest_passed = 0.0  # tokens of the largest request that has passed
        self._refused_at = math.inf  # when the quota was last used up
        self._passed = 0.0  # tokens that have passed since then
        self._trials = 0  # large batches among them
        self._rate = 0.0  # measured tokens a second
        self._usual = 0.0  # measured tokens in a request

    @property
    def most(self) -> float:
        """The most tokens for a batch once rates are measured."""
        if self.kind is None:
            return max(TRIAL * self._usual, 2.0 * LEAST_QUOTA)
        if self.kind == "tokens":
            if self._small.are_tried:
                return self._small.most(self._usual)
            return max(self._largest_passed, SHORT * self._rate)
        return math.inf if self.is_certain else TRIAL * self._largest

    @property
    def most_when_dry(self) -> float:
        """The most tokens for a batch after a dry time, while no rate is measured."""
        return TRIAL * max(LEAST_QUOTA, self._largest_passed)

    @property
    def is_trying_small(self) -> bool:
        """Whether small batches, and so more requests than usual, are sent on purpose."""
        return self.kind == "tokens" and self._small.are_tried

    def is_trial(self, tokens: float) -> bool:
        """Return whether a batch is large enough to decide which quota it is."""
        return (
            self.kind is None
            and self._usual > 0
            and tokens > max(TRIAL / 2 * self._usual, LEAST_QUOTA)
        )

    def is_decisive(self, tokens: float) -> bool:
        """Return whether a refusal of this batch would mean that the server counts tokens."""
        return self.kind == "requests" and not self.is_certain and tokens > self._largest

    def passed(self, tokens: float, *, sent: float, now: float) -> float | None:
        """Record a request that the limiter accepted.

        Returns:
            A first guess at the requests a second if the server counts requests, else `None`.
        """
        if sent > self._refused_at:
            self._passed += tokens
            if self.kind == "tokens":
                requests = self._rate / self._usual if self._usual else math.inf
                if self._small.passed(tokens, sent=sent, now=now, requests=requests):
                    self.kind = None
            if self.is_trial(tokens):
                self._trials += 1
                if self._passed > PROOF * self._rate * (now - self._refused_at):
                    self.kind = "requests"
        self._largest = max(self._largest, tokens)
        self._largest_passed = max(self._largest_passed, tokens)
        if self.kind == "requests" and sent > self._refused_at:
            return 1 / min(SLOWEST, max(1e-3, sent - self._refused_at))
        return None

    @staticmethod
    def excludes_tokens(sent_in_all: float) -> bool:
        """Return whether a refusal after this few tokens cannot be about tokens."""
        return sent_in_all <= LEAST_QUOTA

    def exclude_tokens(self, tokens: float) -> None:
        """Conclude that the server counts requests, if a batch of about this size passed before."""
        if tokens <= 2 * self._largest_passed:
            self.kind, self.is_certain = "requests", True

    def paused(self, in_a_row: int, after: float | None) -> None:
        """Record the pauses since the last answer, and the delay that the server asked for."""
        self.is_dry |= in_a_row >= DRY if after is None else after >= LONG

    def refused(self, tokens: float, *, sent: float, in_a_row: int, is_lone: bool) -> bool:
        """Record a refusal; return whether the batch was too large, so that measured rates hold.

        Args:
            tokens: tokens in the request.
            sent: when it was sent.
            in_a_row: pauses since the last answer.
            is_lone: it was sent alone after a pause, which may have been too short.
        """
        if self.is_trying_small:
            if self._small.refused(sent):
                self.kind = None
            return False
        if self.is_trial(tokens):
            is_too_large = not is_lone and self._trials < ENOUGH
        elif self.kind == "requests" and tokens > self._largest:
            is_too_large = in_a_row >= PATIENCE or not (self.is_certain or is_lone)
        else:
            return False
        if is_too_large:
            self.kind, self.is_certain = "tokens", False
            self._small.begin()
        return is_too_large and not is_lone

    def forget(self) -> None:
        """Forget all conclusions: the refusals were not about a quota."""
        self.kind, self.is_certain, self.is_dry = None, False, False
        self._small = SmallBatches()
        self._refused_at, self._rate, self._usual = math.inf, 0.0, 0.0

    def measured(self, tokens: float | None, requests: float | None, now: float) -> None:
        """Record that the quota is used up, with both measured rates a second."""
        self._refused_at, self._passed, self._trials = now, 0.0, 0
        self._compare(tokens, requests)

    def measured_since(self, tokens: float | None, requests: float | None) -> None:
        """Record both rates a second if they were still unknown when the quota was used up."""
        if not self._usual and self._refused_at < math.inf:
            self._compare(tokens, requests)

    def _compare(self, tokens: float | None, requests: float | None) -> None:
        if tokens and requests:
            self._rate, self._usual = tokens, tokens / requests
