"""Whether a server answers at once: pure arithmetic.

Next door, this process is what everything waits for: it sends and reads all the time. Far away it
waits for answers most of the time.
"""

import math
from collections import deque
from statistics import median

__all__ = ["FIRST_ANSWERS", "NEAR_USEFUL", "Nearness"]

BUSY = 0.7
"""Processor seconds a second from which on this process is what everything waits for: one of its
threads at a time runs Python, so it does not get far beyond 1. `tests.benchmarks.gateway` measures
it: 0.9 to 1.1 next door; far away, where many first requests are sent at once, 0.3 mostly and 0.67
at the most."""

WAITING = 0.1
"""Share of a core for the requests in flight together below which they wait for answers.

The same benchmark measures it: 0.2 at the least next door, also where lists are made and something
else keeps a core busy; far away, with as few requests in flight, 0.02 to 0.2 and mostly below 0.1.
It is looked at with each answer, so a far server need fall below it only once.
"""

FIRST_ANSWERS = 8
"""Answers by which it is found out where the server is: one may say little of the others."""

LAST_ANSWERS = 5
"""Answers by which it is found out that it is not near after all: at a far one each takes long."""

NEAR_USEFUL = 3
"""Requests in flight at a server that answers at once: one is sent, one read, one at the server."""


class Nearness:
    """Where the server is, as its answers tell.

    Attributes:
        is_near: whether it answers at once, so that a few requests at a time keep this process
            busy; `False` until the first answers have come.
    """

    def __init__(self) -> None:
        self.is_near = False
        self._since = math.inf  # when it was found to be near
        self._process: list[float] = []  # shares with the first answers
        self._requests: deque[float] = deque(maxlen=LAST_ANSWERS)  # those with the last answers

    def answered(self, *, process: float, requests: float, sent: float, now: float) -> None:
        """Note how busy a processor core was with us while an answered request was in flight.

        The first answers are judged by the processor time of the whole process. Some of it may be
        something else's work, so later answers are judged by that of the requests alone; by then
        the process makes lists too, however far the server is.

        Args:
            process: processor seconds a second of this process.
            requests: those that the requests in flight took together.
            sent: when the request was sent, in seconds.
            now: the time in the same seconds.
        """
        if len(self._process) < FIRST_ANSWERS:
            self._process.append(process)
            if len(self._process) == FIRST_ANSWERS and median(self._process) > BUSY:
                self.is_near, self._since = True, now
        elif self.is_near and sent >= self._since:  # those sent before were many at a time
            self._requests.append(requests)
            if len(self._requests) == LAST_ANSWERS and median(self._requests) < WAITING:
                self.is_near = False
