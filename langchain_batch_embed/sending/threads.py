"""Threads that do not delay the end of the program.

At exit Python waits for every thread of a `ThreadPoolExecutor`. A thread that hangs in a
connection, a name look-up or a wrapped class's own client would keep the program alive until its
time-out. Our threads are left behind instead, after answers that have arrived are written.
"""

import atexit
import concurrent.futures.thread
import contextlib
import os
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, ParamSpec, TypeVar

from langchain_batch_embed.errors import BatchEmbeddingsError

__all__ = [
    "check_threads_run",
    "finishing",
    "in_daemon",
    "start",
    "submit",
    "submit_daemon",
]

_T = TypeVar("_T")
_P = ParamSpec("_P")

LAST_WRITES = 5.0
"""Seconds that the program waits at exit for answers being written to a journal."""


def in_daemon(work: Callable[[], _T]) -> _T:
    """Return the result of a call in a daemon thread, so that threads it starts are daemons too."""
    if threading.current_thread().daemon:
        return work()
    return _in_own_thread(work, "batch-embed-start").result()


def submit(
    executor: ThreadPoolExecutor, work: Callable[_P, _T], *args: _P.args, **options: _P.kwargs
) -> "Future[_T]":
    """Run a call in a thread of an executor, or in one of its own once the executor refuses.

    Every executor refuses work once the main thread has ended, but other threads, and functions
    registered with `atexit`, may still embed.

    Raises:
        RuntimeError: no thread can be started.
        BatchEmbeddingsError: the same, because Python is exiting.
    """
    try:
        return executor.submit(work, *args, **options)
    except RuntimeError as error:
        # An executor that has no thread puts the work into its queue all the same: do not repeat.
        if not (_main_thread_has_ended() and "cannot schedule" in str(error)):
            raise
    return _in_own_thread(partial(work, *args, **options), "batch-embed-late")


def submit_daemon(
    executor: ThreadPoolExecutor, work: Callable[_P, _T], *args: _P.args, **options: _P.kwargs
) -> None:
    """Submit a call to daemon threads, and keep Python from waiting for them at exit.

    Raises:
        RuntimeError, BatchEmbeddingsError: see `submit`.
    """
    submit(executor, work, *args, **options)
    _leave_behind(executor)


def start(thread: threading.Thread) -> None:
    """Start a thread.

    Raises:
        RuntimeError: it cannot be started.
        BatchEmbeddingsError: the same, because Python is exiting.
    """
    check_threads_run()
    try:
        thread.start()
    except RuntimeError as error:
        if "interpreter shutdown" not in str(error):
            raise
        raise _exiting() from error


def check_threads_run() -> None:
    """Raise an error if Python is exiting and runs no other thread, as in a late `__del__`.

    Starting a thread, or waiting for one, would then never end.

    Raises:
        BatchEmbeddingsError: no other thread runs any more.
    """
    if sys.is_finalizing():
        raise _exiting()


def _exiting() -> BatchEmbeddingsError:
    return BatchEmbeddingsError(
        "Python is exiting and runs no more threads, so nothing can be sent; embed the texts "
        "before the program ends"
    )


def _main_thread_has_ended() -> bool:
    # Python's own flag is set a moment before the thread counts as ended.
    is_set = getattr(concurrent.futures.thread, "_shutdown", False)
    return bool(is_set) or not threading.main_thread().is_alive()


def _in_own_thread(work: Callable[[], _T], name: str) -> "Future[_T]":
    done: Future[_T] = Future()

    def run() -> None:
        try:
            done.set_result(work())
        except BaseException as error:  # noqa: BLE001  # raised again in the caller's thread
            done.set_exception(error)

    start(threading.Thread(target=run, name=name, daemon=True))
    return done


def _leave_behind(executor: ThreadPoolExecutor) -> None:
    """Keep Python from waiting at exit for an executor's threads, which must be daemons."""
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
