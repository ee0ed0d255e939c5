"""Foreign files stay unchanged, and a journal file that disappears is made again."""

import os
import sqlite3
import sys
from pathlib import Path

import pytest
from pytest_mock import MockerFixture

from langchain_batch_embed.errors import JournalError
from langchain_batch_embed.journal import (
    Journal,
    SQLiteJournal,
)
from langchain_batch_embed.journal.sqlite_file import identities, is_replaced
from tests.journal.support import SPACE, keys, make_foreign, numbers, snapshot, vectors


class TestFilesThatAreNotOurs:
    """A file that is no journal raises a clear error and stays unchanged, byte for byte."""

    @staticmethod
    def refuse(path: Path, reason: str) -> None:
        """Check that the file is refused for this reason and that nothing changed."""
        before = snapshot(path.parent)
        with pytest.raises(JournalError, match=reason) as caught:
            SQLiteJournal(path)
        assert str(path) in str(caught.value)
        assert str(path) == caught.value.path
        assert before == snapshot(path.parent)

    @pytest.mark.parametrize(
        "content", [b"x", b"my notes\n" * 5_000, bytes(100_000)], ids=["byte", "text", "zeros"]
    )
    def test_a_file_that_is_no_database(self, path: Path, content: bytes) -> None:
        """A file that is no database, such as someone's notes, is not overwritten."""
        path.write_bytes(content)
        self.refuse(path, "not a journal.* it was left as it is, name another file")

    def test_somebody_elses_database(self, path: Path) -> None:
        """Another program's SQLite file is left alone and gets no companions."""
        make_foreign(path)
        self.refuse(path, "not a journal but something else; it was left as it is")

    def test_somebody_elses_database_after_a_crash(self, tmp_path: Path) -> None:
        """Another program's log after a crash is left for its owner to recover."""
        theirs = tmp_path / "theirs"
        theirs.mkdir()
        make_foreign(theirs / "vectors.db", application_id=7)
        connection = sqlite3.connect(theirs / "vectors.db", isolation_level=None)
        connection.execute("INSERT INTO theirs VALUES ('only in the log')")
        copy = tmp_path / "copy"
        copy.mkdir()
        for name in ("vectors.db", "vectors.db-wal"):
            (copy / name).write_bytes((theirs / name).read_bytes())
        connection.close()
        self.refuse(copy / "vectors.db", "not a journal but something else; it was left as it is")

    @pytest.mark.parametrize("version", [0, 2, 99])
    def test_a_journal_of_another_version(self, path: Path, version: int) -> None:
        """A journal of another version is neither read nor changed."""
        make_foreign(path, application_id=int.from_bytes(b"LBEJ"), version=version)
        self.refuse(path, f"has version {version}, .* knows version 1")

    @pytest.mark.parametrize("length", [50, 5_000, 40_000, 100_000])
    def test_a_journal_that_was_cut_short(self, path: Path, length: int) -> None:
        """A truncated journal is reported when it is opened."""
        SQLiteJournal(path).close()
        content = path.read_bytes()
        assert len(content) > length
        path.write_bytes(content[:length])
        self.refuse(path, "damaged|not a journal")

    def test_a_journal_with_broken_pages(self, path: Path) -> None:
        """Damaged pages are reported when they are read, and reading changes nothing."""
        journal = SQLiteJournal(path)
        names = keys(*map(str, range(100)))
        journal.put(names, vectors(100), space=SPACE)
        journal.close()
        content = path.read_bytes()
        path.write_bytes(content[:32768] + b"\xff" * (len(content) - 32768))
        before = snapshot(path.parent)
        journal = SQLiteJournal(path)
        with pytest.raises(JournalError, match="damaged; move it away"):
            journal.get(names)
        journal.close()
        assert before == snapshot(path.parent)

    def test_a_folder(self, tmp_path: Path) -> None:
        """A folder in place of a file is refused."""
        with pytest.raises(JournalError, match="is a folder; name a file in it"):
            SQLiteJournal(tmp_path)

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
    def test_a_pipe(self, tmp_path: Path) -> None:
        """A pipe or a device is refused, and keeps its permissions."""
        os.mkfifo(tmp_path / "pipe", 0o644)
        before = (tmp_path / "pipe").stat().st_mode
        with pytest.raises(JournalError, match="is a device, a pipe or a socket"):
            SQLiteJournal(tmp_path / "pipe").stats()
        assert (tmp_path / "pipe").stat().st_mode == before

    def test_a_folder_that_is_missing(self, tmp_path: Path) -> None:
        """A missing folder is reported, not created."""
        with pytest.raises(JournalError, match="check that its folder is there"):
            SQLiteJournal(tmp_path / "missing" / "journal.sqlite")
        assert list(tmp_path.iterdir()) == []

    def test_a_folder_that_is_a_file(self, path: Path) -> None:
        """A path that leads through a file is refused."""
        path.touch()
        with pytest.raises(JournalError, match="check that its folder is there"):
            SQLiteJournal(path / "journal.sqlite")


