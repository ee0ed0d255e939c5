"""How far ahead of the questions a prefetch embeds. Pure.

`index()` does not ask for what it skips, and skipped texts should not be paid for. So the credit,
the number of texts that may be ahead, grows with each question that follows on the last one, and
shrinks with the texts that questions pass over.
"""

import math
from collections.abc import Iterable

__all__ = ["LookAhead"]

GROWTH = 4
"""Each question that follows on the last one multiplies the credit by this, so a few questions are
enough to fill the buffer."""

DISTRUST = 4
"""The power by which skipped texts count. If every second text is skipped, runs go ahead by a
quarter of a question; if every fourth, or fewer, without a limit."""


class LookAhead:
    """Learns from what is asked for how many texts may be ahead.

    Args:
        most: texts that may be ahead at most.
        runs: into how many runs they are divided.
        credit: texts that may be ahead before the first question.

    Attributes:
        longest_run: texts that one run may have at most.
        lost: texts whose runs failed since the last question, which count as ahead until the next.
    """

    def __init__(self, most: int, runs: int, *, credit: float = 0.0) -> None:
        self._most = most
        self._runs = runs
        self.longest_run = max(1, most // runs)
        self.lost = 0
        self._credit = credit
        self._places: dict[str, int] = {}  # of announced texts without a question yet
        self._reached = 0  # behind the last place that was asked for

    def announce(self, text: str, place: int) -> None:
        """Note the place of a text among those that are announced."""
        self._places.setdefault(text, place)

    def ask(self, texts: Iterable[str]) -> bool:
        """Learn from a question; return whether it is for texts that nobody has asked for yet."""
        places = [self._places.pop(text) for text in texts if text in self._places]
        if not places:
            return False
        reached = max(self._reached, *places)
        share = len(places) / max(len(places), reached - self._reached)
        self._credit = min(self._most, GROWTH * (self._credit + len(places)) * share**DISTRUST)
        self._reached, self.lost = reached, 0
        return True

    def is_behind(self, text: str) -> bool:
        """Tell whether questions have reached the texts after this one."""
        return self._places.get(text, 0) < self._reached

    def need_all(self) -> None:
        """Allow as many texts as there is room for: all that are announced will be needed."""
        self._credit = math.inf

    def run_size(self, waiting: int, ahead: int, *, asked: int = 0) -> int:
        """Return how many texts the next run may have; 0: it is too early for one.

        Args:
            waiting: texts that could be in it, including those that are asked for.
            ahead: texts without a question that are here or on their way.
            asked: texts of the question that the run begins with.
        """
        size = min(waiting, self.longest_run)
        credit = int(min(self._credit, self._most))
        if asked:
            return min(size, asked + max(0, credit - ahead))
        if credit == self._most:
            return size
        # Runs of a part of the credit, so that others are under way while one ends.
        least = max(1, min(size, credit // self._runs))
        return min(size, credit - ahead) if credit - ahead >= least else 0

    def clear(self) -> None:
        """Forget all texts."""
        self._places.clear()
