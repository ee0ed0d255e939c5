"""SupabaseVectorStore runs with its real client on a real PostgreSQL with pgvector."""

import uuid
import zlib
from typing import cast

import numpy as np
import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings

from langchain_batch_embed import BatchEmbeddings
from tests.stores.conftest import Fill
from tests.stores.corpus import PLANTS, text_about
from tests.stores.places import Places
from tests.stores.reading import assert_right_rows, rows_of
from tests.support import LocalServer


def test_rows_are_the_documents_with_the_servers_vectors(
    fill: Fill, documents: list[Document], embeddings: Embeddings
) -> None:
    """PostgreSQL holds exactly these texts with the vectors that the server computed for them."""
    store = fill("supabase", documents, embeddings)

    assert_right_rows(rows_of("supabase", store), documents)


def test_search_finds_the_document_that_is_asked_for(
    fill: Fill, documents: list[Document], embeddings: Embeddings
) -> None:
    """The nearest row contains the query's words, and the search returns only `k` rows."""
    store = fill("supabase", documents, embeddings)

    found = store.similarity_search("eucalyptus in Helsinki", k=3)

    assert len(found) == 3
    assert found[0].page_content == text_about("eucalyptus", "Helsinki")


def test_scores_fall_from_the_first_result_to_the_last(
    fill: Fill, documents: list[Document], embeddings: Embeddings
) -> None:
    """A stored text finds itself first with similarity 1, and the scores then fall."""
    store = fill("supabase", documents, embeddings)

    found = store.similarity_search_with_relevance_scores(text_about("fennel", "Oslo"), k=5)

    scores = [score for _, score in found]
    assert scores == sorted(scores, reverse=True)
    assert scores[0] == pytest.approx(1)
    assert found[0][0].page_content == text_about("fennel", "Oslo")


def test_metadata_filter_leaves_only_what_matches(
    fill: Fill, documents: list[Document], embeddings: Embeddings
) -> None:
    """A filter on a place returns only that place's 12 plants, the nearest first."""
    store = fill("supabase", documents, embeddings)

    found = store.similarity_search("fennel in Oslo", k=100, filter={"place": "Lisbon"})

    assert found[0].page_content == text_about("fennel", "Lisbon")
    assert {doc.page_content for doc in found} == {text_about(p, "Lisbon") for p in PLANTS}


def test_same_id_again_replaces_the_row(
    fill: Fill, documents: list[Document], embeddings: Embeddings
) -> None:
    """An upsert changes text, metadata and vector of the row with that id, and adds none."""
    store = fill("supabase", documents, embeddings)
    changed = documents[7].model_copy(update={"page_content": "Nothing grows.", "metadata": {}})

    assert store.add_documents([changed]) == [changed.id]

    assert_right_rows(rows_of("supabase", store), [*documents[:7], changed, *documents[8:]])


def test_rows_without_ids_get_some(fill: Fill, embeddings: Embeddings) -> None:
    """If the caller gives no ids, the database makes them and the store returns them."""
    store = fill("supabase", [Document(page_content="kept")], embeddings)

    ids = store.add_texts(["first", "second"])

    assert len({uuid.UUID(each) for each in ids}) == 2
    store.delete(ids)
    assert [row.text for row in rows_of("supabase", store)] == ["kept"]


def test_delete_by_id(fill: Fill, documents: list[Document], embeddings: Embeddings) -> None:
    """Deleted documents are gone, and a search finds another one."""
    store = fill("supabase", documents, embeddings)

    store.delete([doc.id for doc in documents[:10]])

    assert_right_rows(rows_of("supabase", store), documents[10:])
    gone = documents[0].page_content
    assert store.similarity_search(gone, k=1)[0].page_content != gone


def test_rows_are_written_500_at_a_time(fill: Fill, places: Places, plain: Embeddings) -> None:
    """The store writes 1,001 documents in chunks of 500, so the stand-in counts three requests."""
    many = [Document(page_content=f"document {number}") for number in range(1001)]
    store = fill("supabase", many, plain)

    assert [call.method for call in places.standin.served] == ["POST"] * 3
    assert_right_rows(rows_of("supabase", store), many)


class _Dense(Embeddings):
    """Unit vectors without zeros, like a model's; the local server's vectors contain many."""

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        seeds = [zlib.crc32(text.encode()) for text in texts]
        vectors = np.stack([np.random.default_rng(seed).normal(size=1536) for seed in seeds])
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return cast("list[list[float]]", vectors.astype(np.float32).tolist())

    def embed_query(self, text: str) -> list[float]:
        return self.embed_documents([text])[0]


def test_short_floats_save_a_third_of_what_is_sent(
    fill: Fill, documents: list[Document], places: Places
) -> None:
    """With `BatchEmbeddings` the same rows take less than two thirds of the bytes."""
    rows, received = [], []
    for embeddings in (_Dense(), BatchEmbeddings(_Dense())):
        store = fill("supabase", documents, embeddings)
        rows.append(rows_of("supabase", store))
        received.append(sum(call.received for call in places.standin.served))

    assert rows[0] == rows[1]
    assert received[1] < received[0] * 2 / 3


def test_refusal_reaches_the_caller_as_supabase_words_it(
    fill: Fill, documents: list[Document], embeddings: Embeddings
) -> None:
    """An id that is no uuid raises PostgreSQL's own error, and no row of its request is kept."""
    store = fill("supabase", documents, embeddings)
    from postgrest import APIError  # noqa: PLC0415 - installed whenever the store is

    bad = Document(page_content="never stored", id="number 8")

    with pytest.raises(APIError, match="invalid input syntax for type uuid") as refusal:
        store.add_documents([Document(page_content="neither", id=str(uuid.uuid4())), bad])

    assert refusal.value.code == "22P02"
    assert_right_rows(rows_of("supabase", store), documents)


def test_other_width_is_refused(
    fill: Fill, documents: list[Document], embeddings: Embeddings, server: LocalServer
) -> None:
    """A vector of another width than the column raises an error and is not stored."""
    store = fill("supabase", [], embeddings)
    from postgrest import APIError  # noqa: PLC0415 - installed whenever the store is

    with pytest.raises(APIError, match="expected 1536 dimensions, not 8"):
        store.add_vectors([[0.5] * 8], documents[:1])

    assert rows_of("supabase", store) == []
    assert server.stats()["requests"] == 0
