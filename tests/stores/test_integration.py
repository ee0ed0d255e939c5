"""The caller changes only the embeddings object, and the stores hold the same data."""

import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings

from langchain_batch_embed import BatchEmbeddings
from tests.stores.callers import CALLERS
from tests.stores.conftest import Fill
from tests.stores.corpus import QUERIES, corpus
from tests.stores.places import Places
from tests.stores.reading import assert_right_rows, results_of, rows_of
from tests.support import LocalServer, assert_right


class TestBatchEmbeddingIntegration:
    """Whole programs use `BatchEmbeddings` in place of `OpenAIEmbeddings`."""

    @pytest.mark.parametrize("name", CALLERS)
    def test_rows_and_search_results_are_those_of_openai_embeddings(
        self,
        name: str,
        fill: Fill,
        documents: list[Document],
        plain: Embeddings,
        batching: BatchEmbeddings,
    ) -> None:
        """The same caller gets the same texts, metadata, vectors and results with either class."""
        rows, results = [], []
        for embeddings in (plain, batching):
            store = fill(name, documents, embeddings)
            rows.append(rows_of(name, store))
            results.append(results_of(store))

        assert rows[1] == rows[0]
        assert results[1] == results[0]

    def test_query_vectors_are_those_of_openai_embeddings(
        self, plain: Embeddings, batching: BatchEmbeddings
    ) -> None:
        """A query is embedded to the same float32 numbers, so any search has the same results."""
        for query in QUERIES:
            assert_right([plain.embed_query(query), batching.embed_query(query)], [query] * 2)

    def test_supabase_gets_a_large_corpus_from_few_requests(
        self, fill: Fill, batching: BatchEmbeddings, places: Places, server: LocalServer
    ) -> None:
        """Supabase's 1,200 texts are embedded in at most 4 requests and written in 3 chunks."""
        documents = corpus(copies=10)

        store = fill("supabase", documents, batching)

        assert_right_rows(rows_of("supabase", store), documents)
        assert server.stats()["requests"] <= 4
        assert len(places.standin.served) == 3

    def test_sqlite_gets_more_texts_than_one_request_may_hold(
        self, fill: Fill, batching: BatchEmbeddings, server: LocalServer
    ) -> None:
        """A corpus of 2,400 texts keeps to OpenAI's 2,048 a request, and no text is sent twice."""
        documents = corpus(copies=20)

        store = fill("sqlite_vec", documents, batching)

        assert_right_rows(rows_of("sqlite_vec", store), documents)
        stats = server.stats()
        assert stats["max_inputs_seen"] <= 2048
        assert stats["inputs_billed"] == stats["texts_billed_distinct"] == len(documents) + 1

    def test_sqlite_survives_a_server_in_trouble(
        self, fill: Fill, batching: BatchEmbeddings, documents: list[Document], server: LocalServer
    ) -> None:
        """Spoiled answers cost another request, but never cause a wrong or missing row."""
        # The first request is the store's dummy query.
        server.configure(script=("ok", "short", "nan", "shuffled"))

        store = fill("sqlite_vec", documents, batching)

        assert_right_rows(rows_of("sqlite_vec", store), documents)
        assert 4 <= server.stats()["requests"] <= 6  # with one request that probes the server
