"""Finds how many requests a server can work on at a time. Pure arithmetic.

No server announces that number. It is found from round trips, as TCP finds the capacity of a path:

- **Start.** A few small requests go out at once, then several times as many. While round trips do
  not grow with the number in flight, there is room.
- **Saturation.** Round trips that grow with the number in flight mean that requests queue, at the
  server or in this process. From then on the number is lowered step by step as long as the work
  done per second stays the same, and raised now and then to see whether more helps.
- **Overload.** A time-out halves the number. A refusal (a 503, or a 429 of a limit on connections)
  lowers it to the requests that were being answered at that moment. Higher numbers are tried again
  at growing intervals.

`comparisons` decides whether round trips differ, as those of a hosted API vary tenfold without any
queue.
"""

import math
from collections import deque
from collections.abc import Sequence

from langchain_batch_embed.limits import FIRST_REQUESTS
from langchain_batch_embed.pacing.comparisons import (
    has_grown,
    is_better_with_fewer,
    is_better_with_more,
    is_near,
    slowdown,
)
from langchain_batch_embed.pacing.round_trips import Round, Trip, came_one_by_one, came_together

__all__ = ["FIRST_WORK", "Concurrency"]

FIRST_WORK = 600
"""Work of each first request to an unknown server, in tokens: about 4 short texts. A processor that
takes 40 ms for each answers them in 0.2 s."""

GROWTH = 4
"""Factor by which each round of the start raises the number."""

GROWTH_TOGETHER = 6
"""That factor after the first answers if they came together, unlike the answers of a queue."""

GROWTH_TOLD = 16
"""That factor once the quota is known, when growth no longer risks refusals."""

DOWN = 1.5
"""Factor by which an attempt lowers the number."""

UP = 2.0
"""Factor by which an attempt raises the number."""

NEAR_ROUNDS = 4
"""Number of first rounds of which every second one tries fewer requests. The very first opens
connections and says little."""

SUSPICIOUS = 4.0
"""Fewer requests are tried when round trips take this many times as long as the first ones, beyond
what the size of the requests explains: they may be queueing."""

SAFE_SHARE = 0.25
"""The start raises the number only while round trips take less than this share of the time-out. If
requests do queue, the last of them must still be answered in time."""

BEGINNING = 16
"""A slow start begins with the number divided by this."""

MOST_TO_BEGIN = 4
"""A slow start begins with at most this many requests. Their answers show whether there is quota
again."""

MANY = 32
"""Most requests sent together after a first refusal. If the quota is used up, all of them are
refused."""

SHARING = 8
"""If more requests at a time were refused, the work is split as if this many times the accepted
number shared it. The last batches then still end at about the same time."""

CHECKS = 2
"""Rounds with the full number that end the start."""

FEWEST_ANSWERS = 4
"""Fewest answers in a round; fewer say little."""

MOST_ANSWERS = 24
"""Most answers in a round; with more, a long queue would be noticed too late."""

START_ANSWERS = 8
"""Most answers in a round of the start, whose numbers differ enough for few answers to show a
queue."""

OVERTAKERS = 16
"""A request that timed out was not queued if this many requests sent after it were answered."""

LONGEST_REST = 256
"""Most rounds between two attempts to raise or lower the number."""


