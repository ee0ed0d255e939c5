"""The reports of a prefetch and of its calls count each text once."""

from collections.abc import Callable

import pytest

from langchain_batch_embed import BatchEmbeddings, PartialEmbeddingsError
from tests.calls.prefetches import TEXTS, slices, started
from tests.support import LocalServer

Batch = Callable[..., BatchEmbeddings]

pytestmark = pytest.mark.usefixtures("no_thread_is_left")


class TestReports:
    """Each text is counted once, where it was embedded."""

    def test_the_report_is_the_callers_and_then_the_blocks(
        self, batch: Batch, server: LocalServer
    ) -> None:
        """`last_report` is a small call's within the block, and the block's afterwards."""
        embeddings = batch()
        with embeddings.prefetch([*TEXTS, *TEXTS[:50]]):
            embeddings.embed_documents(TEXTS)
            small = embeddings.last_report
        whole = embeddings.last_report
        assert small is not None
        assert whole is not None
        assert (small.texts, small.requests, small.tokens) == (1000, 0, 0)
        assert (whole.texts, whole.unique, whole.failures) == (1050, 1000, 0)
        stats = server.stats()
        assert (whole.requests, whole.tokens) == (stats["requests"], stats["tokens_billed"])

    def test_the_blocks_report_counts_what_its_calls_sent(
        self, batch: Batch, server: LocalServer
    ) -> None:
        """The block's report includes the requests that its calls sent for texts out of turn.

        A request that several calls share is counted by each of them.
        """
        embeddings = batch()
        with embeddings.prefetch(TEXTS, max_buffered=100):
            for portion in slices(TEXTS[::-1], 50):
                embeddings.embed_documents(portion)
        report, stats = embeddings.last_report, server.stats()
        assert report is not None
        assert report.tokens == stats["tokens_billed"]
        assert stats["requests"] <= report.requests <= 2 * stats["requests"]

    def test_the_blocks_report_counts_each_text_without_a_vector(
        self, batch: Batch, server: LocalServer
    ) -> None:
        """Failures count each announced text that has no vector in the end.

        A refused text that was announced three times counts three times. A text that was embedded
        later counts as none.
        """
        server.configure(refuse_marker="section 7")
        embeddings = batch(max_retries=0)
        announced = [*TEXTS[:10], "section 7", "section 7"]
        with embeddings.prefetch(announced), pytest.raises(PartialEmbeddingsError):
            embeddings.embed_documents(TEXTS[:10])
        assert embeddings.last_report is not None
        assert embeddings.last_report.failures == 3
        with embeddings.prefetch(["section 7"]) as prefetch:
            assert prefetch.wait_for_all(["section 7"]) == ["section 7"]
            server.configure()
            embeddings.embed_documents(["section 7"])
        assert embeddings.last_report.failures == 0
        server.configure(refuse_marker="section 7")
        # Asked for before its turn, the text fails in the call and not in a run.
        announced = ["section 8", "section 7"]
        block = embeddings.prefetch(announced, max_buffered=1)
        with block, pytest.raises(PartialEmbeddingsError):
            embeddings.embed_documents(announced)
        assert embeddings.last_report.failures == 1

    def test_the_report_of_a_block_that_was_left_early_counts_what_nobody_requested(
        self, batch: Batch
    ) -> None:
        """In a block that ends early, texts that nobody requested are no failures."""
        embeddings = batch(max_workers=1)
        with started(embeddings.prefetch(TEXTS, max_buffered=100)) as prefetch:
            assert prefetch.wait_for_all(TEXTS[:100]) == []
        report = embeddings.last_report
        assert report is not None
        assert (report.texts, report.failures, report.not_requested) == (1000, 0, 900)
        assert "1,000 unique, 900 not requested)" in str(report)
        assert "failed" not in str(report)
        assert "not requested" in report._repr_html_()

    def test_a_block_in_which_nothing_was_requested_has_no_failures(self, batch: Batch) -> None:
        """A block around an `index()` that skips every document has no failures and no cost."""
        embeddings = batch()
        with embeddings.prefetch(TEXTS):
            pass
        report = embeddings.last_report
        assert report is not None
        assert (report.requests, report.failures, report.not_requested) == (0, 0, 1000)

    def test_a_text_that_a_run_could_not_embed_is_a_failure(
        self, batch: Batch, server: LocalServer
    ) -> None:
        """A text that the server refused to a run has failed, even if no call requested it."""
        server.configure(refuse_marker="section 7")
        embeddings = batch(max_retries=0)
        with started(embeddings.prefetch(TEXTS[:10])) as prefetch:
            assert prefetch.wait_for_all(["section 7"]) == ["section 7"]
        assert embeddings.last_report is not None
        assert embeddings.last_report.failures == 1
