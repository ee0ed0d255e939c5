"""A call that cannot work raises an error before anything is read, paid for or stored."""

from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.vectorstores import InMemoryVectorStore

from langchain_batch_embed import InputTypeError, OptionError
from langchain_batch_embed.stores.traits import BATCH_SIZE, batch_size_of, core_of, replaces_by_id
from tests.stores.fakes import CountingEmbeddings, NoIdsStore, TableStore, batching, documents


def test_arguments_in_the_wrong_order() -> None:
    """Arguments in the wrong order raise an error that shows the right order."""
    embeddings = batching()
    store = InMemoryVectorStore(embeddings)
    for swapped in (documents(3), (d for d in documents(3))):
        with pytest.raises(OptionError, match=r"ingest\(store, documents\)"):
            embeddings.ingest(swapped, store)  # type: ignore[arg-type]


def test_a_retriever_is_no_store() -> None:
    """A retriever is refused: it has an `add_documents`, but its store is in `.vectorstore`."""
    embeddings = batching()
    store = InMemoryVectorStore(embeddings)
    with pytest.raises(OptionError, match=r"\.vectorstore"):
        embeddings.ingest(store.as_retriever(), documents(3))  # type: ignore[arg-type]
    assert not store.store


def test_too_few_ids() -> None:
    """A list of 2,999 ids for 3,000 documents is refused before anything is embedded."""
    wrapped = CountingEmbeddings()
    embeddings = batching(wrapped)
    store = TableStore(embeddings)
    with pytest.raises(OptionError, match="only 2,999 ids"):
        embeddings.ingest(store, documents(3000), ids=[str(i) for i in range(2999)])
    assert not store.rows
    assert wrapped.sent == 0


def test_a_single_id_is_counted_in_the_singular() -> None:
    """One id for three documents is refused with a message that counts it correctly."""
    embeddings = batching()
    with pytest.raises(OptionError, match=r"there is only 1 id$"):
        embeddings.ingest(TableStore(embeddings), documents(3), ids=["a"])


def test_a_class_is_no_store() -> None:
    """A store's class in place of a store is refused with advice to make one."""
    with pytest.raises(OptionError, match=r"not a class: make one, TableStore\(\.\.\.\)"):
        batching().ingest(TableStore, documents(3))  # type: ignore[arg-type]


def test_a_table_holds_no_documents() -> None:
    """A table, which yields the names of its columns, is refused with advice for its rows."""

    class DataFrame(list[str]):
        columns = ("id", "text")

    embeddings = batching()
    with pytest.raises(InputTypeError, match=r"not a DataFrame; make a Document.* of each row"):
        embeddings.ingest(TableStore(embeddings), DataFrame(["id"]))  # type: ignore[arg-type]


def test_a_function_is_no_iterable() -> None:
    """A generator's function in place of the generator is refused with advice to call it."""
    embeddings = batching()
    with pytest.raises(InputTypeError, match="not a function; pass what it returns"):
        embeddings.ingest(TableStore(embeddings), documents)  # type: ignore[arg-type]


def test_show_progress_is_true_or_false() -> None:
    """Any other value of `show_progress` is refused before anything is stored."""
    embeddings = batching()
    store = TableStore(embeddings)
    with pytest.raises(OptionError, match="show_progress must be True, False or None, not 'no'"):
        embeddings.ingest(store, documents(3), show_progress="no")  # type: ignore[arg-type]
    assert not store.rows


def test_ids_of_the_content_for_a_store_without_ids_are_said_to_be_of_no_use(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Content ids for a store that takes no ids are logged as useless: a rerun doubles the rows."""
    embeddings = batching()
    report = embeddings.ingest(NoIdsStore(embeddings), documents(3), ids="content")
    assert report.stored == 3
    assert "takes no ids" in caplog.text


def test_a_lance_table_that_each_call_replaces() -> None:
    """A LanceDB in its default mode is refused, because each call would replace the whole table."""

    class LanceDB(TableStore):
        mode = "overwrite"

    embeddings = batching()
    with pytest.raises(OptionError, match="mode='append'"):
        embeddings.ingest(LanceDB(embeddings), documents(3))


class InTheSignature(TableStore):
    """A store whose method takes ids by name, as in most stores."""


class InTheCode(NoIdsStore):
    """A store whose method reads ids from its options, as in DuckDB and Redis."""

    def add_texts(self, texts: Any, metadatas: Any = None, **kwargs: Any) -> list[str]:
        """Read ids from the options."""
        del metadatas
        return self.write(texts, kwargs.get("ids"))


class OnlyAsync(NoIdsStore):
    """A store whose asynchronous method alone takes ids, as PGVector in its asynchronous mode."""

    async def aadd_documents(
        self, documents: list[Document], *, ids: list[str] | None = None, **kwargs: Any
    ) -> list[str]:
        """Raise an error, because only the signature matters."""
        raise NotImplementedError


class Around(NoIdsStore):
    """A store that wraps another one."""

    def __init__(self, inner: TableStore | NoIdsStore) -> None:
        super().__init__(inner.embeddings)
        self.inner = inner


class Proxy:
    """An object that is no `VectorStore` by its class but behaves as one."""

    def __init__(self, inner: TableStore) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class Appending(TableStore):
    """A store that adds a second row for the same id and cannot delete one."""


Appending.__name__ = "SKLearnVectorStore"


def test_a_store_that_takes_ids_is_known_by_its_methods() -> None:
    """Whether a store takes ids is read from its methods, or from those of the store it wraps."""
    embeddings = batching()
    for kind in (InTheSignature, InTheCode, OnlyAsync):
        assert replaces_by_id(kind(embeddings))
    assert replaces_by_id(Around(TableStore(embeddings)))
    assert replaces_by_id(Proxy(TableStore(embeddings)))
    assert not replaces_by_id(Around(NoIdsStore(embeddings)))
    assert not replaces_by_id(NoIdsStore(embeddings))
    assert not replaces_by_id(Appending(embeddings))


def test_the_store_that_does_the_work_is_found() -> None:
    """The store that does the work is found behind a wrapper and behind a proxy."""
    inner = TableStore(batching())
    assert core_of(Around(inner)) is inner
    assert core_of(Proxy(inner)) is inner
    assert core_of(inner) is inner


def test_a_proxy_is_filled() -> None:
    """`ingest` fills a proxy, although its class is no `VectorStore`."""
    inner = TableStore(batching())
    report = inner.embeddings.ingest(Proxy(inner), documents(50))  # type: ignore[attr-defined]
    assert report.stored == len(inner.rows) == 50


@pytest.mark.parametrize(
    ("size", "used"),
    [
        *((size, BATCH_SIZE) for size in (0, -3, None, True, "many", 7.5, float("nan"))),
        (9, 9),
    ],
)
def test_a_size_that_is_none_is_not_taken_for_one(size: object, used: int) -> None:
    """A `chunk_size` that is not a positive whole number is not used as the batch size."""
    store = TableStore(batching())
    vars(store)["chunk_size"] = size
    assert batch_size_of(store) == used
