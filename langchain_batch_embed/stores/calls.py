"""Calls a store's methods, directly or awaited in the caller's event loop."""

import asyncio
import concurrent.futures
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from langchain_core.documents import Document

__all__ = ["StoreCalls", "run_in_loop"]

_T = TypeVar("_T")

POLL = 1.0
"""Seconds between checks of whether the loop, and with it the awaited coroutine, has ended."""


class StoreCalls:
    """Calls a store's methods.

    Args:
        store: the vector store.
        wait: runs a coroutine in an event loop and returns its result; `None` calls the store's
            ordinary methods.
    """

    def __init__(self, store: Any, wait: Callable[[Any], Any] | None = None) -> None:
        self.store = store
        self._wait = wait

    def add(self, documents: list[Document], ids: list[Any] | None) -> Any:
        """Add documents; return what the store returns, usually the ids of the rows."""
        options: dict[str, Any] = {} if ids is None else {"ids": ids}
        return self._call("add_documents", documents, **options)

    def delete(self, ids: list[Any]) -> Any:
        """Delete rows."""
        return self._call("delete", ids=ids)

    def get_by_ids(self, ids: list[Any]) -> list[Document]:
        """Return the documents that the store holds under these ids."""
        found: list[Document] = self._call("get_by_ids", ids)
        return found

    def _call(self, name: str, *arguments: Any, **options: Any) -> Any:
        if self._wait is None:
            return getattr(self.store, name)(*arguments, **options)
        return self._wait(getattr(self.store, f"a{name}")(*arguments, **options))


def run_in_loop(
    loop: asyncio.AbstractEventLoop, cancelled: threading.Event
) -> Callable[[Coroutine[Any, Any, _T]], _T]:
    """Return a function that runs a coroutine in a loop and waits for it in the calling thread.

    Args:
        loop: the loop, which must not be that of the calling thread.
        cancelled: set when no result is wanted any more; a running coroutine is not stopped.
    """

    def wait(coroutine: Coroutine[Any, Any, _T]) -> _T:
        if cancelled.is_set():  # the loop may end before the coroutine runs
            coroutine.close()
            raise asyncio.CancelledError
        try:
            future = asyncio.run_coroutine_threadsafe(coroutine, loop)
        except RuntimeError as error:  # the loop is closed
            coroutine.close()
            raise asyncio.CancelledError from error
        while True:
            try:
                return future.result(POLL)
            except concurrent.futures.CancelledError as error:
                raise asyncio.CancelledError from error
            except TimeoutError:
                if future.done():  # the coroutine itself timed out
                    raise
                if loop.is_closed() or (cancelled.is_set() and not loop.is_running()):
                    raise asyncio.CancelledError from None

    return wait
