"""Clocks, which are passed in wherever code reads the time or waits."""

import threading
import time
from typing import Protocol

__all__ = ["SYSTEM_CALENDAR", "SYSTEM_CLOCK", "Calendar", "Clock"]


class Clock(Protocol):
    """A monotonic clock that can wait; tests replace it, so that they never wait for real."""

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
        # Always with a time-out, because on some systems a wait without one delays Ctrl-C.
        condition.wait(min(timeout, 60.0))


SYSTEM_CLOCK: Clock = _SystemClock()


class Calendar(Protocol):
    """The time of day, which all processes share, with a sleep that can last hours."""

    def time(self) -> float:
        """Return the seconds since 1970."""
        ...

    def sleep(self, seconds: float) -> None:
        """Wait for this many seconds."""
        ...


class _SystemCalendar:
    def time(self) -> float:
        return time.time()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


SYSTEM_CALENDAR: Calendar = _SystemCalendar()
