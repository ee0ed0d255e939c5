"""Jobs live in the journal's file, which is versioned, replaceable and locked."""

import sqlite3
import threading
from pathlib import Path

import pytest

from langchain_batch_embed import JournalError, SQLiteJournal
from langchain_batch_embed.batch_api.lock import jobs_lock
from tests.batch_api.support import Half, assert_all_there, assert_paid_once, configure, texts_of
from tests.support import LocalServer

TEXTS = texts_of(6000)


class TestFile:
    """The journal's file with jobs in it."""

    def test_a_journal_of_the_version_before_gets_jobs(
        self, server: LocalServer, half: Half, journal: Path
    ) -> None:
        """A journal without jobs gets their tables, and its vectors and version stay.

        So the version before can still open it.
        """
        configure(server)
        half().embed_documents(TEXTS[:10])
        tables = "SELECT name FROM sqlite_master WHERE name LIKE 'job%'"
        with sqlite3.connect(journal) as connection:
            assert connection.execute(tables).fetchall() == []
            (version,) = connection.execute("PRAGMA user_version").fetchone()
        connection.close()
        embeddings = half()
        embeddings.submit(TEXTS[:20]).wait(show_progress=False)
        assert server.stats()["batch_inputs_billed"] == 10
        with sqlite3.connect(journal) as connection:
            assert len(connection.execute(tables).fetchall()) >= 6
            assert connection.execute("PRAGMA user_version").fetchone() == (version,)
        connection.close()
        assert SQLiteJournal(journal).stats().vectors == 20

    def test_jobs_of_a_later_version_are_left_alone(
        self, server: LocalServer, half: Half, journal: Path
    ) -> None:
        """Jobs of a later version are refused, but the vectors can still be read."""
        configure(server)
        embeddings = half()
        embeddings.submit(TEXTS[:20]).wait(show_progress=False)
        with sqlite3.connect(journal) as connection:
            connection.execute("INSERT INTO job_version VALUES (2)")
        connection.close()
        for call in (embeddings.jobs, lambda: embeddings.submit(TEXTS)):
            with pytest.raises(JournalError, match="version 2"):
                call()
        assert_all_there(embeddings, TEXTS[:20], server)

    def test_jobs_move_with_a_journal_that_was_replaced(
        self, server: LocalServer, half: Half, journal: Path
    ) -> None:
        """If the journal's file is deleted, its jobs are restored like its vectors."""
        configure(server)
        embeddings = half()
        job = embeddings.submit(TEXTS[:20])
        journal.unlink()
        job.wait(show_progress=False)
        (found,) = half().jobs()
        assert found.status.finished == 20
        assert_paid_once(server.stats(), 20)

    def test_the_lock_is_one_process_s_at_a_time(self, journal: Path) -> None:
        """The lock of a journal's jobs is held by one thread at a time."""
        held = []
        with jobs_lock(journal) as is_held:
            assert is_held

            def try_it() -> None:
                with jobs_lock(journal) as is_held_too:
                    held.append(is_held_too)

            thread = threading.Thread(target=try_it)
            thread.start()
            thread.join()
        with jobs_lock(journal) as is_held:
            held.append(is_held)
        assert held == [False, True]