class Concurrency:
    """The current estimate of the server's concurrency limit, between 1 and `most`.

    Args:
        most: the ceiling, `max_workers`.
        first: requests sent before any answer.
        is_known: whether the provider is known to take any number, so that the start is skipped.

    Attributes:
        most: the ceiling.
        is_known: whether the provider is known to take any number.
        estimate: the current estimate.
        timeout: seconds for one request; the start keeps round trips well below.
        is_saturated: whether requests queue, so that more of them get no more work done.
        threshold: the number at which a slow start after a refusal ends.
        began: when the current round began.
        is_opening: whether a known provider has yet to announce its quota.
        is_starting: whether nothing is known yet, so that requests are kept small.
    """

    def __init__(self, most: int, *, first: int = FIRST_REQUESTS, is_known: bool = False) -> None:
        self.most = most
        self.is_known = is_known
        self.estimate = float(min(first, most))
        self.timeout = math.inf
        self.is_saturated = False
        self.is_starting = not is_known and most > 1
        self._is_quota_told = False
        self._checks = 0 if is_known or most == 1 else CHECKS
        self.is_opening = is_known  # until a known provider has answered
        self.threshold = self.estimate  # where a slow start after a refusal ends
        self._ceiling = math.inf  # the number that was last refused or timed out
        self._rest = 1  # rounds until the next attempt
        self._was_raised = True  # since it was last lowered
        self._rounds = 0  # since the last attempt
        self._first_round: Round | None = None
        self._near_rounds = 0  # first rounds with short round trips
        self._last: Round | None = None  # compared with the current attempt
        self._attempt = 0  # -1 while a lower number is tried, 1 for a higher one
        self._turns_up = False  # the next attempt is a higher number
        self._cut = -math.inf  # when the number was last lowered
        self._before_refusals = 1.0  # the highest number that was ever refused
        self._let_in = 0  # requests sent before that and answered since
        self.began = -math.inf
        self._trips: list[Trip] = []  # in this round
        self._busiest = 0  # most requests in flight in this round
        self._answered: deque[float] = deque(maxlen=OVERTAKERS)  # when answered ones were sent

    def limit(self) -> int:
        """Return how many requests may be in flight now."""
        return max(1, min(self.most, int(self.estimate)))

    @property
    def is_slow_start(self) -> bool:
        """Whether the number is growing again after a refusal."""
        return self.estimate < self.threshold

    @property
    def useful(self) -> int:
        """How many requests share the work: as many as were found to help, or else the ceiling."""
        if self._ceiling < math.inf and not self.is_saturated:
            return max(1, min(self.most, int(SHARING * self.threshold)))
        return self.limit() if self.is_saturated else self.most

    def open(self) -> None:
        """Speed up, as the server announced its quota; at a known provider, use the full number."""
        self._is_quota_told = True
        if self.is_opening:
            self.is_opening = False
            self.estimate = float(self.most)

    def answered(self, *, sent: float, now: float, work: float, in_flight: int) -> None:
        """Record an answer.

        Args:
            sent: when its request was sent, in seconds.
            now: the time, in seconds of the same clock.
            work: the work of its request, in tokens.
            in_flight: requests in flight when the answer came, its own included.
        """
        self._let_in += sent <= self._cut
        self._answered.append(sent)
        if self.is_opening:
            # Each answer allows three more requests until the quota is known.
            self.estimate = min(self.most, self.estimate + 3)
            self.is_opening = self.estimate < self.most
        elif self.estimate < self.threshold and sent >= self.began:
            self.estimate = min(self.threshold, self.estimate + 1)  # slow start
        if self.most == 1 or self.is_opening or sent < self.began:
            return
        self._trips.append(Trip(seconds=max(1e-6, now - sent), work=max(1.0, work), end=now))
        self._busiest = max(self._busiest, in_flight)
        is_attempt = self.is_saturated or self._attempt or self._near_rounds
        fewest = FEWEST_ANSWERS * (2 if is_attempt else 1)
        most = START_ANSWERS if self._checks and not is_attempt else MOST_ANSWERS
        if len(self._trips) >= max(fewest, min(most, -(-self.limit() // 2))):
            self._end_round(now)

    def timed_out(self, sent: float, now: float) -> None:
        """Halve the number, once for all requests that were in flight together.

        A single straggler does not count: later requests were answered before it timed out.
        """
        overtakers = sum(other > sent for other in self._answered)
        if sent > self._cut and overtakers < min(self.limit(), OVERTAKERS):
            self._lower(self.estimate / 2, now)
            self.is_saturated = True

    def refused(self, sent: float, now: float, *, in_flight: Sequence[float]) -> None:
        """Lower the number to the requests that the server accepted, as the others are refused.

        Args:
            sent: when the refused request was sent.
            now: the time.
            in_flight: when each request in flight was sent.
        """
        if sent > self._cut:
            self._before_refusals = max(self._before_refusals, self.estimate, self.threshold)
            others = float(min(self.threshold - 1, len(in_flight)))
            if self.is_slow_start and others >= self.estimate:
                # Most requests in flight are older than the slow start, which goes on up to them.
                self.threshold, self._cut, self._let_in = others, now, 0
                self._ceiling = min(self._ceiling, others + 1)
            else:
                self._lower(min(self.estimate - 1, len(in_flight)), now)
            return
        # Requests sent together are refused one by one, so only the last refusal shows
        # how many were let in.
        let_in = self._let_in + sum(other <= self._cut for other in in_flight)
        if let_in < self.estimate:
            self.estimate = self.threshold = float(max(1, let_in))
            self._ceiling = self.estimate + 1

    def throttled(self, now: float) -> None:
        """Begin again with few requests: a refusal hit a quota that is not known."""
        if self.estimate >= self.threshold:  # else a slow start is under way
            self.threshold = max(2.0, self.estimate)
        self._begin_slowly(now)
        self.is_starting = self.is_opening = False
        self._checks = 0
        self._attempt, self._last = 0, None

    def hesitate(self, now: float) -> None:
        """Begin again with few requests if there were many: the refusal may be about a quota."""
        if self.estimate >= self.threshold > MANY:
            self._begin_slowly(now)

    def recover(self, before: float, now: float) -> None:
        """Return to the number before an outage, starting from half of it."""
        self.threshold = max(self.threshold, float(min(self.most, before)))
        self.estimate = max(self.estimate, self.threshold / 2)
        self._ceiling, self._rest = math.inf, 1
        self._begin(now)

    def restore(self, now: float) -> None:
        """Return to the number before the refusals, which were about something else."""
        self.recover(self._before_refusals, now)

    def accepts(self, accepted: int) -> None:
        """End the next slow start at the number that the server was working on at the refusal."""
        self.threshold = float(max(1, min(self.most, accepted)))
        self._ceiling = min(self._ceiling, self.threshold + 1)

    def _begin_slowly(self, now: float) -> None:
        self.estimate = max(1.0, min(MOST_TO_BEGIN, self.threshold / BEGINNING))
        self._begin(now)

    def _lower(self, to: float, now: float) -> None:
        self._ceiling = self.estimate
        self.estimate = self.threshold = max(1.0, to)
        self.is_starting = self.is_opening = False
        self._checks = 0
        if self._was_raised:  # else nothing was tried since
            self._rest = min(LONGEST_REST, 2 * self._rest)
        self._was_raised = False
        self._rounds, self._attempt, self._last = 0, 0, None
        self._cut, self._let_in = now, 0
        self._begin(now)

    def _begin(self, now: float) -> None:
        """Begin a round, which counts the requests sent from now on."""
        self.began = now
        self._trips = []
        self._busiest = 0

    def _end_round(self, now: float) -> None:
        trips, was_busy = self._trips, self._busiest >= 0.7 * self.limit()
        is_first = self._first_round is None and self._checks > 0
        if is_first and len(trips) < self.limit() and came_one_by_one(trips):
            return  # a few answers may look like that by chance, but not all of the first ones
        ended = Round.of(trips, number=self.estimate)
        if self.estimate < self.threshold:  # a slow start is under way, from `began` on
            self._trips, self._busiest = [], 0
            return
        self._begin(now)
        if self._first_round is None:
            self._first_round = ended
        if self._checks > 0 and not self._attempt:
            self._start(ended, trips)
        elif was_busy and (self.is_saturated or self._attempt):
            self._climb(ended)
        elif was_busy and self._is_suspicious(ended):
            self._try_fewer(ended)
        elif was_busy:
            self._rise()

    def _start(self, ended: Round, trips: Sequence[Trip]) -> None:
        """Raise the number while round trips do not grow with it."""
        if self._near_rounds < NEAR_ROUNDS and is_near(ended):
            self._near_rounds += 1
            if not self._near_rounds % 2:
                self._last, self._attempt = ended, -1
                self._set(self.estimate / 2)
            return
        last, self._last = self._last, ended
        self.is_starting &= not self._is_quota_told
        growth = float(GROWTH_TOLD if self._is_quota_told else GROWTH)
        if last is None:
            if came_together(trips):
                self.is_starting = False  # larger requests may follow at once
                growth = max(growth, GROWTH_TOGETHER)
            elif came_one_by_one(trips):
                self._end_start_at(self.estimate / 2)  # enough if several are worked on after all
                return
        elif has_grown(ended, last):
            self._end_start_at(self.estimate * math.exp(-slowdown(ended, last)) * DOWN)
            return
        if self.estimate >= self.most:
            self.is_starting = False
            self._checks -= 1
            if self._is_suspicious(ended):
                self._checks = 0
                self._try_fewer(ended)
                return
        # If requests do queue, the last of them must still be answered in time.
        longest = max(trip.seconds for trip in trips)
        self._set(self.estimate * max(1.0, min(growth, SAFE_SHARE * self.timeout / longest)))

    def _end_start_at(self, number: float) -> None:
        """End the start with this number, because requests queue."""
        self.is_starting, self.is_saturated, self._checks = False, True, 0
        self._rest, self._rounds = 1, 0
        self._set(number)

    def _is_suspicious(self, ended: Round) -> bool:
        """Return whether fewer should be tried: answers take far longer than the first ones."""
        return self._slower_than_first(ended) > math.log(SUSPICIOUS)

    def _slower_than_first(self, ended: Round) -> float:
        return 0.0 if self._first_round is None else slowdown(ended, self._first_round)

    def _try_fewer(self, ended: Round) -> None:
        """Try the number that would make round trips as short as the first ones."""
        self._rounds += 1
        if self._rounds < self._rest:
            return
        self._last, self._rounds, self._attempt = ended, 0, -1
        self._set(self.estimate * math.exp(-self._slower_than_first(ended)) * DOWN)

    def _set(self, number: float) -> None:
        before = self.estimate
        self.estimate = self.threshold = float(max(1, min(self.most, math.ceil(number))))
        self._was_raised |= self.estimate > before

    def _rise(self) -> None:
        """Double the number each round, up to the last refused one, and go beyond it rarely."""
        self._rounds += 1
        if self.estimate + 1 < self._ceiling:
            self._set(min(2 * self.estimate, max(self.estimate + 1, self._ceiling - 1)))
            self._rounds = 0
        elif self._rounds >= self._rest:
            self._set(self.estimate + 1)
            if self.estimate > self._ceiling:
                self._ceiling, self._rest = math.inf, 2
            self._rounds = 0

    def _climb(self, ended: Round) -> None:
        """Look for the fewest requests that get the most work done per second."""
        self._rounds += 1
        last = self._last
        if self._attempt and last is not None:
            helps = (
                is_better_with_more(ended, last)
                if self._attempt > 0
                else is_better_with_fewer(ended, last, at_start=self._checks > 0)
            )
            if helps:  # go on in this direction
                self._rest = 1
                if self._attempt < 0:
                    self.is_saturated, self.is_starting, self._checks = True, False, 0
                if self._attempt > 0:
                    self._ceiling = math.inf
            else:
                self._set(last.number)
                self._turns_up = self._attempt < 0
                if not self._checks:
                    self._rest = min(LONGEST_REST, 2 * self._rest)
            self._attempt, self._rounds = 0, 0
            if not helps:
                return
        if self._rounds < self._rest - 1:
            return
        self._last, self._rounds = ended, 0
        upwards = self._turns_up or self.estimate <= 1
        self._set(self.estimate * UP if upwards else math.floor(self.estimate / DOWN))
        self._attempt = 1 if upwards else -1
        if self.estimate == ended.number:
            self._attempt, self._turns_up = 0, not self._turns_up
