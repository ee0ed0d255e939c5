"""The async methods: the loop goes on, cancelling stops the work, and all tasks share a limit."""

import asyncio
import threading
import time
from collections.abc import Callable

import openai
import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import InMemoryVectorStore

from langchain_batch_embed import BatchEmbeddings, InputError, PartialEmbeddingsError
from langchain_batch_embed.clock import SYSTEM_CLOCK
from langchain_batch_embed.simulator import vectors
from tests.support import LocalServer, assert_right, prose

Batch = Callable[..., BatchEmbeddings]

LONGEST_GAP = 0.25
"""Longest time in seconds for which the loop may stand still.

With 19,207 sections on two busy cores it was 0.015 to 0.08; before lists were kept from the
garbage collector it was 0.1 to 0.36.
"""


class Blocking(Embeddings):
    """A class without async methods whose call returns only once the event loop releases it."""

    def __init__(self) -> None:
        self.called = threading.Event()
        self.release = threading.Event()

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Wait for the loop, and fail after 10 s instead of waiting forever."""
        self.called.set()
        assert self.release.wait(10), "the event loop was blocked"
        return [[float(x) for x in row] for row in vectors(texts, 4)]

    def embed_query(self, text: str) -> list[float]:
        """Wait for the loop."""
        return self.embed_documents([text])[0]


async def until(condition: Callable[[], bool]) -> None:
    """Wait until the condition holds, and fail after a minute."""
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.005)


def working() -> bool:
    """Return whether a thread of this package is running."""
    return any(thread.name.startswith("batch-embed") for thread in threading.enumerate())


async def longest_gap(embeddings: BatchEmbeddings, texts: list[str]) -> float:
    """Embed the texts and return the longest time in seconds for which the loop stood still."""
    gaps: list[float] = []

    async def tick() -> None:
        last = time.perf_counter()
        while True:
            await asyncio.sleep(0.001)
            now = time.perf_counter()
            gaps.append(now - last)
            last = now

    ticker = asyncio.create_task(tick())
    got = await embeddings.aembed_documents(texts)
    await asyncio.sleep(0.01)
    ticker.cancel()
    assert_right(got, texts)
    assert len(gaps) > 10
    return max(gaps)


class TestTheLoopGoesOn:
    """Nothing that takes noticeable time runs in the thread of the event loop."""

    @pytest.mark.slow
    def test_while_vectors_come_and_are_turned_into_lists(
        self, batch: Batch, server: LocalServer
    ) -> None:
        """The event loop keeps running while 3,000 vectors of 1,536 numbers are embedded."""
        server.configure(vector_cache=True)
        texts = [prose(100, i) for i in range(3000)]
        embeddings = batch(_clock=SYSTEM_CLOCK)
        embeddings.embed_numpy(texts)  # the server caches these vectors
        # The best of three, since other processes can make any loop stand still.
        gaps = [asyncio.run(longest_gap(embeddings, texts)) for _ in range(3)]
        assert min(gaps) < LONGEST_GAP

    def test_while_a_wrapped_class_blocks(self) -> None:
        """`aembed_documents` does not block the loop while a wrapped class without async blocks.

        The loop itself releases the wrapped call, so it cannot be waiting for it.
        """
        inner = Blocking()
        embeddings = BatchEmbeddings(inner)

        async def both() -> list[list[float]]:
            task = asyncio.create_task(embeddings.aembed_documents(["a", "b"]))
            await until(inner.called.is_set)
            inner.release.set()
            return await task

        assert_right(asyncio.run(both()), ["a", "b"])

    def test_while_a_query_blocks(self) -> None:
        """`aembed_query` does not block the loop while a wrapped class blocks."""
        inner = Blocking()
        embeddings = BatchEmbeddings(inner)

        async def both() -> list[float]:
            task = asyncio.create_task(embeddings.aembed_query("a"))
            await until(inner.called.is_set)
            inner.release.set()
            return await task

        assert_right([asyncio.run(both())], ["a"])

    def test_while_documents_are_ingested(self) -> None:
        """`aingest` does not block the loop while it embeds and writes, in a thread of its own."""
        inner = Blocking()
        embeddings = BatchEmbeddings(inner)
        store = InMemoryVectorStore(embeddings)

        async def both() -> int:
            documents = [Document(f"section {i}") for i in range(50)]
            task = asyncio.create_task(embeddings.aingest(store, documents))
            await until(inner.called.is_set)
            inner.release.set()
            return (await task).stored

        assert asyncio.run(both()) == 50
        assert len(store.store) == 50

    def test_sync_calls_work_inside_a_running_loop(self, batch: Batch) -> None:
        """The sync methods work inside a running event loop, as in a notebook."""
        embeddings = batch()

        async def cell() -> list[list[float]]:
            return embeddings.embed_documents(["a", "b"])

        assert_right(asyncio.run(cell()), ["a", "b"])

    def test_one_object_serves_one_loop_after_another(self, batch: Batch) -> None:
        """An object works in one event loop after another and is tied to none of them."""
        embeddings = batch()
        for texts in (["a"], ["b"], ["c"]):
            assert_right(asyncio.run(embeddings.aembed_documents(texts)), texts)


class TestCancelling:
    """A cancelled task sends nothing more and keeps the vectors that were paid for."""

    def test_stops_the_work(self, batch: Batch, server: LocalServer) -> None:
        """After a task is cancelled no further request starts, and every thread ends."""
        server.configure(latency=0.5)
        embeddings = batch(max_workers=2, max_batch_size=10, _clock=SYSTEM_CLOCK)
        texts = [f"section {i}" for i in range(500)]

        async def cancel() -> int:
            task = asyncio.create_task(embeddings.aembed_documents(texts))
            await until(lambda: server.stats()["requests"] >= 4)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            started = int(server.stats()["requests"])
            await until(lambda: not working())
            return started

        started = asyncio.run(cancel())
        assert started <= server.stats()["requests"] <= started + 2
        assert server.stats()["requests"] < 50

    def test_keeps_what_was_paid_for(self, batch: Batch, server: LocalServer) -> None:
        """A call after a cancelled one requests only the rest, so each text is billed once."""
        server.configure(latency=0.5)
        embeddings = batch(max_workers=4, max_batch_size=10, _clock=SYSTEM_CLOCK)
        texts = [f"section {i}" for i in range(200)]

        async def cancel_and_go_on() -> list[list[float]]:
            task = asyncio.create_task(embeddings.aembed_documents(texts))
            await until(lambda: server.stats()["inputs_billed"] >= 30)
            task.cancel()
            await asyncio.wait([task])
            await until(lambda: not working())
            return await embeddings.aembed_documents(texts)

        assert_right(asyncio.run(cancel_and_go_on()), texts)
        assert server.stats()["inputs_billed"] == len(texts)

    def test_a_timeout_of_asyncio_works(self, batch: Batch, server: LocalServer) -> None:
        """`asyncio.timeout` around a call raises in time, even if the server hangs."""
        server.configure(faults={"hang": 1.0}, hang_seconds=0.5)
        # The process ends only when its requests do, after 120 s by default.
        embeddings = batch(timeout=1, _clock=SYSTEM_CLOCK)

        async def hurry() -> None:
            async with asyncio.timeout(0.05):
                await embeddings.aembed_documents(["a"])

        with pytest.raises(TimeoutError):
            asyncio.run(hurry())

    def test_one_task_does_not_disturb_another(self, batch: Batch, server: LocalServer) -> None:
        """Of two tasks with one object, the one that is not cancelled gets all its vectors."""
        server.configure(latency=0.3)
        embeddings = batch(max_workers=4, max_batch_size=10, _clock=SYSTEM_CLOCK)
        texts = [f"section {i}" for i in range(100)]

        async def cancel_one() -> list[list[float]]:
            lost = asyncio.create_task(embeddings.aembed_documents([f"lost {t}" for t in texts]))
            kept = asyncio.create_task(embeddings.aembed_documents(texts))
            await until(lambda: server.stats()["requests"] >= 2)
            lost.cancel()
            return await kept

        assert_right(asyncio.run(cancel_one()), texts)


class TestManyTasks:
    """The quota and the workers belong to the object, not to the task."""

    def test_share_one_limiter(self, batch: Batch, server: LocalServer) -> None:
        """Twelve tasks together keep the object's limit on requests in flight."""
        server.configure(latency=0.1)
        embeddings = batch(max_workers=3, max_batch_size=10, _clock=SYSTEM_CLOCK)
        lots = [[f"task {t} text {i}" for i in range(50)] for t in range(12)]

        async def gather() -> list[list[list[float]]]:
            return await asyncio.gather(*(embeddings.aembed_documents(lot) for lot in lots))

        for lot, got in zip(lots, asyncio.run(gather()), strict=True):
            assert_right(got, lot)
        stats = server.stats()
        assert stats["requests"] == 60
        assert stats["max_in_flight"] <= 3

    def test_a_query_passes_while_documents_are_embedded(
        self, batch: Batch, server: LocalServer
    ) -> None:
        """Fifty queries beside a large call get the right vectors within the limit of requests."""
        server.configure(latency=0.05)
        embeddings = batch(max_workers=4, max_batch_size=20, _clock=SYSTEM_CLOCK)
        texts = [f"section {i}" for i in range(300)]
        questions = [f"question {i}" for i in range(50)]

        async def gather() -> tuple[list[list[float]], list[list[float]]]:
            documents = asyncio.create_task(embeddings.aembed_documents(texts))
            answers = await asyncio.gather(*map(embeddings.aembed_query, questions))
            return await documents, answers

        documents, answers = asyncio.run(gather())
        assert_right(documents, texts)
        assert_right(answers, questions)
        assert server.stats()["max_in_flight"] <= 4


class TestErrors:
    """The async methods raise the same errors as the sync methods."""

    def test_failed_texts(self, batch: Batch, server: LocalServer) -> None:
        """The error of `aembed_documents` names the refused text and holds the other vectors."""
        server.configure(refuse_marker="poison")
        with pytest.raises(PartialEmbeddingsError) as caught:
            asyncio.run(batch().aembed_documents(["a", "poison", "b"]))
        assert [failure.index for failure in caught.value.failures] == [1]
        assert caught.value.embeddings[1] is None

    def test_an_empty_text(self, batch: Batch, server: LocalServer) -> None:
        """`aembed_documents` refuses an empty text before anything is sent."""
        with pytest.raises(InputError):
            asyncio.run(batch().aembed_documents(["a", ""]))
        assert server.stats()["requests"] == 0

    def test_a_query_raises_the_providers_own_error(
        self, batch: Batch, server: LocalServer
    ) -> None:
        """With a wrong key `aembed_query` raises the SDK's `AuthenticationError`."""
        server.configure(api_key="another")
        with pytest.raises(openai.AuthenticationError):
            asyncio.run(batch().aembed_query("a"))
