"""Decides how far ahead of the questions a prefetch embeds. Pure arithmetic.

A question is the texts that one call requests. `index()` requests no texts that it skips, and
skipped texts should not be paid for. The credit is the number of texts that may be embedded ahead.
It grows with each question that follows directly on the last one, and shrinks when questions pass
over texts.
"""

import math
from collections.abc import Iterable

__all__ = ["LookAhead"]

GROWTH = 4
"""Each question that follows directly on the last one multiplies the credit by this, so a few
questions are enough to fill the buffer."""

DISTRUST = 4
"""The share of texts that a question did not skip counts with this power. If every second text is
skipped, runs go ahead by a quarter to a third of a question. If every fourth or fewer are skipped,
the credit grows until it fills the buffer."""


class LookAhead:
    """Learns from questions how many texts may be embedded ahead.

    Args:
        most: maximum number of texts that may be ahead.
        runs: the number of runs into which they are divided.
        credit: how many texts may be ahead before the first question.

    Attributes:
        longest_run: maximum number of texts that one run may have.
        lost: number of texts whose runs failed since the last question; they count as ahead until
            the next question.
    """

    def __init__(self, most: int, runs: int, *, credit: float = 0.0) -> None:
        self._most = most
        self._runs = runs
        self.longest_run = max(1, most // runs)
        self.lost = 0
        self._credit = credit
        self._places: dict[str, int] = {}  # of announced texts not requested yet
        self._reached = 0  # the furthest place that was requested

    def announce(self, text: str, place: int) -> None:
        """Record the place of a text among the announced texts."""
        self._places.setdefault(text, place)

    def ask(self, texts: Iterable[str]) -> bool:
        """Learn from a question; return whether it has texts that were not requested before."""
        places = [self._places.pop(text) for text in texts if text in self._places]
        if not places:
            return False
        reached = max(self._reached, *places)
        share = len(places) / max(len(places), reached - self._reached)
        self._credit = min(self._most, GROWTH * (self._credit + len(places)) * share**DISTRUST)
        self._reached, self.lost = reached, 0
        return True

    def is_behind(self, text: str) -> bool:
        """Return whether questions have reached texts after this one."""
        return self._places.get(text, 0) < self._reached

    def need_all(self) -> None:
        """Allow as many texts as there is room for: all announced texts will be needed."""
        self._credit = math.inf

    def run_size(self, waiting: int, ahead: int, *, asked: int = 0) -> int:
        """Return how many texts the next run may have, or 0 if it is too early for one.

        Args:
            waiting: number of texts that could be in the run, including `asked`.
            ahead: number of texts not requested yet that are ready, in a run, or failed.
            asked: number of requested texts that the run begins with.
        """
        size = min(waiting, self.longest_run)
        credit = int(min(self._credit, self._most))
        if asked:
            return min(size, asked + max(0, credit - ahead))
        if credit == self._most:
            return size
        # Each run takes only a part of the credit, so that others are active while one ends.
        least = max(1, min(size, credit // self._runs))
        return min(size, credit - ahead) if credit - ahead >= least else 0

    def clear(self) -> None:
        """Forget the places of all texts."""
        self._places.clear()
