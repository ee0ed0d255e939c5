"""The three ways in which the demo embeds, each of them timed."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from langchain_core.vectorstores import VectorStore
from langchain_openai import OpenAIEmbeddings
from tqdm.auto import tqdm

from langchain_batch_embed.commands.demo_table import Way
from langchain_batch_embed.commands.demo_workload import Workload
from langchain_batch_embed.commands.messages import say
from langchain_batch_embed.embeddings import BatchEmbeddings

__all__ = ["RequestCounter", "in_turn", "one_by_one", "through_store"]


class RequestCounter:
    """Counts the requests that an HTTP client sends, and shows them on a bar if there is one."""

    def __init__(self) -> None:
        self.requests = 0
        self.bar: Any = None

    @property
    def hooks(self) -> dict[str, list[Callable[..., Any]]]:
        """The event hooks with which an HTTP client reports its requests here."""
        return {"request": [self._count]}

    def _count(self, _: object) -> None:
        self.requests += 1
        if self.bar is not None:
            self.bar.update()

    @contextmanager
    def shown(self, total: int) -> Iterator[None]:
        """Show the requests on a bar until the end of the block."""
        with tqdm(total=total, unit=" requests", leave=False, disable=None) as self.bar:
            yield
        self.bar = None


def one_by_one(workload: Workload, alone: OpenAIEmbeddings) -> tuple[Way, list[list[float]]]:
    """Embed the sample with one request per section.

    Returns:
        The cost, extrapolated from the sample to all sections, and the vectors of the sample.
    """
    sample, count = workload.sample, len(workload.sections)
    say(f"1 of 3: one request a section, on a sample of {len(sample)}")
    # Opening the connection takes longer than a request, and must not be extrapolated.
    alone.embed_query(workload.query)
    started = time.perf_counter()
    bar = tqdm(sample, unit=" requests", leave=False, disable=None)
    vectors = [alone.embed_query(text) for text in bar]
    seconds = (time.perf_counter() - started) * count / len(sample)
    name = "one request a section" + ("*" if len(sample) < count else "")
    return Way(name=name, requests=count, tokens=sum(workload.tokens), seconds=seconds), vectors


def in_turn(workload: Workload, alone: OpenAIEmbeddings, counter: RequestCounter) -> Way:
    """Embed all sections with `OpenAIEmbeddings` alone, one request after another."""
    say("2 of 3: OpenAIEmbeddings alone")
    before = counter.requests
    started = time.perf_counter()
    with counter.shown(math.ceil(len(workload.sections) / alone.chunk_size)):
        alone.embed_documents(workload.texts)
    return Way(
        name="OpenAIEmbeddings alone",
        requests=counter.requests - before,
        tokens=sum(workload.tokens),  # OpenAIEmbeddings does not report what was billed
        seconds=time.perf_counter() - started,
    )


def through_store(
    workload: Workload, embeddings: BatchEmbeddings, store: VectorStore
) -> tuple[Way, float]:
    """Embed all sections with `BatchEmbeddings`, by adding them to a store that uses it.

    Returns:
        The cost of embedding, and the seconds that writing the vectors took more.
    """
    say(f"3 of 3: BatchEmbeddings, through {type(store).__name__}.add_texts")
    started = time.perf_counter()
    store.add_texts(workload.texts, metadatas=workload.origins)
    seconds = time.perf_counter() - started
    report = embeddings.last_report
    if report is None:
        raise RuntimeError("the store embedded nothing")
    way = Way(
        name="BatchEmbeddings",
        requests=report.requests,
        tokens=report.tokens,
        seconds=report.seconds,
    )
    return way, seconds - report.seconds
