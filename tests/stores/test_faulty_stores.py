"""Calls of real stores fail, but no document is lost or doubled, and the report is true."""

import asyncio
import os
import random
import uuid
from collections.abc import Callable
from typing import Any, Final

import pytest
from langchain_core.documents import Document

from langchain_batch_embed import BatchEmbeddings, IngestError, IngestReport
from tests.stores.conftest import Fill
from tests.stores.fakes import CountingEmbeddings, batching
from tests.stores.faults import Faults, Where, at_random
from tests.stores.reading import rows_of
from tests.support import FakeClock

STORES: Final = ("in_memory", "faiss", "sqlite_vec", "qdrant", "chroma", "pgvector", "supabase")

SEEDS: Final = int(os.environ.get("STORE_SEEDS", "4"))
"""Number of random seeds, each a different pattern of failures, for each store.

With 200 all seven stores take half an hour.
"""

ROUNDS: Final = 4

ERRORS: Final[tuple[Callable[[], Exception], ...]] = (
    lambda: RuntimeError("an error that tells nothing"),
    lambda: ConnectionError("connection reset"),
    lambda: TimeoutError("timed out"),
)
PLACES: Final[tuple[tuple[Where, ...], ...]] = (
    ("before",),
    ("half way",),
    ("after",),
    ("before", "half way", "after"),
)


class Impatient(FakeClock):
    """A clock that jumps sooner, because no other thread has to answer in these tests."""

    def __init__(self) -> None:
        super().__init__()
        self.patience = 0.001


def empty(name: str, fill: Fill, embeddings: BatchEmbeddings) -> Any:
    """Return an empty store."""
    if name in ("sqlite_vec", "supabase"):
        return fill(name, [], embeddings)
    first = Document("the first", id=str(uuid.uuid4()))
    store = fill(name, [first], embeddings)
    if name == "pgvector":
        store.delete_collection()
        store.create_collection()
    else:
        store.delete([first.id])
    return store


def corpus(numbers: random.Random, count: int, *, ids: bool) -> list[Document]:
    """Return documents, with ids of their own or without."""
    return [
        Document(
            f"section {i} of {numbers.random()}",
            id=str(uuid.UUID(int=numbers.getrandbits(128), version=4)) if ids else None,
            metadata={"number": i},
        )
        for i in range(count)
    ]


def assert_true(report: IngestReport, given: list[Document], rows: list[str]) -> None:
    """Check that no stored document is reported as failed, and no failed one as stored."""
    failed = {given[failure.index].page_content for failure in report.failures}
    unknown = set(report.unknown)
    tried = [d.page_content for i, d in enumerate(given[: report.tried]) if i not in unknown]
    claimed = [text for text in tried if text not in failed]
    assert failed.isdisjoint(rows)
    assert set(claimed) <= set(rows)
    if not unknown:
        assert report.stored == len(claimed)
    assert len(rows) == len(set(rows))


@pytest.mark.parametrize("part", range(ROUNDS))
@pytest.mark.parametrize("ids", [False, True], ids=["without ids", "with ids"])
@pytest.mark.parametrize("name", STORES)
def test_after_one_more_run_every_document_is_there_once(
    name: str, part: int, fill: Fill, *, ids: bool
) -> None:
    """After random failures, a second ingest completes the store without doubling a row.

    The store fails before, halfway through or after its commit.
    """
    wrapped = CountingEmbeddings(size=1536 if name == "supabase" else 24)
    embeddings = batching(wrapped, Impatient())
    store = empty(name, fill, embeddings)
    before: set[str] = set()
    for seed in range(part, SEEDS, ROUNDS):
        numbers = random.Random(seed)
        given = corpus(numbers, numbers.choice([1, 20, 60]), ids=ids)
        source = at_random(seed, numbers.choice(PLACES), numbers.choice([0.1, 0.3, 0.6, 0.9]))
        faults = Faults(store, source, numbers.choice(ERRORS))
        try:
            report = embeddings.ingest(store, given, batch_size=numbers.choice([16, 1024]))
        except IngestError as error:
            report = error.report
        faults.end()
        rows = [row.text for row in rows_of(name, store) if row.text not in before]
        assert_true(report, given, rows)
        again = embeddings.ingest(store, given)
        rows = [row.text for row in rows_of(name, store) if row.text not in before]
        assert set(rows) == {document.page_content for document in given}
        if again.keeps_ids:
            assert len(rows) == len(given)
        else:
            assert name == "sqlite_vec"
            assert "another ingest adds rows again" in str(again)
        for document in given:
            (found,) = store.similarity_search(document.page_content, k=1)
            assert found.page_content == document.page_content
        before |= set(rows)


