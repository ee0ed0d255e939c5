"""A vector that differs from what was put is never returned, with or without checksums."""

import sqlite3
from pathlib import Path

import numpy as np
import pytest
from langchain_core.stores import InMemoryByteStore

from langchain_batch_embed.journal import (
    ByteStoreJournal,
    Journal,
    SQLiteJournal,
)
from tests.journal.support import PERSISTENT, SPACE, keys, numbers, vectors


class TestDamagedVectors:
    """A vector that differs from what was put is never returned, but paid for again."""

    @staticmethod
    def spoil(path: Path, change: str) -> None:
        """Change the file without the journal's knowledge."""
        connection = sqlite3.connect(path)
        with connection:
            connection.execute(change)
        connection.close()

    @pytest.mark.parametrize(
        "change",
        [
            "value = CAST(x'00' || substr(value, 2) AS BLOB)",
            "value = CAST(substr(value, 1, 31) AS BLOB)",
            "value = CAST(substr(value, 1, 28) AS BLOB)",
            "value = CAST(value || x'00000000' AS BLOB)",
            "value = x''",
            "value = 'text'",
            "value = 7",
            "value = zeroblob(32)",
            "value = (SELECT value FROM vector WHERE id = 1)",
            "checksum = checksum + 1",
            "checksum = 'text'",
            "space = 99",
        ],
    )
    def test_a_damaged_row_is_missing_until_it_is_put_again(
        self, path: Path, caplog: pytest.LogCaptureFixture, change: str
    ) -> None:
        """Damaged rows are missing until they are put again, and one warning counts them."""
        journal, put = SQLiteJournal(path), vectors(4)
        journal.put(keys(*"abcd"), put, space=SPACE)
        self.spoil(path, f"UPDATE vector SET {change} WHERE id IN (2, 4)")  # noqa: S608 - ours
        positions, found = journal.get(keys(*"abcd"))
        assert numbers(positions) == [0, 2]
        assert put[[0, 2]].tobytes() == found.tobytes()
        (record,) = caplog.records
        assert record.levelname == "WARNING"
        assert f"{path} holds damaged vectors for 2 of the texts" in record.message
        caplog.clear()
        journal.put(keys("b", "d"), put[[1, 3]], space=SPACE)
        assert put.tobytes() == journal.get(keys(*"abcd"))[1].tobytes()
        assert not caplog.records
        journal.close()

    def test_every_flipped_byte_of_a_vector_is_noticed(self, journal: Journal, path: Path) -> None:
        """Every flipped byte of a vector is noticed, even if the number remains plausible."""
        put = vectors(1)
        journal.put(keys("a"), put, space=SPACE)
        for place in range(put.nbytes):
            value = bytearray(put.tobytes())
            value[place] ^= 1
            self.spoil(path, f"UPDATE vector SET value = x'{value.hex()}'")  # noqa: S608 - ours
            assert numbers(journal.get(keys("a"))[0]) == []

    @pytest.mark.parametrize("journal", PERSISTENT, indirect=True)
    @pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf, 0.0, -0.0])
    def test_what_no_answer_may_hold_is_not_recalled(
        self, journal: Journal, caplog: pytest.LogCaptureFixture, number: float
    ) -> None:
        """Vectors of zeros, NaN or infinity are not returned, even if their checksum is right.

        Another program may have written them.
        """
        put = vectors(2)
        put[1] = number
        journal.put(keys("a", "b"), put, space=SPACE)
        positions, found = journal.get(keys("a", "b"))
        assert (numbers(positions), found.shape) == ([0], (1, 8))
        positions, found = journal.get(keys("b"))
        assert (positions.shape, found.shape, found.dtype.name) == ((0,), (0, 0), "float32")
        assert [record.levelname for record in caplog.records] == ["WARNING"] * 2

    def test_damaged_records_of_a_store_are_counted(self, caplog: pytest.LogCaptureFixture) -> None:
        """One warning counts a store's damaged records, without records that never existed."""
        store = InMemoryByteStore()
        journal = ByteStoreJournal(store)
        journal.put(keys("a", "b", "c"), vectors(3), space=SPACE)
        for text in "ab":
            name = "lbe1-" + keys(text)[0].hex()
            store.store[name] = store.store[name][:-1] + b"x"
        assert numbers(journal.get(keys("a", "b", "c", "d"))[0]) == [2]
        (record,) = caplog.records
        assert "the ByteStore used as journal holds damaged vectors for 2 of" in record.message


