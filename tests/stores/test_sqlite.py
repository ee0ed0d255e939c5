"""SQLiteVec keeps its rows in a real file, with a sqlite3 that loads extensions."""

import asyncio

from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings

from tests.stores.conftest import Fill
from tests.stores.corpus import corpus, text_about
from tests.stores.reading import assert_right_rows, rows_of


def test_rows_are_the_documents_with_the_servers_vectors(
    fill: Fill, documents: list[Document], embeddings: Embeddings
) -> None:
    """SQLite holds exactly these texts with the vectors that the server computed for them."""
    store = fill("sqlite_vec", documents, embeddings)

    assert_right_rows(rows_of("sqlite_vec", store), documents)


def test_search_finds_the_document_that_is_asked_for(
    fill: Fill, documents: list[Document], embeddings: Embeddings
) -> None:
    """The nearest row is the one that contains the query's words, and it has its metadata."""
    store = fill("sqlite_vec", documents, embeddings)

    found = store.similarity_search("magnolia in Kraków", k=3)

    assert len(found) == 3
    assert found[0].page_content == text_about("magnolia", "Kraków")
    assert found[0].metadata["place"] == "Kraków"


def test_distance_of_a_stored_text_to_itself_is_zero(
    fill: Fill, documents: list[Document], embeddings: Embeddings
) -> None:
    """A stored text has distance 0 to itself, because both vectors are equal bit for bit."""
    store = fill("sqlite_vec", documents, embeddings)

    found = store.similarity_search_with_score(text_about("quince", "Lisbon"), k=2)

    assert [score == 0 for _, score in found] == [True, False]


def test_documents_can_be_added_in_several_calls(
    fill: Fill, documents: list[Document], embeddings: Embeddings
) -> None:
    """Later calls add rows, even from an event loop."""
    store = fill("sqlite_vec", documents[:40], embeddings)

    store.add_documents(documents[40:80])
    asyncio.run(store.aadd_documents(documents[80:]))

    assert_right_rows(rows_of("sqlite_vec", store), documents)


def test_identical_texts_are_all_stored(fill: Fill, embeddings: Embeddings) -> None:
    """Each of two identical documents has its own row, although the text is embedded once."""
    twice = corpus()[:50] + corpus()[:50]
    store = fill("sqlite_vec", twice, embeddings)

    assert_right_rows(rows_of("sqlite_vec", store), twice)
