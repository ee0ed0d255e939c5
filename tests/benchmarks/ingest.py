"""How fast stores fill with `ingest` and `prefetch`, and in how much memory.

    python -m tests.benchmarks.ingest            # everything: some minutes
    python -m tests.benchmarks.ingest index      # one part of it

All on the simulator, with vectors of 1,536 dimensions:

- ingest: sections of Python's standard library into SQLiteVec, in a file, at OpenAI's latency:
  embedding alone, writing alone with the vectors already there, and both with `ingest`.
- index: `index(batch_size=100)` over 5,000 documents into `InMemoryVectorStore`, at OpenAI's
  latency: without and with `prefetch`.
- memory: 300,000 short generated documents into SQLiteVec, at no latency, in a fresh process.
"""

import argparse
import gc
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager

from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.indexing import InMemoryRecordManager, index
from langchain_core.vectorstores import InMemoryVectorStore, VectorStore
from langchain_openai import OpenAIEmbeddings

from langchain_batch_embed import BatchEmbeddings
from langchain_batch_embed.corpus import sections, standard_library
from langchain_batch_embed.simulator import Scenario, Simulator
from tests.stores.callers import CALLERS

__all__ = ["main"]

SECTIONS = 19_207
INDEXED = 5_000
GENERATED = 300_000
BATCH_SIZE = 500  # documents in one call of the store, as `ingest` writes them


class Ready(Embeddings):
    """Vectors that are there already."""

    def __init__(self, texts: list[str], vectors: list[list[float]]) -> None:
        self._vectors = dict(zip(texts, vectors, strict=True))

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Look the vectors up."""
        return [self._vectors[text] for text in texts]

    def embed_query(self, text: str) -> list[float]:
        """Return any vector, for its width."""
        del text
        return next(iter(self._vectors.values()))


def compare_ingest(simulator: Simulator, rounds: int) -> None:
    """Time embedding alone, writing alone, and both at once."""
    texts = [section.text for section in sections(standard_library()[1], SECTIONS)]
    documents = [Document(text) for text in texts]
    for _ in range(rounds):
        simulator.configure(Scenario())
        with stopwatch() as embedding:
            vectors = batching(simulator).embed_documents(texts)
        with empty_store(Ready(texts, vectors)) as store, stopwatch() as writing:
            for start in range(0, len(documents), BATCH_SIZE):
                store.add_documents(documents[start : start + BATCH_SIZE])
        del vectors, store
        gc.collect()
        simulator.configure(Scenario())
        embeddings = batching(simulator)
        with empty_store(embeddings) as store, stopwatch() as both:
            embeddings.ingest(store, documents)
        print(
            f"{len(texts):,} sections: embedding alone {embedding.seconds:.1f} s, writing alone "
            f"{writing.seconds:.1f} s, ingest {both.seconds:.1f} s, "
            f"{both.seconds / max(embedding.seconds, writing.seconds):.2f} times the longer, "
            f"{simulator.stats()['requests']:,} requests"
        )


def compare_index(simulator: Simulator, rounds: int) -> None:
    """Time `index` without and with `prefetch`."""
    documents = [Document(s.text) for s in sections(standard_library()[1], INDEXED)]

    def fill(embeddings: Embeddings) -> None:
        records = InMemoryRecordManager("benchmark")
        records.create_schema()
        store = InMemoryVectorStore(embeddings)
        index(documents, records, store, batch_size=100, key_encoder="sha256")

    for _ in range(rounds):
        simulator.configure(Scenario())
        with stopwatch() as plain:
            fill(batching(simulator))
        calls = simulator.stats()["requests"]
        simulator.configure(Scenario())
        embeddings = batching(simulator)
        with (
            stopwatch() as prefetched,
            embeddings.prefetch(document.page_content for document in documents),
        ):
            fill(embeddings)
        print(
            f"index() of {len(documents):,}: {plain.seconds:.1f} s in {calls:,} requests, with "
            f"prefetch {prefetched.seconds:.1f} s in {simulator.stats()['requests']:,}, "
            f"{plain.seconds / prefetched.seconds:.1f} times as fast"
        )


def measure_memory() -> None:
    """Ingest generated documents, and print the time and the peak of this process's memory."""
    with Simulator(Scenario(latency=0)) as simulator:
        embeddings = batching(simulator)
        documents = (Document(f"document number {i} of a generator") for i in range(GENERATED))
        with empty_store(embeddings) as store, stopwatch() as watch:
            before = peak_megabytes()
            report = embeddings.ingest(store, documents)
    print(
        f"{report.stored:,} generated documents: {watch.seconds:.0f} s, peak {peak_megabytes():.0f}"
        f" MB, of which {before:.0f} MB before the first"
    )


class Stopwatch:
    """Seconds from the start to the end of a `with` block."""

    seconds = 0.0


@contextmanager
def stopwatch() -> Iterator[Stopwatch]:
    """Time a `with` block."""
    watch = Stopwatch()
    started = time.perf_counter()
    yield watch
    watch.seconds = time.perf_counter() - started


@contextmanager
def empty_store(embeddings: Embeddings) -> Iterator[VectorStore]:
    """Open a SQLiteVec in a new file."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["STORE_FOLDER"] = folder
        yield CALLERS["sqlite_vec"]([], embeddings)


def batching(simulator: Simulator) -> BatchEmbeddings:
    """Make embeddings as a user would, that ask the simulator."""
    return BatchEmbeddings(OpenAIEmbeddings(base_url=simulator.url, api_key="sk-any"))  # type: ignore[arg-type]


def peak_megabytes() -> float:
    """Return the largest memory that this process has had, in MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def main() -> None:
    """Run the parts that are asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    names = ["ingest", "index", "memory"]
    parser.add_argument("parts", nargs="*", metavar="part", help=", ".join(names), default=names)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.here:
        measure_memory()
        return
    with Simulator(Scenario()) as simulator:
        if "ingest" in options.parts:
            compare_ingest(simulator, options.rounds)
        if "index" in options.parts:
            compare_index(simulator, options.rounds)
    if "memory" in options.parts:
        subprocess.run([sys.executable, "-m", __spec__.name, "--here"], check=True)  # noqa: S603


if __name__ == "__main__":
    main()
