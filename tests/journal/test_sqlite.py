"""The journal in a SQLite file, shared by objects and processes, and after a crash."""

import multiprocessing
import os
import pickle
import signal
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from langchain_batch_embed.errors import JournalError
from langchain_batch_embed.journal import (
    Journal,
    Space,
    SQLiteJournal,
)
from tests.journal.support import (
    CHILD_SECONDS,
    SPACE,
    keys,
    numbers,
    snapshot,
    spawn,
    vectors,
)


class TestSQLiteJournal:
    """Behaviour that only the journal in a file has."""

    def test_survives_its_object(self, path: Path) -> None:
        """Another object on the same file finds the vectors."""
        put = vectors(2)
        first = SQLiteJournal(path)
        first.put(keys("a", "b"), put, space=SPACE)
        first.close()
        second = SQLiteJournal(path)
        assert put.tobytes() == second.get(keys("a", "b"))[1].tobytes()
        second.close()

    def test_refuses_a_model_that_changed_its_width(self, journal: Journal, path: Path) -> None:
        """A second width for one model is refused before it is stored."""
        journal.put(keys("a"), vectors(1), space=SPACE)
        with pytest.raises(JournalError, match="the model has changed") as caught:
            journal.put(keys("b"), vectors(1, width=4), space=SPACE)
        assert str(path) == caught.value.path
        assert numbers(journal.get(keys("a", "b"))[0]) == [0]

    def test_stores_a_batch_whole_or_not_at_all(self, journal: Journal) -> None:
        """A batch that fails in the middle leaves nothing behind."""
        with pytest.raises(TypeError):
            journal.put([*keys("a"), None], vectors(2), space=SPACE)  # type: ignore[list-item]
        assert (journal.stats().vectors, journal.stats().spaces) == (0, {})
        journal.put(keys("a"), vectors(1), space=SPACE)
        assert journal.stats().vectors == 1

    def test_an_interrupt_leaves_no_open_transaction(self, path: Path) -> None:
        """Ctrl-C in the middle of a put leaves no transaction open, so the next put works."""

        def interrupted() -> float:
            raise KeyboardInterrupt

        journal = SQLiteJournal(path, clock=interrupted)
        with pytest.raises(KeyboardInterrupt):
            journal.put(keys("a"), vectors(1), space=SPACE)
        other = SQLiteJournal(path, timeout=0)
        other.put(keys("a"), vectors(1), space=SPACE)
        assert journal.stats().vectors == 1
        other.close()
        journal.close()

    def test_pruning_shrinks_the_file(self, journal: Journal, path: Path) -> None:
        """Pruning returns the space of deleted vectors to the disk."""
        journal.put(keys(*map(str, range(2_000))), vectors(2_000, width=256), space=SPACE)
        journal.close()
        before = path.stat().st_size
        assert journal.prune(max_bytes=100 * 256 * 4) == 1_900
        journal.close()
        assert path.stat().st_size < before / 4

    def test_only_its_owner_may_read_it(self, path: Path) -> None:
        """The file and its companions have mode 0600, whatever the umask."""
        umask = os.umask(0)
        try:
            journal = SQLiteJournal(path)
            journal.put(keys("a"), vectors(1), space=SPACE)
        finally:
            os.umask(umask)
        modes = {file.name: file.stat().st_mode & 0o777 for file in path.parent.iterdir()}
        journal.close()
        assert {path.name + end: 0o600 for end in ("", "-wal", "-shm")} == modes

    def test_fills_an_empty_file_and_makes_it_private(self, path: Path) -> None:
        """An empty file becomes a journal with mode 0600."""
        path.touch(mode=0o644)
        journal = SQLiteJournal(path)
        journal.put(keys("a"), vectors(1), space=SPACE)
        journal.close()
        assert path.stat().st_mode & 0o777 == 0o600
        assert path.read_bytes().startswith(b"SQLite format 3")

    def test_holds_no_text_and_no_key(self, path: Path) -> None:
        """No file contains the embedded text or a secret from the endpoint."""
        space = Space(
            provider="openai",
            model="m",
            endpoint="https://me:sk-secret@example.com/v1?api-key=sk-secret",
        )
        journal = SQLiteJournal(path)
        journal.put(keys("a very secret sentence", space=space), vectors(1), space=space)
        content = b"".join(snapshot(path.parent).values())
        journal.close()
        content += path.read_bytes()
        assert b"secret" not in content
        assert b"example.com" in content

    def test_strange_file_names_work(self, tmp_path: Path) -> None:
        """Characters with a meaning in URLs have none in a path."""
        path = tmp_path / "100% what? #1 ü.sqlite"
        SQLiteJournal(path).close()
        assert [path] == list(tmp_path.iterdir())

    def test_pickled_copy_opens_the_same_file(
        self, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A pickled copy in another folder opens the same journal."""
        monkeypatch.chdir(tmp_path)
        journal = SQLiteJournal(path.name)
        data = pickle.dumps(journal)
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir("elsewhere")
        copy = pickle.loads(data)  # noqa: S301 - our own
        copy.put(keys("a"), vectors(1), space=SPACE)
        assert (path, 1) == (copy.path, journal.stats().vectors)
        copy.close()
        journal.close()

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
    @pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
    def test_works_on_both_sides_of_a_fork(self, journal: Journal) -> None:
        """After a fork, parent and child both write, each with its own connection."""
        journal.put(keys("before"), vectors(1), space=SPACE)

        def child() -> None:
            journal.put(keys("child"), vectors(1), space=SPACE)

        process = multiprocessing.get_context("fork").Process(target=child)
        process.start()
        journal.put(keys("parent"), vectors(1), space=SPACE)
        process.join(CHILD_SECONDS)
        assert process.exitcode == 0
        assert numbers(journal.get(keys("before", "child", "parent"))[0]) == [0, 1, 2]

    def test_works_where_the_write_ahead_log_is_refused(self, path: Path) -> None:
        """If another process prevents the write-ahead log, the journal still works."""
        SQLiteJournal(path).close()
        reader = sqlite3.connect(path, isolation_level=None)
        reader.execute("PRAGMA journal_mode = DELETE")
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM vector").fetchone()
        journal = SQLiteJournal(path, timeout=0)
        reader.close()
        journal.put(keys("a"), vectors(1), space=SPACE)
        assert numbers(journal.get(keys("a"))[0]) == [0]
        journal.close()

    @pytest.mark.slow
    def test_two_processes_share_one_file(self, path: Path) -> None:
        """Two processes that open a new file and write at the same time lose nothing."""
        children = [spawn(path, name, 25) for name in ("left", "right")]
        try:
            for child in children:
                assert child.stdin is not None
                child.stdin.write("\n")
                child.stdin.flush()
            for child in children:
                child.communicate(timeout=CHILD_SECONDS)
        finally:
            for child in children:
                child.kill()
        journal = SQLiteJournal(path)
        texts = [f"{n} {b} {i}" for n in ("left", "right") for b in range(1, 26) for i in range(20)]
        positions, found = journal.get(keys(*texts))
        journal.close()
        assert [child.returncode for child in children] == [0, 0]
        assert len(texts) == len(positions)
        assert [float(text.split()[1]) for text in texts] == found[:, 0].tolist()

    @pytest.mark.slow
    @pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL")
    def test_every_put_that_returned_survives_kill_9(self, path: Path) -> None:
        """After SIGKILL during writing, every put that had returned is in the file."""
        with spawn(path, "victim", 1_000_000) as child:
            assert child.stdin is not None
            assert child.stdout is not None
            child.stdin.write("\n")
            child.stdin.flush()
            lines = [child.stdout.readline() for _ in range(50)]
            child.kill()
            lines += child.stdout.readlines()
        done = [int(line) for line in lines if line.endswith("\n") and line != "ready\n"]
        assert len(done) >= 49
        texts = [f"victim {number} {i}" for number in done for i in range(20)]
        journal = SQLiteJournal(path)
        positions, found = journal.get(keys(*texts))
        total = journal.stats().vectors
        journal.close()
        assert len(texts) == len(positions)
        assert [float(text.split()[1]) for text in texts] == found[:, 0].tolist()
        assert total % 20 == 0  # no batch is incomplete


class TestTroubleWhileWriting:
    """A failed write says what to do, keeps earlier vectors, and can be repeated."""

    @pytest.fixture
    def journal(self, path: Path) -> Iterator[SQLiteJournal]:
        """Make a journal that does not wait for locks, with one vector in it."""
        journal = SQLiteJournal(path, timeout=0)
        journal.put(keys("a"), vectors(1), space=SPACE)
        yield journal
        journal.close()

    @staticmethod
    def check_usable(journal: SQLiteJournal, names: list[bytes]) -> None:
        """Check that nothing was lost and that the batch can be put again."""
        assert numbers(journal.get([*keys("a"), *names])[0]) == [0]
        journal.put(names, vectors(len(names)), space=SPACE)
        assert len(names) == len(journal.get(names)[0])

    def test_the_disk_is_full(self, journal: SQLiteJournal) -> None:
        """On a full disk nothing of the batch is stored, and it can be put later."""
        names = keys(*map(str, range(5_000)))
        with journal._connected() as connection:
            (pages,) = connection.execute("PRAGMA page_count").fetchone()
            connection.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(JournalError, match="the disk is full; make room"):
            journal.put(names, vectors(5_000), space=SPACE)
        with journal._connected() as connection:
            connection.execute("PRAGMA max_page_count = 100000")
        self.check_usable(journal, names)

    def test_a_lock_never_comes(self, journal: SQLiteJournal, path: Path) -> None:
        """A lock that another process keeps is reported, and reading still works."""
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(JournalError, match="another process kept it locked for 0 s"):
            journal.put(keys("b"), vectors(1), space=SPACE)
        assert numbers(journal.get(keys("a", "b"))[0]) == [0]
        other.close()
        self.check_usable(journal, keys("b"))

    def test_a_busy_thread_is_not_waited_for_forever(self, journal: SQLiteJournal) -> None:
        """A thread does not wait without end for another one that uses the journal."""
        with (
            journal._connected(),
            pytest.raises(JournalError, match="busy in another thread for 0 s"),
        ):
            journal.put(keys("b"), vectors(1), space=SPACE)
        self.check_usable(journal, keys("b"))

    def test_the_file_may_not_be_written(self, journal: SQLiteJournal) -> None:
        """A file that became read-only is reported with what to do."""
        with journal._connected() as connection:
            connection.execute("PRAGMA query_only = ON")
        with pytest.raises(JournalError, match="may not be written; change its permissions"):
            journal.put(keys("b"), vectors(1), space=SPACE)
        with journal._connected() as connection:
            connection.execute("PRAGMA query_only = OFF")
        self.check_usable(journal, keys("b"))

    def test_the_message_holds_no_secret(self, journal: SQLiteJournal) -> None:
        """The error names the file but neither the text nor its digest."""
        with journal._connected() as connection:
            connection.execute("PRAGMA query_only = ON")
        with pytest.raises(JournalError) as caught:
            journal.put(keys("secret"), vectors(1), space=SPACE)
        assert "secret" not in str(caught.value)
        assert keys("secret")[0].hex() not in str(caught.value)
