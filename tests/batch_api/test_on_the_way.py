"""A call for texts that a job is embedding pays for them again, so a warning is logged first."""

import logging
from pathlib import Path

import pytest
from pytest_mock import MockerFixture

from langchain_batch_embed.batch_api.lock import lock_file
from langchain_batch_embed.batch_api.store import JobStore
from tests.batch_api.support import Half, JumpingCalendar, configure, make, texts_of
from tests.support import LocalServer

TEXTS = texts_of(600)
LATER = 1000.0
"""Real seconds that the server works on a batch."""


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the warnings about texts that are on their way."""
    return [each.getMessage() for each in caplog.records if "on their way" in each.getMessage()]


class TestWarning:
    """The warning names the job and how many texts it has."""

    def test_a_call_for_texts_of_a_job_is_warned_of_once(
        self, server: LocalServer, half: Half, caplog: pytest.LogCaptureFixture
    ) -> None:
        """An ordinary call for texts of an unfinished job logs one warning that names the job."""
        configure(server, running=LATER)
        embeddings = half()
        job = embeddings.submit(TEXTS)
        embeddings.embed_documents([*TEXTS[:50], "another text"])
        (said,) = warnings(caplog)
        assert said.startswith(f"50 of these texts are on their way in job {job.id}")
        assert "job.wait() is half the price" in said
        embeddings.embed_documents(TEXTS[50:100])
        assert len(warnings(caplog)) == 1

    def test_another_object_with_the_journal_is_warned_too(
        self,
        server: LocalServer,
        half: Half,
        journal: Path,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """An object of another process finds the job in the journal, also in a prefetch."""
        configure(server, running=LATER)
        half().submit(TEXTS)
        other = make(server.url, journal)
        with other.prefetch(TEXTS) as prefetch:
            prefetch.go_ahead()
            assert prefetch.wait_for_all(TEXTS) == []
        assert len(warnings(caplog)) == 1

    def test_texts_of_no_job_are_sent_without_a_word(
        self, server: LocalServer, half: Half, caplog: pytest.LogCaptureFixture
    ) -> None:
        """No warning is logged for other texts, for queries, or for a cancelled or ended job."""
        configure(server, running=0.1)
        embeddings = half()
        embeddings.submit(TEXTS[:10]).wait(show_progress=False)
        configure(server, running=LATER)
        embeddings.submit(TEXTS[10:20]).cancel()
        embeddings.submit(TEXTS[20:30])
        embeddings.embed_query(TEXTS[25])
        embeddings.embed_documents(TEXTS[:20])
        embeddings.embed_documents(texts_of(10, start=5000))
        assert warnings(caplog) == []

    def test_a_job_may_send_its_own_late_texts(
        self, server: LocalServer, half: Half, caplog: pytest.LogCaptureFixture
    ) -> None:
        """The ordinary requests of a job for its own texts are not warned of."""
        caplog.set_level(logging.WARNING)
        configure(server, fates=("stuck",), cancelling=0.0)
        job = half(_calendar=JumpingCalendar()).submit(TEXTS, finish_by=10)
        job.wait(show_progress=False)
        assert server.stats()["texts_billed_distinct"] == len(TEXTS)
        assert warnings(caplog) == []


class TestCost:
    """The look for jobs costs next to nothing."""

    def test_a_journal_without_jobs_is_not_queried(
        self, server: LocalServer, half: Half, mocker: MockerFixture
    ) -> None:
        """Without a job, a call runs no query for jobs."""
        configure(server)
        looks = mocker.spy(JobStore, "exists")
        half().embed_documents(TEXTS)
        assert looks.call_count == 0

    def test_the_keys_of_a_job_are_read_once(
        self, server: LocalServer, half: Half, mocker: MockerFixture
    ) -> None:
        """Calls for other texts read the keys of an unfinished job only once."""
        configure(server, running=LATER)
        embeddings = half()
        embeddings.submit(TEXTS)
        reads = mocker.spy(JobStore, "open_keys")
        for i in range(5):
            embeddings.embed_documents(texts_of(2, start=1000 + 2 * i))
        assert reads.call_count == 1

    def test_a_journal_that_lost_its_jobs_stops_no_call(
        self, server: LocalServer, half: Half, journal: Path
    ) -> None:
        """A call goes on if the file of the lock is there but the tables are not."""
        configure(server)
        lock_file(journal).touch()
        assert len(half().embed_documents(TEXTS[:3])) == 3
