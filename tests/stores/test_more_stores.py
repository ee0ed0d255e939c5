"""Tests of Milvus Lite and LanceDB where they are installed; nothing in the project needs them.

pip install langchain-milvus milvus-lite lancedb
"""
# ruff: noqa: PLC0415 - a missing package must cost only its own store

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from langchain_core.documents import Document

from langchain_batch_embed import BatchEmbeddings, IngestError
from tests.stores.conftest import NOT_TESTED
from tests.stores.fakes import batching, documents
from tests.stores.faults import Faults, Where, at_random

# Warnings of the stores' packages about themselves.
pytestmark = pytest.mark.filterwarnings("ignore")


def milvus(folder: Path, embeddings: BatchEmbeddings, **options: Any) -> Any:
    """Open a Milvus database in a file."""
    from langchain_milvus import Milvus

    return Milvus(
        embeddings,
        connection_args={"uri": str(folder / "milvus.db")},
        index_params={"index_type": "FLAT", "metric_type": "L2"},
        **options,
    )


def lancedb(folder: Path, embeddings: BatchEmbeddings, **options: Any) -> Any:
    """Open a LanceDB in a folder, in the mode in which calls add to its table."""
    from langchain_community.vectorstores import LanceDB

    return LanceDB(uri=str(folder), embedding=embeddings, **{"mode": "append", **options})


def count(store: Any) -> int:
    """Return the number of rows in the store."""
    if hasattr(store, "get_table"):
        return int(store.get_table().count_rows())
    (found,) = store.client.query(store.collection_name, filter="", output_fields=["count(*)"])
    return int(found["count(*)"])


STORES: dict[str, tuple[Callable[..., Any], tuple[str, ...]]] = {
    "Milvus": (milvus, ("langchain_milvus", "milvus_lite")),
    "LanceDB": (lancedb, ("langchain_community", "lancedb")),
}


ERRORS = (lambda: RuntimeError("no"), lambda: ConnectionError("reset"))


@pytest.fixture(params=STORES)
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., Any]:
    """Return a function that opens a store in an empty place."""
    caller, packages = STORES[request.param]
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"{NOT_TESTED}{request.param} needs {' and '.join(missing)}")
    return lambda embeddings, **options: caller(tmp_path, embeddings, **options)


@pytest.mark.parametrize("ids", [False, True], ids=["without ids", "with ids"])
def test_every_document_is_there_once(opened: Callable[..., Any], *, ids: bool) -> None:
    """After a run whose calls fail at random, a second run stores every document exactly once."""
    embeddings = batching()
    store = opened(embeddings)
    given = documents(60, ids=ids)
    places: tuple[Where, ...] = ("before", "half way", "after")
    for seed in range(6):
        faults = Faults(store, at_random(seed, places, 0.4), ERRORS[seed % 2])
        try:
            embeddings.ingest(store, given, batch_size=16)
        except IngestError as stopped:
            assert stopped.report.stored <= count(store)
        faults.end()
        report = embeddings.ingest(store, given)
        assert report.stored == count(store) == 60
        assert report.keeps_ids
    for document in given:
        (found,) = store.similarity_search(document.page_content, k=1)
        assert found.page_content == document.page_content


def test_milvus_that_makes_its_own_ids_is_said_to_keep_none(tmp_path: Path) -> None:
    """A Milvus with `auto_id` ignores given ids, so the report says that it keeps none."""
    pytest.importorskip("milvus_lite")
    embeddings = batching()
    store = milvus(tmp_path, embeddings, auto_id=True)
    report = embeddings.ingest(store, documents(200))
    assert report.stored == count(store) == 200
    assert not report.keeps_ids


def test_a_lance_table_that_is_replaced_by_each_call_is_refused(tmp_path: Path) -> None:
    """LanceDB's default mode is refused, because each call would replace the whole table."""
    pytest.importorskip("lancedb")
    embeddings = batching()
    store = lancedb(tmp_path, embeddings, mode="overwrite")
    with pytest.raises(ValueError, match="mode='append'"):
        embeddings.ingest(store, [Document("a")])