@pytest.mark.skipif(sys.platform == "win32", reason="there, open files cannot be deleted")
class TestFilesThatDisappear:
    """No vector is lost if the file is deleted or replaced while it is open."""

    @staticmethod
    def remove(path: Path, how: str) -> None:
        """Delete or rename the file."""
        if how == "renamed":
            path.rename(path.with_name("elsewhere"))
            return
        path.unlink()
        if how == "deleted with its companions":
            for end in ("-wal", "-shm"):
                path.with_name(path.name + end).unlink()

    @staticmethod
    def content(path: Path, *texts: str) -> list[int]:
        """Return the texts that a new object finds, after an integrity check of the file."""
        journal = SQLiteJournal(path)
        with journal._connected() as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        positions, found = journal.get(keys(*texts))
        journal.close()
        for position, vector in zip(numbers(positions), found, strict=True):
            assert vector.tobytes() == vectors(1, seed=ord(texts[position])).tobytes()
        return numbers(positions)

    @staticmethod
    def put(journal: Journal, *texts: str) -> None:
        """Put vectors that are determined by their texts."""
        for text in texts:
            journal.put(keys(text), vectors(1, seed=ord(text)), space=SPACE)

    @pytest.mark.parametrize("how", ["deleted", "deleted with its companions", "renamed"])
    def test_a_file_that_is_gone_is_made_again_with_all_that_it_held(
        self, path: Path, caplog: pytest.LogCaptureFixture, how: str
    ) -> None:
        """Every process that had a lost file open restores it with old and new vectors.

        The log reports it once.
        """
        first, second = SQLiteJournal(path), SQLiteJournal(path)
        self.put(first, "a")
        self.put(second, "b")
        self.remove(path, how)
        assert numbers(first.get(keys("a", "b"))[0]) == [0, 1]
        self.put(first, "c", "d")
        assert caplog.text.count("was deleted or replaced while it was open") == 1
        self.put(second, "e")
        for journal in (first, second):
            assert numbers(journal.get(keys(*"abcde"))[0]) == [0, 1, 2, 3, 4]
        assert path.stat().st_mode & 0o777 == 0o600
        first.close()
        second.close()
        assert self.content(path, *"abcde") == [0, 1, 2, 3, 4]
        if how == "renamed":
            assert self.content(path.with_name("elsewhere"), *"abc") == [0, 1]

    def test_another_journal_in_its_place_gets_what_the_old_one_held(self, path: Path) -> None:
        """If another journal replaces the file, it receives the old vectors and keeps its own.

        No log is applied to the wrong file.
        """
        journal, other = SQLiteJournal(path), SQLiteJournal(path.with_name("other"))
        self.put(journal, "a", "b")
        self.put(other, "o")
        other.put(keys("a"), vectors(1, seed=ord("a")), space=SPACE)
        other.close()
        other.path.replace(path)
        self.put(journal, "c")
        assert numbers(journal.get(keys(*"abco"))[0]) == [0, 1, 2, 3]
        journal.close()
        assert self.content(path, *"abco") == [0, 1, 2, 3]

    def test_something_else_in_its_place_is_an_error_and_stays(self, path: Path) -> None:
        """If another file takes the path it is left alone, and the journal recovers later.

        The old file stays open until the path is free again.
        """
        journal = SQLiteJournal(path)
        self.put(journal, "a")
        self.remove(path, "deleted")
        path.write_bytes(b"my notes\n" * 5_000)
        for _ in range(2):
            with pytest.raises(JournalError, match="not a journal"):
                self.put(journal, "b")
        assert path.read_bytes() == b"my notes\n" * 5_000
        assert numbers(journal.get(keys("a"))[0]) == [0]
        path.unlink()
        self.put(journal, "b")
        journal.close()
        assert self.content(path, "a", "b") == [0, 1]

    def test_a_model_that_changed_meanwhile_is_not_mixed(self, path: Path) -> None:
        """If the new file has another width for the model, the old vectors are left out."""
        journal, other = SQLiteJournal(path), SQLiteJournal(path.with_name("other"))
        self.put(journal, "a")
        other.put(keys("b"), vectors(1, width=4), space=SPACE)
        other.close()
        other.path.replace(path)
        with pytest.raises(JournalError, match="the model has changed"):
            self.put(journal, "c")
        assert journal.get(keys("a", "b", "c"))[1].shape == (1, 4)
        journal.close()

    def test_pruning_follows_the_file_too(self, path: Path) -> None:
        """Pruning applies to the restored file as well."""
        journal = SQLiteJournal(path)
        self.put(journal, "a")
        self.remove(path, "deleted")
        assert journal.prune(max_bytes=0) == 1
        journal.close()
        assert self.content(path, "a") == []

    def test_a_file_that_went_while_it_was_closed_is_logged(
        self, path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """If the file disappeared while it was closed, a warning is logged.

        Only the old file has its earlier vectors.
        """
        journal = SQLiteJournal(path)
        self.put(journal, "a")
        journal.close()
        path.rename(path.with_name("elsewhere"))
        self.put(journal, "b")
        assert "was deleted or replaced since it was last open" in caplog.text
        journal.close()

    def test_without_inodes_nothing_is_compared(self, path: Path, mocker: MockerFixture) -> None:
        """Without inodes, files are not compared.

        On Windows inodes can be 0, so every file would seem to be the same.
        """
        journal = SQLiteJournal(path)
        status = mocker.patch.object(Path, "stat").return_value
        status.st_dev = status.st_ino = 0
        assert identities(path) == {}
        assert not is_replaced(path, {})
        mocker.stopall()
        journal.close()
