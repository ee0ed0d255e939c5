"""The limit of enqueued tokens is learnt, kept, and shared by the jobs of a journal."""

from langchain_batch_embed import SQLiteJournal
from langchain_batch_embed.batch_api.store import JobStore
from tests.batch_api.support import (
    BULKY,
    FastCalendar,
    Half,
    assert_all_there,
    assert_paid_once,
    configure,
)
from tests.support import LocalServer


class TestQueue:
    """No more tokens are enqueued than the account permits."""

    def test_a_limit_of_a_quarter_of_the_work(self, server: LocalServer, half: Half) -> None:
        """A limit below the work is learnt from a refusal, and the file is cut and sent in turn."""
        configure(server, max_enqueued_tokens=80_000)
        embeddings = half()
        embeddings.submit(BULKY).wait(show_progress=False)
        stats = server.stats()
        failed = [batch for batch in stats["batches"] if batch["status"] == "failed"]
        assert len(failed) == 1
        assert max(b["tokens"] for b in stats["batches"] if b not in failed) <= 80_000
        assert_paid_once(stats, len(BULKY))
        assert_all_there(embeddings, BULKY, server)

    def test_a_limit_is_learnt_from_a_creation_that_is_refused(
        self, server: LocalServer, half: Half
    ) -> None:
        """A limit is learnt from a refused creation too, where some clients have seen it."""
        configure(server, max_enqueued_tokens=80_000, creations=("token_limit",))
        embeddings = half(factor=200)
        embeddings.submit(BULKY).wait(show_progress=False)
        stats = server.stats()
        assert [b["status"] for b in stats["batches"]] == ["completed"] * len(stats["batches"])
        assert_paid_once(stats, len(BULKY))

    def test_a_limit_below_what_is_packed_cuts_it_when_its_turn_comes(
        self, server: LocalServer, half: Half
    ) -> None:
        """Files made before a smaller limit was learnt are cut when their turn comes."""
        configure(server, max_enqueued_tokens=80_000, creations=("503",))
        embeddings = half(factor=200)
        job = embeddings.submit(BULKY)
        store = JobStore(SQLiteJournal(embeddings.journal.path))  # type: ignore[attr-defined]
        store.learn_limit(
            embeddings._pipeline.provider.space.digest, 80_000, FastCalendar(200).time()
        )
        job.wait(show_progress=False)
        assert_paid_once(server.stats(), len(BULKY))

    def test_a_limit_that_is_known_is_kept_to(self, server: LocalServer, half: Half) -> None:
        """A known limit is kept, so the next job is not refused."""
        configure(server, max_enqueued_tokens=80_000)
        embeddings = half()
        embeddings.submit(BULKY[:700]).wait(show_progress=False)
        embeddings.submit(BULKY).wait(show_progress=False)
        failed = [b for b in server.stats()["batches"] if b["status"] == "failed"]
        assert len(failed) == 1

    def test_two_jobs_share_the_queue(self, server: LocalServer, half: Half) -> None:
        """Two jobs share the queue of enqueued tokens, and each text is paid for once."""
        configure(server, max_enqueued_tokens=200_000)
        embeddings = half()
        first = embeddings.submit(BULKY[:1000])
        second = embeddings.submit(BULKY[1000:])
        for job in (second, first):
            job.wait(show_progress=False)
        assert_paid_once(server.stats(), len(BULKY))
