"""What cannot work is an error before anything is read, paid for or stored."""

from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.vectorstores import InMemoryVectorStore

from langchain_batch_embed import OptionError
from langchain_batch_embed.stores.traits import batch_size_of, core_of, replaces_by_id
from tests.stores.fakes import CountingEmbeddings, NoIdsStore, TableStore, batching, documents


def test_arguments_in_the_wrong_order() -> None:
    """The message shows the right one."""
    embeddings = batching()
    store = InMemoryVectorStore(embeddings)
    for swapped in (documents(3), (d for d in documents(3))):
        with pytest.raises(OptionError, match=r"ingest\(store, documents\)"):
            embeddings.ingest(swapped, store)  # type: ignore[arg-type]


def test_a_retriever_is_no_store() -> None:
    """It has an `add_documents`, but the store is within."""
    embeddings = batching()
    store = InMemoryVectorStore(embeddings)
    with pytest.raises(OptionError, match=r"\.vectorstore"):
        embeddings.ingest(store.as_retriever(), documents(3))  # type: ignore[arg-type]
    assert not store.store


def test_too_few_ids() -> None:
    """2,999 for a list of 3,000."""
    wrapped = CountingEmbeddings()
    embeddings = batching(wrapped)
    store = TableStore(embeddings)
    with pytest.raises(OptionError, match="only 2,999 ids"):
        embeddings.ingest(store, documents(3000), ids=[str(i) for i in range(2999)])
    assert not store.rows
    assert wrapped.sent == 0


def test_ids_of_the_content_for_a_store_without_ids_are_said_to_be_of_no_use(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A second run would double the rows."""
    embeddings = batching()
    report = embeddings.ingest(NoIdsStore(embeddings), documents(3), ids="content")
    assert report.stored == 3
    assert "takes no ids" in caplog.text


def test_a_lance_table_that_each_call_replaces() -> None:
    """LangChain's default: all but the last call would be lost."""

    class LanceDB(TableStore):
        mode = "overwrite"

    embeddings = batching()
    with pytest.raises(OptionError, match="mode='append'"):
        embeddings.ingest(LanceDB(embeddings), documents(3))


class InTheSignature(TableStore):
    """As most stores."""


class InTheCode(NoIdsStore):
    """As DuckDB and Redis."""

    def add_texts(self, texts: Any, metadatas: Any = None, **kwargs: Any) -> list[str]:
        """Read ids from the options."""
        del metadatas
        return self.write(texts, kwargs.get("ids"))


class OnlyAsync(NoIdsStore):
    """As PGVector in its asynchronous mode."""

    async def aadd_documents(
        self, documents: list[Document], *, ids: list[str] | None = None, **kwargs: Any
    ) -> list[str]:
        """Take ids."""
        raise NotImplementedError


class Around(NoIdsStore):
    """Hands everything on to another store."""

    def __init__(self, inner: TableStore | NoIdsStore) -> None:
        super().__init__(inner.embeddings)
        self.inner = inner


class Proxy:
    """Is no `VectorStore`, but does all that one does."""

    def __init__(self, inner: TableStore) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class Appending(TableStore):
    """Adds a second row, and has no way to delete one."""


Appending.__name__ = "SKLearnVectorStore"


def test_a_store_that_takes_ids_is_known_by_its_methods() -> None:
    """By their signatures or their code, or those of the store that it wraps."""
    embeddings = batching()
    for kind in (InTheSignature, InTheCode, OnlyAsync):
        assert replaces_by_id(kind(embeddings))
    assert replaces_by_id(Around(TableStore(embeddings)))
    assert replaces_by_id(Proxy(TableStore(embeddings)))
    assert not replaces_by_id(Around(NoIdsStore(embeddings)))
    assert not replaces_by_id(NoIdsStore(embeddings))
    assert not replaces_by_id(Appending(embeddings))


def test_the_store_that_does_the_work_is_found() -> None:
    """Within wrappers, and within a proxy that is no store by its class."""
    inner = TableStore(batching())
    assert core_of(Around(inner)) is inner
    assert core_of(Proxy(inner)) is inner
    assert core_of(inner) is inner


def test_a_proxy_is_filled() -> None:
    """Whatever its class says."""
    inner = TableStore(batching())
    report = inner.embeddings.ingest(Proxy(inner), documents(50))  # type: ignore[attr-defined]
    assert report.stored == len(inner.rows) == 50


@pytest.mark.parametrize("size", [0, -3, None, "many", True])
def test_a_size_that_is_none_is_not_taken_for_one(size: object) -> None:
    """Stores keep all kinds of things under such names."""
    store = TableStore(batching())
    vars(store)["chunk_size"] = size
    assert batch_size_of(store) in (1024, 1)
