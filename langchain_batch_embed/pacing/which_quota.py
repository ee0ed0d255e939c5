"""Which quota it is that refuses requests and that nobody tells: of requests, or of tokens.

Both are measured at the same time, and only one of them is real. If it is that of requests, batches
should be as large as they can be. If it is that of tokens, those above its bucket never pass. So it
has to be found out, from little:

- A quota of tokens lets one text of the greatest length through. If less than that was sent in all,
  a refusal is not about tokens.
- Otherwise batches several times as large as the usual ones are tried, as often as the usual ones
  were sent. If they get through, more tokens flow than the quota of tokens that was measured.
- If such a batch is refused, the tokens are what is counted, or it was bad luck. So a few small
  batches are sent later. If the tokens are counted, more of them pass, and the trial costs nothing.
  Otherwise large batches are tried again, as they are where texts are too long for small batches.
"""

import math
from typing import Literal

from langchain_batch_embed.pacing.small_batches import SmallBatches

__all__ = ["LEAST_QUOTA", "LENIENT", "SLOWEST", "WhichQuota"]

LEAST_QUOTA = 8192
"""Tokens that any quota of tokens lets through at once: the longest text that OpenAI takes."""

TRIAL = 5.0
"""While it may be either, batches hold up to this many times the usual number of tokens."""

PROOF = 3.0
"""Requests are what is counted once this many times the tokens have passed that the measured quota
of tokens would have let through."""

ENOUGH = 8
"""A large batch that is refused after this many others have passed is not too large. The rates that
were measured are wrong."""

LENIENT = 1.5
"""While it may be either, a request waits for up to this many times the seconds between usual
requests. A quota of requests then lets it through."""

DRY = 3
"""After this many pauses in a row that nobody asked for, what was let through at first is used up
for a while: as where requests are counted in fixed minutes. Then batches are as large as may be."""

LONG = 5.0
"""A server that asks for a pause of this many seconds has used up its quota for a while, too."""

SLOWEST = 1.0
"""Seconds between requests to begin with, at most: a server that asks for a pause of 40 s need not
mean one request in 40 s."""

PATIENCE = 12
"""After this many refusals in a row, in more than a minute, it is not the requests."""


class WhichQuota:
    """What is known of which quota it is.

    Attributes:
        kind: which one; `None`: it may be either.
        is_certain: it is that of requests, and no refusal of a large batch changes that.
        is_dry: it was once used up for longer than a bucket takes to let one request through.
    """

    def __init__(self) -> None:
        self.kind: Literal["requests", "tokens"] | None = None
        self.is_certain = self.is_dry = False
        self._small = SmallBatches()  # tried where it seems to be the tokens
        self._largest = float(LEAST_QUOTA)  # tokens of a request that passes
        self._largest_passed = 0.0  # and of one that has passed
        self._refused_at = math.inf  # when the quota was used up last
        self._passed = 0.0  # tokens that have passed since
        self._trials = 0  # large batches among them
        self._rate = 0.0  # tokens a second, as measured then
        self._usual = 0.0  # tokens in a request, as measured then

    @property
    def most(self) -> float:
        """The most tokens that a batch should hold, once rates are measured."""
        if self.kind is None:
            return max(TRIAL * self._usual, 2.0 * LEAST_QUOTA)
        if self.kind == "tokens":
            return self._small.most(self._usual) if self._small.are_tried else self._largest
        return math.inf if self.is_certain else TRIAL * self._largest

    @property
    def most_when_dry(self) -> float:
        """The most tokens for a batch after a dry time in which no rate could be measured."""
        return TRIAL * max(LEAST_QUOTA, self._largest_passed)

    @property
    def is_trying_small(self) -> bool:
        """Whether more requests than usual are sent on purpose."""
        return self.kind == "tokens" and self._small.are_tried

    def is_trial(self, tokens: float) -> bool:
        """Tell whether a batch is so large that it tells which quota it is."""
        return (
            self.kind is None
            and self._usual > 0
            and tokens > max(TRIAL / 2 * self._usual, LEAST_QUOTA)
        )

    def is_decisive(self, tokens: float) -> bool:
        """Tell whether a refusal of a batch would say that it is not the requests after all."""
        return self.kind == "requests" and not self.is_certain and tokens > self._largest

    def passed(self, tokens: float, *, sent: float, now: float) -> float | None:
        """Note a request that was let through.

        Returns:
            Requests a second to begin with, if it is the requests.
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
        """Tell whether a refusal after so few tokens is not about tokens."""
        return sent_in_all <= LEAST_QUOTA

    def exclude_tokens(self, tokens: float) -> None:
        """Note that a refusal is not about tokens, if as many of them have passed before."""
        if tokens <= 2 * self._largest_passed:
            self.kind, self.is_certain = "requests", True

    def paused(self, in_a_row: int, after: float | None) -> None:
        """Note how many pauses there were without an answer, and the seconds that are asked for."""
        self.is_dry |= in_a_row >= DRY if after is None else after >= LONG

    def refused(self, tokens: float, *, sent: float, in_a_row: int, is_lone: bool) -> bool:
        """Note a refusal; return whether that was for the tokens in it, so that the rates hold.

        Args:
            tokens: of the request.
            sent: when it was sent.
            in_a_row: pauses without an answer in between.
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

    def measured(self, tokens: float | None, requests: float | None, now: float) -> None:
        """Note that the quota is used up, and what both rates are a second."""
        self._refused_at, self._passed, self._trials = now, 0.0, 0
        self._compare(tokens, requests)

    def measured_since(self, tokens: float | None, requests: float | None) -> None:
        """Note what both rates are where they were not known yet when the quota was used up."""
        if not self._usual and self._refused_at < math.inf:
            self._compare(tokens, requests)

    def _compare(self, tokens: float | None, requests: float | None) -> None:
        if tokens and requests:
            self._rate, self._usual = tokens, tokens / requests
