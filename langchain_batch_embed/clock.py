"""Time and waiting, handed in wherever they are needed."""

import threading
import time
from typing import Protocol

__all__ = ["SYSTEM_CLOCK", "Clock"]


class Clock(Protocol):
    """Time and waiting, so that tests need neither."""

    def now(self) -> float:
        """Return a monotonic time in seconds."""
        ...

    def worked(self) -> float:
        """Return the processor seconds that this process has used."""
        ...

    def worked_here(self) -> float:
        """Return the processor seconds that this thread has used."""
        ...

    def wait(self, condition: threading.Condition, timeout: float) -> None:
        """Wait until the condition is notified, for at most `timeout` seconds."""
        ...


class _SystemClock:
    def now(self) -> float:
        return time.monotonic()

    def worked(self) -> float:
        return time.process_time()

    def worked_here(self) -> float:
        return time.thread_time()

    def wait(self, condition: threading.Condition, timeout: float) -> None:
        # Never without a bound: on some systems an unbounded wait holds up Ctrl-C.
        condition.wait(min(timeout, 60.0))


SYSTEM_CLOCK: Clock = _SystemClock()