def test_faiss_with_ids_that_are_there_replaces_its_rows(fill: Fill) -> None:
    """An ingest into FAISS replaces the rows whose ids exist already.

    FAISS alone adds the vectors and then refuses the ids, so each search finds another document.
    """
    embeddings = batching()
    given = corpus(random.Random(0), 300, ids=True)
    store = fill("faiss", [Document("old", id=d.id) for d in given[100:120]], embeddings)
    report = embeddings.ingest(store, given)
    assert report.stored == store.index.ntotal == 300
    for document in given:
        (found,) = store.similarity_search(document.page_content, k=1)
        assert found.page_content == document.page_content


@pytest.mark.parametrize("batch_size", [20, 1024])
def test_a_faiss_store_that_fails_within_is_repaired(fill: Fill, batch_size: int) -> None:
    """Vectors that a failed FAISS call left without documents are removed, even after Ctrl-C."""
    embeddings = batching()
    given = corpus(random.Random(0), 100, ids=True)
    store = fill("faiss", [Document("the first", id="first")], embeddings)
    add = store.docstore.add
    raised: list[BaseException] = []

    def fail(texts: dict[str, Document]) -> None:
        if len(raised) < 2:
            raised.append(RuntimeError("full") if not raised else KeyboardInterrupt())
            raise raised[-1]
        add(texts)

    store.docstore.add = fail
    with pytest.raises(KeyboardInterrupt):
        embeddings.ingest(store, given, batch_size=batch_size)
    assert store.index.ntotal == len(store.index_to_docstore_id) == 1
    assert embeddings.ingest(store, given, batch_size=batch_size).stored == 100
    assert store.index.ntotal == len(store.index_to_docstore_id) == 101
    for document in given:
        (found,) = store.similarity_search(document.page_content, k=1)
        assert found.page_content == document.page_content


def test_a_faiss_store_that_is_damaged_is_refused(fill: Fill) -> None:
    """A FAISS store with more vectors than documents is refused, because its searches are wrong."""
    embeddings = batching()
    store = fill("faiss", [Document("a", id="a"), Document("b", id="b")], embeddings)
    store.index_to_docstore_id.pop(1)
    with pytest.raises(ValueError, match="damaged: it has 2 vectors but 1 documents"):
        embeddings.ingest(store, [Document("c")])


def test_pgvector_keeps_two_collections_apart(fill: Fill) -> None:
    """Two pgvector collections with equal documents do not overwrite each other's rows.

    Ids are unique across all collections, so the ids that an ingest makes differ by collection.
    """
    embeddings = batching()
    given = corpus(random.Random(0), 30, ids=False)
    first = fill("pgvector", [Document("x")], embeddings)
    other = type(first)(
        embeddings=embeddings, connection=first._engine, collection_name="the other ones"
    )
    for store in (first, other):
        store.delete_collection()
        store.create_collection()
        embeddings.ingest(store, given)
    for store in (first, other):
        for document in given:
            (found,) = store.similarity_search(document.page_content, k=1)
            assert found.page_content == document.page_content
    other.delete_collection()


@pytest.mark.parametrize("name", ["sqlite_vec", "chroma", "qdrant", "supabase"])
def test_a_table_of_another_width_is_noticed_at_once(name: str, fill: Fill) -> None:
    """A wrong vector width ends the ingest after at most 300 texts, however the store words it."""
    width = 1536 if name == "supabase" else 24
    narrow = batching(CountingEmbeddings(size=width))
    store = fill(name, [Document("x", id=str(uuid.uuid4()))], narrow)
    wrapped = CountingEmbeddings(size=32)
    embeddings = batching(wrapped)
    kept = next(key for key, value in store.__dict__.items() if value is narrow)
    setattr(store, kept, embeddings)
    with pytest.raises(IngestError, match="none is stored"):
        embeddings.ingest(store, corpus(random.Random(0), 3000, ids=False))
    assert wrapped.sent <= 300


def test_an_asynchronous_pgvector(fill: Fill) -> None:
    """`aingest` fills a PGVector in asynchronous mode, which has only asynchronous methods."""
    pytest.importorskip("asyncpg")
    from langchain_postgres import PGVector  # noqa: PLC0415

    embeddings = batching()
    fill("pgvector", [Document("x")], embeddings)
    given = corpus(random.Random(0), 250, ids=False)

    async def ingest() -> list[str]:
        store = PGVector(
            embeddings,
            connection=os.environ["DATABASE_URL"],
            collection_name="asynchronous",
            async_mode=True,
        )
        report = await embeddings.aingest(store, given, batch_size=100)
        assert report.stored == 250
        found = [await store.asimilarity_search(d.page_content, k=1) for d in given]
        await store.adelete_collection()
        assert store._async_engine is not None
        await store._async_engine.dispose()
        return [documents[0].page_content for documents in found]

    assert asyncio.run(ingest()) == [document.page_content for document in given]