_OLD_INSERT = (
    "INSERT OR REPLACE INTO vector (key, space, created, value) VALUES (?, 1, 1700000000.0, ?)"
)


class TestJournalsOfEarlierReleases:
    """A journal of an earlier release, without checksums, is opened and used."""

    @pytest.fixture
    def old(self, path: Path) -> Path:
        """Write a journal as before checksums existed, with vectors for "a" to "d"."""
        connection = sqlite3.connect(path, isolation_level=None)
        connection.execute("PRAGMA page_size = 32768")
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        connection.execute(f"PRAGMA application_id = {int.from_bytes(b'LBEJ')}")
        connection.execute("PRAGMA user_version = 1")
        connection.execute(
            "CREATE TABLE space (id INTEGER PRIMARY KEY, digest BLOB NOT NULL UNIQUE, "
            "name TEXT NOT NULL, width INTEGER NOT NULL)"
        )
        connection.execute(
            "CREATE TABLE vector (id INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE, "
            "space INTEGER NOT NULL REFERENCES space, created REAL NOT NULL, value BLOB NOT NULL)"
        )
        connection.execute("CREATE INDEX vector_by_age ON vector (created, space)")
        connection.execute("INSERT INTO space VALUES (1, ?, ?, 8)", (SPACE.digest, SPACE.name))
        for key, row in zip(keys(*"abcd"), vectors(4), strict=True):
            connection.execute(_OLD_INSERT, (key, row))
        connection.execute("PRAGMA journal_mode = WAL")
        connection.close()
        return path

    def test_its_vectors_are_found_and_new_ones_get_checksums(self, old: Path) -> None:
        """Old vectors are found and new ones get checksums, even with two journals on one file."""
        journals = [SQLiteJournal(old) for _ in range(2)]
        for journal in journals:
            assert vectors(4).tobytes() == journal.get(keys(*"abcd"))[1].tobytes()
        journals[0].put(keys("a", "e"), vectors(2, seed=1), space=SPACE)
        with journals[1]._connected() as connection:
            checked = connection.execute("SELECT key FROM vector WHERE checksum IS NOT NULL")
            assert {key for (key,) in checked} == set(keys("a", "e"))
        assert numbers(journals[1].get(keys(*"abcde"))[0]) == [0, 1, 2, 3, 4]
        for journal in journals:
            journal.close()

    @pytest.mark.parametrize("value", [bytes(28), bytes(32), b"\xff" * 32, b""])
    def test_without_a_checksum_what_is_no_vector_is_still_noticed(
        self, old: Path, caplog: pytest.LogCaptureFixture, value: bytes
    ) -> None:
        """Without a checksum, a wrong width or impossible numbers still reveal a damaged vector."""
        TestDamagedVectors.spoil(
            old,
            f"UPDATE vector SET value = x'{value.hex()}' WHERE id = 2",  # noqa: S608 - ours
        )
        journal = SQLiteJournal(old)
        assert numbers(journal.get(keys(*"abcd"))[0]) == [0, 2, 3]
        assert "damaged vectors for 1 of" in caplog.text
        journal.close()

    def test_the_release_that_made_it_can_still_use_it(self, old: Path) -> None:
        """The older release can still write to the file, and its vectors are then found."""
        SQLiteJournal(old).close()
        connection = sqlite3.connect(old)
        with connection:
            connection.execute(_OLD_INSERT, (keys("f")[0], vectors(1)[0]))
        connection.close()
        journal = SQLiteJournal(old)
        assert numbers(journal.get(keys("f"))[0]) == [0]
        journal.close()
