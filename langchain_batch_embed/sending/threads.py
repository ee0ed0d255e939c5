"""Threads that do not delay the end of the program.

At exit Python waits for every thread of a `ThreadPoolExecutor`. A thread that hangs in a
connection, a name look-up or a wrapped class's own client would keep the program alive until its
time-out. Our threads are left behind instead, after answers that have arrived are written.
"""

import atexit
import concurrent.futures.thread
import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

__all__ = ["finishing", "in_daemon", "leave_behind"]

_T = TypeVar("_T")

LAST_WRITES = 5.0
"""Seconds that the program waits at exit for answers being written to a journal."""


def in_daemon(work: Callable[[], _T]) -> _T:
    """Return the result of a call in a daemon thread, so that threads it starts are daemons too."""
    if threading.current_thread().daemon:
        return work()
    done: Future[_T] = Future()

    def run() -> None:
        try:
            done.set_result(work())
        except BaseException as error:  # noqa: BLE001  # raised again in the caller's thread
            done.set_exception(error)

    threading.Thread(target=run, name="batch-embed-start", daemon=True).start()
    return done.result()


def leave_behind(executor: ThreadPoolExecutor) -> None:
    """Keep Python from waiting at exit for an executor's threads, which must be daemons.

    Call it after each `submit`, which may have started a thread.
    """
    count = len(executor._threads)  # noqa: SLF001
    if getattr(executor, "left_behind", 0) != count:
        # A version of Python without this list waits, as for any other thread.
        known: Any = getattr(concurrent.futures.thread, "_threads_queues", {})
        for thread in tuple(executor._threads):  # noqa: SLF001
            known.pop(thread, None)
        vars(executor)["left_behind"] = count


class _Writes:
    """Counts the threads that are handling an answer."""

    def __init__(self) -> None:
        self._count = 0
        self._ended = threading.Condition()

    @contextlib.contextmanager
    def under_way(self) -> Iterator[None]:
        with self._ended:
            self._count += 1
        try:
            yield
        finally:
            with self._ended:
                self._count -= 1
                self._ended.notify_all()

    def wait(self) -> None:
        with self._ended:
            self._ended.wait_for(lambda: not self._count, LAST_WRITES)


_writes = _Writes()


def finishing() -> "contextlib.AbstractContextManager[None]":
    """Make the exit of the program wait for the block."""
    return _writes.under_way()


def _renew() -> None:
    global _writes  # noqa: PLW0603  # a forked process has none of the threads
    _writes = _Writes()


def _wait() -> None:
    _writes.wait()


atexit.register(_wait)
if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_renew)
