"""Filling vector stores with `prefetch`, `ingest` and short floats, as Markdown tables.

    python -m tests.benchmarks.ingest                 # everything: some 15 minutes
    python -m tests.benchmarks.ingest index --rounds 1

Everything runs on the simulator, at OpenAI's latency as recorded in public, with 1,536 dimensions
unless stated otherwise. The tables show medians.

- index: `index(batch_size=100)` over 5,000 documents into `InMemoryVectorStore`, without and with
  `prefetch`.
- ingest: 19,207 sections of Python's standard library into SQLiteVec, in a file, and into Supabase:
  embedding alone, writing alone, and both by `ingest`, with the time that the store waited for
  vectors. Writing alone is one `add_documents` with all documents, whose vectors exist already as
  lists; SQLiteVec is also shown with the page cache that `ingest` sets.
- cache: writing the same sections, whose vectors exist already, into SQLiteVec in calls as large as
  those of `ingest`, with page caches of several sizes.
- memory: 300,000 short generated documents into SQLiteVec, at no latency, in a fresh process.
- failures: 3,000 documents, of which the API refuses one and the database another.
- floats: the same vectors through Supabase's client with all their digits and as short floats.

Supabase is its real client and a real PostgreSQL with pgvector, behind a stand-in for PostgREST
that runs in a thread of this process. The server has computed all vectors before, in a round that
does not count, because a provider computes them on other machines.
"""

import argparse
import gc
import math
import os
import re
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from statistics import median
from typing import Any

from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.indexing import InMemoryRecordManager, index
from langchain_core.vectorstores import InMemoryVectorStore
from langchain_openai import OpenAIEmbeddings

from langchain_batch_embed import BatchEmbeddings
from langchain_batch_embed.commands.corpus import sections, standard_library
from langchain_batch_embed.providers.decoding import to_lists
from langchain_batch_embed.simulator import Scenario, Simulator
from langchain_batch_embed.stores.sqlite import PAGE_CACHE
from langchain_batch_embed.stores.traits import BATCH_SIZE
from tests.memory import peak_bytes
from tests.stores.callers import CALLERS
from tests.stores.places import Places
from tests.stores.reading import close

__all__ = ["main"]

SECTIONS = 19_207
INDEXED = 5_000
GENERATED = 300_000
WITH_FAILURES = 3_000
WRITTEN = 2_000  # texts in each round of "floats"
PAGE_CACHES = (2_000, 4_000, 8_000, 16_000, 32_000, 128_000)  # KiB; the first is SQLite's default

LABELS = {"sqlite_vec": "SQLiteVec", "supabase": "Supabase"}

# Makes the database refuse the document whose text is "document 777".
REFUSALS = {
    "sqlite_vec": "CREATE TRIGGER refuse BEFORE INSERT ON documents WHEN new.text = 'document 777'"
    " BEGIN SELECT RAISE(ABORT, 'refused by the database'); END",
    "supabase": "ALTER TABLE documents ADD CONSTRAINT refuse CHECK (content <> 'document 777')",
}


