"""The other common stores, from end to end."""

import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings

from langchain_batch_embed import BatchEmbeddings
from tests.stores.callers import CALLERS
from tests.stores.conftest import Fill
from tests.stores.corpus import text_about
from tests.stores.reading import assert_right_rows, rows_of
from tests.support import LocalServer

# The other two have modules of their own.
OTHERS = [name for name in CALLERS if name not in ("sqlite_vec", "supabase")]

# Requests to the embeddings server for the 120 documents: one, plus those that the store adds.
REQUESTS = {
    "sqlite_vec": 1 + 1,  # embeds a dummy query to learn the width
    "supabase": 1,
    "in_memory": 1,
    "chroma": 1,
    "faiss": 1,
    "qdrant": 1 + 2,  # a dummy text to learn the width, then 64 texts at a time
    "pgvector": 1,
}


@pytest.mark.parametrize("name", OTHERS)
def test_rows_are_the_documents_with_the_servers_vectors(
    name: str, fill: Fill, documents: list[Document], embeddings: Embeddings
) -> None:
    """The store holds exactly these texts with the vectors that the server computed for them."""
    store = fill(name, documents, embeddings)

    assert_right_rows(rows_of(name, store), documents)


@pytest.mark.parametrize("name", OTHERS)
def test_search_finds_the_document_that_is_asked_for(
    name: str, fill: Fill, documents: list[Document], embeddings: Embeddings
) -> None:
    """The nearest row is the one that contains the query's words."""
    store = fill(name, documents, embeddings)

    found = store.similarity_search("tamarind in Jönköping", k=3)

    assert len(found) == 3
    assert found[0].page_content == text_about("tamarind", "Jönköping")


@pytest.mark.parametrize("name", CALLERS)
def test_few_requests_embed_all_documents(
    name: str,
    fill: Fill,
    documents: list[Document],
    batching: BatchEmbeddings,
    server: LocalServer,
) -> None:
    """A store causes several requests only if it itself asks for small slices of the documents."""
    fill(name, documents, batching)

    assert server.stats()["requests"] == REQUESTS[name]
