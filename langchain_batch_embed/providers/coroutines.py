"""Runs coroutines from threads, for an async token provider or a class that is async only.

All of them run in one event loop, in a thread of its own. What such a coroutine keeps between
calls, such as a session with open connections, belongs to the loop in which it was made.
"""

import asyncio
import os
import threading
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

__all__ = ["from_thread", "is_own", "result_of"]

_T = TypeVar("_T")

_lock = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None


def _after_fork() -> None:
    global _lock, _loop  # the loop's thread does not exist in the child
    _lock, _loop = threading.Lock(), None


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_after_fork)


def result_of(awaitable: Awaitable[_T], timeout: float | None = None) -> _T:
    """Wait in this thread for an awaitable; return its result, or raise its error.

    Raises:
        TimeoutError: it took longer than `timeout` seconds, and was cancelled.
    """

    async def wait() -> _T:
        return await asyncio.wait_for(awaitable, timeout)

    return asyncio.run_coroutine_threadsafe(wait(), _running_loop()).result()


def from_thread(function: Callable[[], Awaitable[_T]], timeout: float) -> Callable[[], _T]:
    """Return a plain function that runs an async one and returns its result."""

    def call() -> _T:
        return result_of(function(), timeout)

    return call


def is_own(embeddings: Any, name: str) -> bool:
    """Return whether a class overrides langchain-core's default version of an async method."""
    owner = next((kind for kind in type(embeddings).__mro__ if name in vars(kind)), object)
    return not owner.__module__.startswith(("langchain_core.", "builtins"))


def _running_loop() -> asyncio.AbstractEventLoop:
    global _loop  # noqa: PLW0603  # one per process, made when it is needed
    with _lock:
        if _loop is None:
            _loop = asyncio.new_event_loop()
            # A daemon thread, so that a hanging coroutine does not keep the program from ending.
            threading.Thread(
                target=_loop.run_forever, name="coroutines-of-batch-embed", daemon=True
            ).start()
        return _loop