class Ready(Embeddings):
    """Embeddings that return vectors computed before."""

    def __init__(self, texts: list[str], vectors: list[list[float]]) -> None:
        self._vectors = dict(zip(texts, vectors, strict=True))

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Return the stored vectors."""
        return [self._vectors[text] for text in texts]

    def embed_query(self, text: str) -> list[float]:
        """Return any vector, which is used only for its width."""
        del text
        return next(iter(self._vectors.values()))


# ---- the parts ----


def show_index(rounds: int) -> None:
    """Time `index` without and with `prefetch`."""
    texts = standard_sections(INDEXED)
    documents = [Document(text) for text in texts]

    def fill(embeddings: Embeddings) -> None:
        records = InMemoryRecordManager("benchmark")
        records.create_schema()
        store = InMemoryVectorStore(embeddings)
        index(documents, records, store, batch_size=100, key_encoder="sha256")

    def with_prefetch(embeddings: BatchEmbeddings) -> None:
        with embeddings.prefetch(texts):
            fill(embeddings)

    ways: Mapping[str, Callable[[BatchEmbeddings], None]] = {
        "`index` alone": fill,
        "under `prefetch`": with_prefetch,
    }
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    stats: dict[str, dict[str, Any]] = {}
    with warm_simulator(texts) as simulator:
        for seed in range(rounds):
            for way, run in ways.items():
                simulator.configure(Scenario(vector_cache=True, seed=seed))
                with stopwatch() as watch:
                    run(batching(simulator))
                seconds[way].append(watch.seconds)
                stats[way] = simulator.stats()
    slow = median(seconds["`index` alone"])
    say(f"\n## `index(batch_size=100)` over {INDEXED:,} documents\n")
    say("| way | s | times as fast | requests | texts sent | different ones |")
    say("|---|--:|--:|--:|--:|--:|")
    for way, found in stats.items():
        wall = median(seconds[way])
        say(
            f"| {way} | {wall:.2f} | {slow / wall:.1f} | {found['requests']} "
            f"| {found['inputs_billed']:,} | {found['texts_billed_distinct']:,} |"
        )


def show_ingest(rounds: int) -> None:
    """Time embedding alone, writing alone, and both by `ingest`."""
    texts = standard_sections(SECTIONS)
    documents = [Document(text) for text in texts]
    say(f"\n## `ingest` of {SECTIONS:,} sections, seconds\n")
    say(
        "| store | embedding alone | writing alone | with our page cache "
        "| `ingest` | waited | times the longer |"
    )
    say("|---|--:|--:|--:|--:|--:|--:|")
    with warm_simulator(texts) as simulator, Places() as places:
        for name, label in LABELS.items():
            found = []
            for seed in range(rounds):
                simulator.configure(Scenario(vector_cache=True, seed=seed))
                with stopwatch() as embedding:
                    vectors = batching(simulator).embed_documents(texts)
                ready = Ready(texts, vectors)
                writing = write(name, places, ready, [documents])
                cached = math.nan
                if name == "sqlite_vec":
                    cached = write(name, places, ready, [documents], page_cache=PAGE_CACHE)
                del vectors, ready
                gc.collect()
                simulator.configure(Scenario(vector_cache=True, seed=seed))
                embeddings = batching(simulator)
                with empty_store(name, places, embeddings) as store, stopwatch() as both:
                    report = embeddings.ingest(store, documents)
                walls = (embedding.seconds, writing, cached, both.seconds, report.waited)
                found.append(walls)
                sys.stderr.write(f"{name}: {' '.join(f'{wall:.2f}' for wall in walls)}\n")
            walls = tuple(median(column) for column in zip(*found, strict=True))
            cells = ["" if math.isnan(wall) else f"{wall:.2f}" for wall in walls]
            say(f"| {label} | {' | '.join(cells)} | {walls[3] / max(walls[:2]):.2f} |")


def show_cache(rounds: int) -> None:
    """Time writing alone into SQLiteVec with page caches of several sizes."""
    texts = standard_sections(SECTIONS)
    documents = [Document(text) for text in texts]
    calls = [documents[i : i + BATCH_SIZE] for i in range(0, SECTIONS, BATCH_SIZE)]
    seconds: dict[int, list[float]] = {size: [] for size in PAGE_CACHES}
    with Simulator(Scenario(latency=0)) as simulator, Places() as places:
        ready = Ready(texts, batching(simulator).embed_documents(texts))
        for _ in range(rounds):
            for size, found in seconds.items():
                found.append(write("sqlite_vec", places, ready, calls, page_cache=size))
    say(f"\n## Writing {SECTIONS:,} texts, whose vectors are there, into SQLiteVec\n")
    say("| page cache, KiB | s |")
    say("|--:|--:|")
    for size, found in seconds.items():
        say(f"| {size:,} | {median(found):.2f} |")


def show_memory(rounds: int) -> None:
    """Measure the memory of a large ingest in a fresh process."""
    del rounds
    say(f"\n## `ingest` of {GENERATED:,} generated documents into SQLiteVec\n")
    say("| documents stored | s | peak MB | MB before the first |")
    say("|--:|--:|--:|--:|")
    command = [sys.executable, "-m", "tests.benchmarks.ingest", "--here"]
    subprocess.run(command, check=True)  # noqa: S603 - our own code and interpreter


def measure_memory() -> None:
    """Ingest generated documents, and print the time and the peak memory of this process."""
    documents = (Document(f"document number {i} of a generator") for i in range(GENERATED))
    with Simulator(Scenario(latency=0)) as simulator, Places() as places:
        embeddings = batching(simulator)
        with empty_store("sqlite_vec", places, embeddings) as store, stopwatch() as watch:
            before = peak_bytes()
            report = embeddings.ingest(store, documents)
    peak = peak_bytes()
    say(f"| {report.stored:,} | {watch.seconds:.0f} | {peak / 1e6:.0f} | {before / 1e6:.0f} |")


def show_failures(rounds: int) -> None:
    """Let the API refuse one document and the database another, and print the failures."""
    del rounds
    say(f"\n## {WITH_FAILURES:,} documents, one refused by the API and one by the database\n")
    say("| store | rows | document | stage | cause |")
    say("|---|--:|--:|---|---|")
    documents = [Document(f"document {i}") for i in range(WITH_FAILURES)]
    documents[1234] = Document("poison")
    with Simulator(Scenario(refuse_marker="poison")) as simulator, Places() as places:
        for name, label in LABELS.items():
            embeddings = batching(simulator)
            with empty_store(name, places, embeddings) as store:
                execute(name, store, places, REFUSALS[name])
                report = embeddings.ingest(store, documents)
                ((rows,),) = execute(name, store, places, "SELECT count(*) FROM documents")
            for failure in report.failures:
                cause = re.sub(r"\s+", " ", f"{type(failure.error).__name__}: {failure.error}")
                say(f"| {label} | {rows:,} | {failure.index} | {failure.stage} | {cause[:90]} |")


def show_floats(rounds: int) -> None:
    """Write the same vectors through Supabase's client with all digits and as short floats."""
    texts = standard_sections(WRITTEN)
    documents = [Document(text) for text in texts]
    with Simulator(Scenario(latency=0)) as simulator:
        vectors = batching(simulator).embed_numpy(texts)
    ways = {"all digits": vectors.astype(float).tolist(), "short floats": to_lists(vectors)}
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    sent = {}
    with Places() as places:
        for _ in range(rounds):
            for way, lists in ways.items():
                ready = Ready(texts, lists)
                with empty_store("supabase", places, ready) as store, stopwatch() as watch:
                    store.add_documents(documents)
                seconds[way].append(watch.seconds)
                sent[way] = sum(call.received for call in places.standin.served)
    say(f"\n## Supabase: writing {WRITTEN:,} texts whose vectors are there\n")
    say("| floats | ms a text | bytes a text |")
    say("|---|--:|--:|")
    for way in ways:
        say(f"| {way} | {median(seconds[way]) / WRITTEN * 1e3:.2f} | {sent[way] / WRITTEN:,.0f} |")


