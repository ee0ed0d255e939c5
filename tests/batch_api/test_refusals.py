"""A job that cannot work is refused before anything is uploaded."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.stores import InMemoryByteStore
from langchain_openai import AzureOpenAIEmbeddings
from pydantic import SecretStr

from langchain_batch_embed import BatchEmbeddings, OptionError, Usage
from tests.batch_api.support import Half, assert_all_there, configure, make, texts_of
from tests.support import LocalServer, assert_right

TEXTS = texts_of(6000)


class TestRefusals:
    """A job that cannot work is refused before anything is uploaded."""

    @pytest.mark.parametrize("kept", [None, InMemoryByteStore()])
    def test_a_journal_in_a_file_is_needed(self, server: LocalServer, kept: Any) -> None:
        """A job requires a journal in a file, because answers may come after this process ends."""
        configure(server)
        embeddings = make(server.url, kept)
        for call in (lambda: embeddings.submit(TEXTS), embeddings.jobs):
            with pytest.raises(OptionError, match=r'journal="vectors\.db"'):
                call()

    def test_azure_takes_no_embeddings(self, server: LocalServer, journal: Path) -> None:
        """A job at Azure is refused, because its Batch API takes no embeddings."""
        wrapped = AzureOpenAIEmbeddings(
            azure_endpoint=server.azure_endpoint,
            api_key=SecretStr("k"),
            api_version="2024-10-21",
            azure_deployment="text-embedding-3-small",
        )
        with pytest.raises(OptionError, match="Azure's Batch API does not support"):
            BatchEmbeddings(wrapped, journal=journal).submit(TEXTS)

    def test_other_classes_have_none(self, journal: Path) -> None:
        """A job with another class is refused, because the Batch API is OpenAI's."""
        embeddings = BatchEmbeddings(
            DeterministicFakeEmbedding(size=4), journal=journal, model="fake"
        )
        with pytest.raises(OptionError, match="wrap an OpenAIEmbeddings"):
            embeddings.submit(TEXTS)

    def test_a_server_without_a_batch_api(self, server: LocalServer, half: Half) -> None:
        """A server of the same protocol without a Batch API is refused by its address."""
        configure(server, exists=False)
        with pytest.raises(OptionError, match=r"http://127\.0\.0\.1:\d+/v1/? has no Batch API"):
            half().submit(TEXTS)
        assert half().jobs() == []

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"max_dollars": 0.0001}, "nothing was uploaded"),
            ({"max_dollars": 0}, "more than 0"),
            ({"max_dollars": "1"}, "must be a number"),
            ({"finish_by": 0}, "more than 0 seconds"),
            ({"finish_by": "tomorrow"}, "a timedelta or a datetime"),
            ({"finish_by": datetime(2030, 1, 1)}, "time zone"),  # noqa: DTZ001
            ({"finish_by": datetime(2020, 1, 1, tzinfo=UTC)}, "in the future"),
        ],
    )
    def test_options_that_cannot_work(
        self, server: LocalServer, half: Half, options: dict[str, Any], message: str
    ) -> None:
        """Each impossible option raises an error that says what is wrong."""
        configure(server)
        with pytest.raises(OptionError, match=message):
            half().submit(TEXTS, **options)
        assert server.stats()["files"]["uploaded"] == 0

    def test_headers_of_ones_own_are_not_dropped_silently(
        self, server: LocalServer, half: Half
    ) -> None:
        """Extra headers are refused rather than dropped, because a line of a batch has none."""
        configure(server)
        embeddings = half(wrapped={"model_kwargs": {"extra_headers": {"a": "b"}}})
        with pytest.raises(OptionError, match="extra_headers"):
            embeddings.submit(TEXTS)

    def test_an_empty_text(self, server: LocalServer, half: Half) -> None:
        """An empty text is refused, as everywhere."""
        configure(server)
        with pytest.raises(ValueError, match="empty"):
            half().submit(["a", ""])

    def test_an_empty_text_that_is_to_have_a_vector(self, server: LocalServer, half: Half) -> None:
        """With `empty="skip-vector"` an empty text gets a space's vector, even after expiry."""
        configure(server, fates=("expires",), day=0.5, expired_share=0.01)
        embeddings = half(empty="skip-vector")
        report = embeddings.submit(["a", ""]).wait(show_progress=False)
        assert report.failures == ()
        assert server.stats()["requests"] == 0
        assert_all_there(embeddings, ["a"], server)
        assert_right(embeddings.embed_numpy([""]), [" "])
        assert server.stats()["requests"] == 0

    def test_the_dollars_of_the_object_are_kept_to(self, server: LocalServer, half: Half) -> None:
        """The object's `max_dollars` limits a job, unless `submit` names another limit."""
        configure(server)
        embeddings = half(max_dollars=1e-9)
        with pytest.raises(OptionError, match="nothing was uploaded"):
            embeddings.submit(TEXTS[:9])
        assert server.stats()["files"]["uploaded"] == 0
        report = embeddings.submit(TEXTS[:9], max_dollars=1).wait(show_progress=False)
        assert report.failures == ()

    def test_on_usage_is_told_what_is_billed(self, server: LocalServer, half: Half) -> None:
        """`on_usage` receives the batch's usage at half price, even for invalid answers."""
        configure(server, line_faults={"nan": 0.5})
        told: list[Usage] = []
        report = half(on_usage=told.append, max_batch_size=5).submit(TEXTS[:100])
        done = report.wait(show_progress=False)
        assert sum(usage.tokens for usage in told) == done.half_price_tokens
        assert sum(usage.dollars or 0 for usage in told) == pytest.approx(done.dollars)
        assert sum(usage.texts for usage in told) > 100
