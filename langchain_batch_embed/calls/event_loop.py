"""Asynchronous calls, which leave the event loop free while they wait."""

import asyncio
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from langchain_batch_embed.calls.pipeline import Pipeline
from langchain_batch_embed.sending.threads import submit
from langchain_batch_embed.texts.inputs import check_query, check_texts

__all__ = ["embed", "embed_query", "in_thread"]

_T = TypeVar("_T")


async def embed(pipeline: Pipeline, texts: Iterable[str]) -> list[list[float]]:
    """Return one vector per text; see `BatchEmbeddings.aembed_documents`."""
    given = check_texts(texts)
    if pipeline.is_small(given):
        return (await pipeline.aembed(given)).lists()
    return await in_thread(lambda stop: pipeline.lists(given, cancelled=stop), pipeline.wake)


async def embed_query(pipeline: Pipeline, text: str) -> list[float]:
    """Return the vector of one query; see `BatchEmbeddings.aembed_query`."""
    if pipeline.is_small([check_query(text)]):
        return await pipeline.aquery(text)
    return await in_thread(lambda stop: pipeline.query(text, cancelled=stop), pipeline.wake)


async def in_thread(work: Callable[[threading.Event], _T], wake: Callable[[], None]) -> _T:
    """Run a call in a thread of its own; cancelling the task stops the call.

    Args:
        work: the call; it receives an event and stops once the event is set and `wake` is called.
        wake: makes every waiting call check its event.
    """
    cancelled = threading.Event()
    # Not the loop's default executor: it has few threads, and further calls would queue for them.
    executor = ThreadPoolExecutor(1, "batch-embed-async")
    try:
        return await asyncio.wrap_future(submit(executor, work, cancelled))
    except asyncio.CancelledError:
        cancelled.set()
        wake()
        raise
    finally:
        executor.shutdown(wait=False)