# ---- what they share ----


class Stopwatch:
    """The seconds that a `with` block took."""

    seconds = 0.0


@contextmanager
def stopwatch() -> Iterator[Stopwatch]:
    """Time a `with` block."""
    watch = Stopwatch()
    started = time.perf_counter()
    yield watch
    watch.seconds = time.perf_counter() - started


def standard_sections(count: int) -> list[str]:
    """Return sections of Python's standard library."""
    return [section.text for section in sections(standard_library()[1], count)]


@contextmanager
def warm_simulator(texts: list[str]) -> Iterator[Simulator]:
    """Run a simulator that has computed the vectors of these texts."""
    with Simulator(Scenario(vector_cache=True, latency=0)) as simulator:
        batching(simulator).embed_numpy(texts)
        yield simulator


@contextmanager
def empty_store(name: str, places: Places, embeddings: Embeddings) -> Iterator[Any]:
    """Open a store in a new place."""
    os.environ.update(places.fresh(name))
    store = CALLERS[name]([], embeddings)
    yield store
    close(name, store)


def write(
    name: str,
    places: Places,
    embeddings: Embeddings,
    calls: Iterable[list[Document]],
    *,
    page_cache: int | None = None,
) -> float:
    """Return the seconds of several calls with a new store; `page_cache` is in KiB."""
    with empty_store(name, places, embeddings) as store:
        if page_cache is not None:
            execute(name, store, places, f"PRAGMA cache_size = {-page_cache}")
        with stopwatch() as watch:
            for documents in calls:
                store.add_documents(documents)
    return watch.seconds


def execute(name: str, store: Any, places: Places, statement: str) -> list[tuple[Any, ...]]:
    """Execute SQL in a store's database and return the rows."""
    if name == "sqlite_vec":
        return [tuple(row) for row in store._connection.execute(statement)]
    import psycopg  # noqa: PLC0415 - only where the store is a PostgreSQL

    with psycopg.connect(places.postgres.dsn) as connection:
        cursor = connection.execute(statement.encode())
        return cursor.fetchall() if cursor.description else []


def batching(simulator: Simulator) -> BatchEmbeddings:
    """Return embeddings on the simulator, made as a user would make them."""
    return BatchEmbeddings(OpenAIEmbeddings(base_url=simulator.url, api_key="any"))  # type: ignore[arg-type]


def say(line: str) -> None:
    """Print a line and flush it."""
    print(line, flush=True)


PARTS: Mapping[str, Callable[[int], None]] = {
    "index": show_index,
    "ingest": show_ingest,
    "cache": show_cache,
    "memory": show_memory,
    "failures": show_failures,
    "floats": show_floats,
}


def main() -> None:
    """Run the parts named on the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "parts", nargs="*", metavar="part", help=", ".join(PARTS), default=list(PARTS)
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.here:
        measure_memory()
        return
    for part in options.parts:
        PARTS[part](options.rounds)


if __name__ == "__main__":
    warnings.simplefilter("ignore", DeprecationWarning)  # from the stores' packages
    main()
