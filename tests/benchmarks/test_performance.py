"""The time of this package's own code: short enough for every test run, exact enough to compare.

Under plain `pytest` each benchmark runs once and checks its result. To get times:

    pytest tests/benchmarks --benchmark-enable

Nothing here asserts a time, because machines differ. `compare` runs all libraries side by side.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
from langchain_openai import OpenAIEmbeddings
from pytest_benchmark.fixture import BenchmarkFixture

from langchain_batch_embed import BatchEmbeddings
from langchain_batch_embed.clock import SYSTEM_CLOCK
from langchain_batch_embed.commands.corpus import evenly, sections, standard_library
from langchain_batch_embed.commands.offline import use_offline_tiktoken
from langchain_batch_embed.texts.packing import pack
from langchain_batch_embed.texts.tokens import counter_for
from tests.support import LocalServer, assert_right

_T = TypeVar("_T")

TEXTS = 2000
SAMPLE = 10
"""Texts that are sent one by one; the time is extrapolated from them."""


@pytest.fixture(scope="module")
def texts() -> list[str]:
    """Return real text: sections of Python's standard library, about 125 tokens each."""
    _, files = standard_library()
    found = [section.text for section in sections(evenly(files, 200), TEXTS)]
    assert len(found) == TEXTS
    return found


@pytest.fixture
def ours(batch: Callable[..., BatchEmbeddings]) -> BatchEmbeddings:
    """Return embeddings that use the real clock."""
    return batch(_clock=SYSTEM_CLOCK)


class TestEmbeddingPerformance:
    """Each stage from texts to vectors, timed alone, and all of them together."""

    def test_many_texts_at_a_far_endpoint(
        self,
        benchmark: BenchmarkFixture,
        texts: list[str],
        server: LocalServer,
        ours: BatchEmbeddings,
        openai_embeddings: Callable[..., OpenAIEmbeddings],
    ) -> None:
        """`BatchEmbeddings` returns the right vectors at a far endpoint, and its time is recorded.

        The latency is a tenth of OpenAI's. The benchmark's `extra_info` has how many times longer
        `OpenAIEmbeddings` and single requests took.
        """
        server.configure(latency=0.1)
        use_offline_tiktoken()
        alone = openai_embeddings()
        alone.embed_query("opens the connection, which must not be extrapolated")
        one_by_one = _seconds(lambda: [alone.embed_query(text) for text in texts[:SAMPLE]])
        in_turn = _seconds(lambda: alone.embed_documents(texts))
        taken: list[float] = []

        def embed() -> list[list[float]]:
            started = time.perf_counter()
            vectors = ours.embed_documents(texts)
            taken.append(time.perf_counter() - started)
            return vectors

        assert_right(_few_rounds(benchmark, embed), texts)
        seconds = float(np.median(taken))
        benchmark.extra_info["one request a text, times ours"] = round(
            one_by_one * TEXTS / SAMPLE / seconds, 1
        )
        benchmark.extra_info["OpenAIEmbeddings, times ours"] = round(in_turn / seconds, 1)

    def test_own_cost_of_lists(
        self,
        benchmark: BenchmarkFixture,
        texts: list[str],
        server: LocalServer,
        ours: BatchEmbeddings,
    ) -> None:
        """`embed_documents` returns the right lists from a server without latency.

        The vectors are cached there, so the time is that of the package and the server alone.
        """
        server.configure(vector_cache=True)
        assert_right(_few_rounds(benchmark, lambda: ours.embed_documents(texts)), texts)

    def test_own_cost_of_an_array(
        self,
        benchmark: BenchmarkFixture,
        texts: list[str],
        server: LocalServer,
        ours: BatchEmbeddings,
    ) -> None:
        """`embed_numpy` returns the right array from the same server, and makes no floats."""
        server.configure(vector_cache=True)
        assert_right(_few_rounds(benchmark, lambda: ours.embed_numpy(texts)), texts)

    def test_counting_tokens(self, benchmark: BenchmarkFixture, texts: list[str]) -> None:
        """Every text has a token count above 0, as all are counted before anything is sent."""
        counter = counter_for("text-embedding-3-small")
        counts = benchmark(counter.count, texts)
        assert counts.shape == (TEXTS,)
        assert counts.min() > 0

    def test_packing_a_million_counts(self, benchmark: BenchmarkFixture) -> None:
        """A million token counts are cut into batches that cover them and keep both limits."""
        weights = np.random.default_rng(0).integers(1, 1000, 1_000_000)
        batches = benchmark(pack, weights, max_items=2048, max_tokens=300_000, workers=32)
        borders = np.array([batch.start for batch in batches])
        assert [batch.stop for batch in batches] == [*borders[1:].tolist(), len(weights)]
        assert borders[0] == 0
        assert max(map(len, batches)) <= 2048
        assert np.add.reduceat(weights, borders).max() <= 300_000

    def test_second_run_on_a_full_journal(
        self,
        benchmark: BenchmarkFixture,
        texts: list[str],
        server: LocalServer,
        batch: Callable[..., BatchEmbeddings],
        tmp_path: Path,
    ) -> None:
        """A second run on a full journal returns the right vectors and sends nothing."""
        batch(journal=tmp_path / "journal.db").embed_numpy(texts)
        server.configure()  # counts from here
        again = batch(journal=tmp_path / "journal.db")
        assert_right(benchmark(again.embed_numpy, texts), texts)
        assert server.stats()["requests"] == 0


def _few_rounds(benchmark: BenchmarkFixture, work: Callable[[], _T]) -> _T:
    """Time a few rounds, after one that opens the connections and fills the server's cache."""
    result: _T = benchmark.pedantic(work, rounds=5, warmup_rounds=1)  # type: ignore[no-untyped-call]
    return result


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
