"""Paid vectors are found again, in the journal or in memory while it cannot be written."""

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from langchain_core.embeddings import Embeddings
from langchain_core.stores import InMemoryByteStore
from langchain_openai import OpenAIEmbeddings
from pytest_mock import MockerFixture

from langchain_batch_embed import BatchEmbeddings, JournalError, OptionError, PartialEmbeddingsError
from langchain_batch_embed.calls import recovery
from langchain_batch_embed.journal import SQLiteJournal
from tests.support import LocalServer, SpoiltFirst, assert_right

Batch = Callable[..., BatchEmbeddings]

TEXTS = [f"section {i}" for i in range(5000)]


class TestJournal:
    """With a journal, a rerun pays only for what is missing."""

    def test_a_second_run_sends_nothing_and_gives_the_same_bits(
        self, batch: Batch, server: LocalServer, tmp_path: Path
    ) -> None:
        """A full journal answers everything, bit for bit, even in another instance."""
        first = batch(journal=tmp_path / "journal.sqlite").embed_numpy(TEXTS)
        server.configure()
        embeddings = batch(journal=tmp_path / "journal.sqlite")
        again = embeddings.embed_numpy(TEXTS)
        assert server.stats()["requests"] == 0
        assert again.tobytes() == first.tobytes()
        assert embeddings.last_report is not None
        assert embeddings.last_report.from_journal == 5000

    def test_any_byte_store_can_be_the_journal(self, batch: Batch, server: LocalServer) -> None:
        """A LangChain `ByteStore` serves as a journal, as well as a file."""
        store = InMemoryByteStore()
        batch(journal=store).embed_numpy(TEXTS[:50])
        server.configure()
        assert_right(batch(journal=store).embed_numpy(TEXTS[:60]), TEXTS[:60])
        assert server.stats()["inputs_billed"] == 10

    def test_windows_of_an_over_long_text_are_kept_one_by_one(
        self, batch: Batch, server: LocalServer, tmp_path: Path
    ) -> None:
        """The windows of an over-long text come from the journal too."""
        text = " ".join(f"word{i}" for i in range(8000))
        first = batch(journal=tmp_path / "j").embed_numpy([text])
        server.configure()
        embeddings = batch(journal=tmp_path / "j")
        assert embeddings.embed_numpy([text]).tobytes() == first.tobytes()
        assert server.stats()["requests"] == 0
        assert embeddings.last_report is not None
        assert embeddings.last_report.from_journal == 1  # one text of several windows

    def test_another_model_or_width_is_told_apart(
        self,
        batch: Batch,
        server: LocalServer,
        openai_embeddings: Callable[..., OpenAIEmbeddings],
        tmp_path: Path,
    ) -> None:
        """A vector of another model or width is never returned for this one."""
        small, large = "text-embedding-3-small", "text-embedding-3-large"
        for options in ({"model": small}, {"model": large}, {"model": small, "dimensions": 64}):
            server.configure()
            embeddings = batch(openai_embeddings(**options), journal=tmp_path / "j")
            assert_right(embeddings.embed_numpy(["a"]), ["a"])
            assert server.stats()["requests"] == 1

    def test_a_journal_needs_to_know_the_model(self, tmp_path: Path) -> None:
        """A journal requires a model name, as two models could otherwise share it."""
        with pytest.raises(OptionError, match="model="):
            BatchEmbeddings(Nameless(), journal=tmp_path / "j")
        BatchEmbeddings(Nameless(), journal=tmp_path / "j", model="mine").embed_documents(["a"])

    def test_a_damaged_vector_is_paid_for_again_and_replaced(
        self, batch: Batch, server: LocalServer, tmp_path: Path
    ) -> None:
        """A damaged vector alone is paid for again, and the journal is then correct."""
        path = tmp_path / "j"
        batch(journal=path).embed_numpy(TEXTS[:50])
        connection = sqlite3.connect(path)
        with connection:
            connection.execute("UPDATE vector SET value = zeroblob(length(value)) WHERE id = 7")
        connection.close()
        server.configure()
        for _ in range(2):
            assert_right(batch(journal=path).embed_numpy(TEXTS[:50]), TEXTS[:50])
            assert server.stats()["inputs_billed"] == 1

    @pytest.mark.skipif(sys.platform == "win32", reason="there, open files cannot be deleted")
    def test_a_journal_that_is_deleted_in_mid_call_loses_nothing(
        self, batch: Batch, server: LocalServer, tmp_path: Path
    ) -> None:
        """A journal file that is deleted during a run is restored with all paid vectors."""
        path = tmp_path / "j"
        embeddings = batch(journal=path, max_workers=1, max_batch_size=10)
        embeddings.embed_numpy(TEXTS[:50])
        path.unlink()
        embeddings.embed_numpy(TEXTS[50:100])
        server.configure()
        assert_right(batch(journal=path).embed_numpy(TEXTS[:100]), TEXTS[:100])
        assert server.stats()["requests"] == 0

    def test_another_file_in_the_journals_place_keeps_vectors_in_memory(
        self, batch: Batch, server: LocalServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """If another file replaces the journal, vectors stay in memory and the file is untouched.

        The problem is logged once and the call goes on.
        """
        path = tmp_path / "j"
        embeddings = batch(journal=path, max_workers=1, max_batch_size=10)
        embeddings.embed_numpy(TEXTS[:10])
        (tmp_path / "notes").write_text("my notes")
        (tmp_path / "notes").replace(path)
        assert_right(embeddings.embed_numpy(TEXTS[:50]), TEXTS[:50])
        assert caplog.text.count("it is not a journal") == 1
        assert path.read_text() == "my notes"
        path.unlink()
        embeddings.embed_numpy(TEXTS[:60])
        server.configure()
        assert_right(batch(journal=path).embed_numpy(TEXTS[:60]), TEXTS[:60])
        assert server.stats()["requests"] == 0

    def test_a_full_disk_does_not_lose_what_is_in_memory(
        self,
        batch: Batch,
        server: LocalServer,
        tmp_path: Path,
        mocker: MockerFixture,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """With a full disk the call succeeds, logs the problem once and reuses its vectors."""
        embeddings = batch(journal=tmp_path / "j", max_batch_size=10)
        put = mocker.patch.object(
            SQLiteJournal, "put", side_effect=JournalError("the disk is full")
        )
        assert_right(embeddings.embed_numpy(TEXTS[:50]), TEXTS[:50])
        assert put.call_count == 5
        assert caplog.text.count("the disk is full") == 1
        server.configure()
        embeddings.embed_numpy(TEXTS[:50])
        assert server.stats()["requests"] == 0

    def test_a_journal_that_can_be_written_again_gets_what_it_missed(
        self,
        batch: Batch,
        server: LocalServer,
        tmp_path: Path,
        mocker: MockerFixture,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """A journal that becomes writable again receives the vectors that it missed.

        They are written with the next answer that it accepts, so a second object finds them all.
        """
        embeddings = batch(journal=tmp_path / "j", max_workers=1, max_batch_size=10)
        memory = embeddings._pipeline.recovery.memory
        # Two answers are missed, and two attempts at writing them later fail.
        sometimes_full(mocker, [True, True, True, False, True])
        embeddings.embed_numpy(TEXTS[:20])
        assert memory.stats().vectors == 20
        embeddings.embed_numpy(TEXTS[20:50])
        assert memory.stats().vectors == 0
        assert caplog.text.count("the disk is full") == 1
        assert caplog.text.count("can be written again") == 1
        server.configure()
        assert_right(batch(journal=tmp_path / "j").embed_numpy(TEXTS[:50]), TEXTS[:50])
        assert server.stats()["requests"] == 0

    def test_a_mended_journal_needs_no_new_answer(
        self, batch: Batch, server: LocalServer, tmp_path: Path, mocker: MockerFixture
    ) -> None:
        """Calling again with the same texts writes the missed vectors, without a new request."""
        embeddings = batch(journal=tmp_path / "j", max_workers=1, max_batch_size=10)
        memory = embeddings._pipeline.recovery.memory
        mocker.patch.object(recovery, "WRITTEN_AT_ONCE", 7)
        sometimes_full(mocker, [True, True, False, True, False])
        for kept in (20, 13, 0):
            assert_right(embeddings.embed_numpy(TEXTS[:20]), TEXTS[:20])
            assert memory.stats().vectors == kept
        assert server.stats()["inputs_billed"] == 20
        assert_right(batch(journal=tmp_path / "j").embed_numpy(TEXTS[:20]), TEXTS[:20])
        assert server.stats()["inputs_billed"] == 20

    def test_a_changed_model_is_not_remembered_beside_the_old_one(
        self, batch: Batch, server: LocalServer
    ) -> None:
        """Vectors that are kept of failed calls all have the newest width."""
        embeddings = batch(max_batch_size=1, max_workers=1)
        for width in (1536, 64):
            server.configure(refuse_marker="poison", dimensions=width)
            embeddings._pipeline.fetcher.known_dimensions = None
            with pytest.raises(PartialEmbeddingsError):
                embeddings.embed_numpy([f"of {width}", "poison"])
        server.configure(dimensions=64)
        texts = ["of 1536", "of 64", "poison"]
        assert_right(embeddings.embed_numpy(texts), texts)
        assert server.stats()["inputs_billed"] == 2

    def test_one_spoilt_answer_does_not_cost_what_is_kept(
        self, batch: Batch, server: LocalServer
    ) -> None:
        """One answer of another width in a failing call does not discard the recalled vectors."""
        server.configure(refuse_marker="poison", dimensions=64)
        embeddings = batch(max_retries=0)
        with pytest.raises(PartialEmbeddingsError):
            embeddings.embed_numpy([*TEXTS[:50], "poison"])
        server.configure(dimensions=32)  # for one answer
        with pytest.raises(PartialEmbeddingsError):
            embeddings.embed_numpy([*TEXTS[:50], "poison"])
        server.configure(dimensions=64)
        texts = [*TEXTS[:50], "poison"]
        assert_right(embeddings.embed_numpy(texts), texts)
        assert server.stats()["inputs_billed"] == 1

    def test_an_answer_that_the_journal_refuses_is_dropped_with_the_next_that_it_takes(
        self, batch: Batch, tmp_path: Path
    ) -> None:
        """A spoilt first answer, whose width is not the journal's, is dropped later.

        It stays in memory until the journal accepts the next answer.
        """
        batch(SpoiltFirst(), journal=tmp_path / "j", model="m").embed_numpy(["first"])
        embeddings = batch(SpoiltFirst(3), journal=tmp_path / "j", model="m")
        embeddings.embed_numpy(["spoilt"])
        embeddings._pipeline.fetcher.known_dimensions = None
        embeddings.embed_numpy(["good"])
        texts = ["first", "spoilt", "good"]
        assert embeddings.embed_numpy(texts).shape == (3, 4)
        assert embeddings._pipeline.recovery.memory.stats().vectors == 0

    def test_a_spoilt_first_answer_is_not_held_against_the_next_call(self, batch: Batch) -> None:
        """The width of a spoilt first answer is not remembered, as all later ones contradict it."""
        embeddings = batch(SpoiltFirst(3), max_batch_size=1, max_workers=1, max_retries=1)
        with pytest.raises(PartialEmbeddingsError):
            embeddings.embed_numpy(TEXTS[:5])
        assert embeddings.embed_numpy(TEXTS[:5]).shape == (5, 4)

    def test_queries_are_not_journalled(self, batch: Batch, tmp_path: Path) -> None:
        """Queries stay out of the journal, so the file does not show what users search for."""
        embeddings = batch(journal=tmp_path / "j")
        embeddings.embed_query("a question")
        assert embeddings.journal.stats().vectors == 0

    @pytest.mark.parametrize("processes", [1, 2])
    def test_after_sigkill_only_what_was_in_flight_is_paid_twice(
        self, server: LocalServer, tmp_path: Path, processes: int
    ) -> None:
        """After SIGKILL in the middle, a rerun pays twice at most for the requests in flight."""
        server.configure(latency=0.5)
        path = tmp_path / "journal.sqlite"
        workers, size = 4, 25
        command = [sys.executable, "-c", _WORKER, server.url, str(path), str(workers), str(size)]
        running = [subprocess.Popen([*command, str(n)]) for n in range(processes)]  # noqa: S603
        while server.stats()["inputs_billed"] < 1000:
            time.sleep(0.01)
        for process in running:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
        server.configure(latency=0)
        # A new scenario resets the counters, so what was billed before is what the journal has,
        # plus at most what was in flight.
        before = SQLiteJournal(path).stats().vectors
        for n in range(processes):
            subprocess.run([*command, str(n)], check=True)  # noqa: S603
        billed = server.stats()["inputs_billed"]
        assert billed == processes * 2500 - before
        assert before >= 1000 - processes * workers * size
        assert SQLiteJournal(path).stats().vectors == processes * 2500


_WORKER = """
import sys
from langchain_openai import OpenAIEmbeddings
from langchain_batch_embed import BatchEmbeddings
url, path, workers, size, n = sys.argv[1:]
embeddings = BatchEmbeddings(
    OpenAIEmbeddings(base_url=url, api_key="x"),
    journal=path, max_workers=int(workers), max_batch_size=int(size), hedge=False,
)
embeddings.embed_numpy([f"process {n} section {i}" for i in range(2500)])
"""


def sometimes_full(mocker: MockerFixture, full: list[bool]) -> None:
    """Make SQLite journals report a full disk at some of the next writes."""
    put, left = SQLiteJournal.put, list(full)

    def sometimes(journal: SQLiteJournal, *args: Any, **options: Any) -> None:
        if left and left.pop(0):
            raise JournalError("the disk is full")
        put(journal, *args, **options)

    mocker.patch.object(SQLiteJournal, "put", sometimes)


class Nameless(Embeddings):
    """An `Embeddings` without a model name."""

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Return each text's length as its vector."""
        return [[float(len(text))] for text in texts]

    def embed_query(self, text: str) -> list[float]:
        """Return the text's length as its vector."""
        return [float(len(text))]


def test_a_call_that_needs_nothing_sent_touches_no_dispatcher(
    batch: Batch, tmp_path: Path, mocker: MockerFixture
) -> None:
    """A call answered from the journal takes no dispatcher lock and starts no thread.

    So it is answered while other calls wait for the server.
    """
    journal = tmp_path / "journal"
    batch(journal=journal).embed_documents(["a", "b"])
    embeddings = batch(journal=journal)
    lock = mocker.MagicMock()
    lock.__enter__.side_effect = AssertionError("the call takes the dispatcher's lock")
    mocker.patch.object(embeddings._pipeline.dispatcher, "lock", lock)
    before = set(threading.enumerate())
    assert_right(embeddings.embed_documents(["a", "b"]), ["a", "b"])
    assert embeddings.embed_documents([]) == []
    assert set(threading.enumerate()) <= before
