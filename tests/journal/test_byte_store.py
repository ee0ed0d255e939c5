"""The journal in a LangChain `ByteStore`."""

import pytest
from langchain_core.stores import ByteStore, InMemoryByteStore
from pytest_mock import MockerFixture

from langchain_batch_embed.errors import JournalError
from langchain_batch_embed.journal import (
    ByteStoreJournal,
)
from tests.journal.support import SPACE, keys, numbers, vectors


class TestByteStoreJournal:
    """Behaviour that only the journal in a ByteStore has."""

    @pytest.fixture
    def store(self) -> InMemoryByteStore:
        """Return a store with one vector in it, for the text "a"."""
        store = InMemoryByteStore()
        ByteStoreJournal(store).put(keys("a"), vectors(1), space=SPACE)
        return store

    @staticmethod
    def found(store: ByteStore) -> list[int]:
        """Look up the text "a"."""
        return numbers(ByteStoreJournal(store).get(keys("a"))[0])

    def test_keys_are_safe_in_file_names(self, store: InMemoryByteStore) -> None:
        """A key is a prefix and hexadecimal digits, so it is safe in file names."""
        assert ["lbe1-" + keys("a")[0].hex()] == list(store.yield_keys())

    def test_every_cut_record_is_not_found(self, store: InMemoryByteStore) -> None:
        """A truncated record never gives a vector, whatever its length."""
        ((name, whole),) = store.store.items()
        for length in range(len(whole)):
            store.store[name] = whole[:length]
            assert self.found(store) == []
        store.store[name] = whole
        assert self.found(store) == [0]

    def test_every_flipped_byte_is_noticed(self, store: InMemoryByteStore) -> None:
        """A record with one wrong byte is not found."""
        ((name, whole),) = store.store.items()
        for place in range(len(whole)):
            record = bytearray(whole)
            record[place] ^= 1
            store.store[name] = bytes(record)
            assert self.found(store) == []

    @pytest.mark.parametrize("garbage", [b"", b"x", bytes(32), b"LBE1" * 100, "text", None])
    def test_foreign_values_are_not_found(self, store: InMemoryByteStore, garbage: bytes) -> None:
        """A value that another program wrote under our key is not found."""
        (name,) = store.yield_keys()
        store.mset([(name, garbage)])
        assert self.found(store) == []
        assert ByteStoreJournal(store).stats().vectors == 0

    def test_a_record_under_another_key_is_not_found(self, store: InMemoryByteStore) -> None:
        """A renamed record does not give its vector to another text."""
        ((_name, whole),) = store.store.items()
        other = "lbe1-" + keys("b")[0].hex()
        store.mset([(other, whole)])
        assert numbers(ByteStoreJournal(store).get(keys("b"))[0]) == []

    def test_leaves_the_others_alone(self, store: InMemoryByteStore) -> None:
        """Emptying the journal leaves other values in a shared store."""
        store.mset([("theirs", b"precious")])
        assert ByteStoreJournal(store).prune(max_bytes=0) == 1
        assert store.store == {"theirs": b"precious"}

    def test_holds_no_text(self, store: InMemoryByteStore) -> None:
        """Neither keys nor values contain the embedded text."""
        text = "a very secret sentence"
        ByteStoreJournal(store).put(keys(text), vectors(1), space=SPACE)
        assert b"secret" not in b"".join(k.encode() + v for k, v in store.store.items())

    def test_a_failing_store_is_a_journal_error(
        self, store: InMemoryByteStore, mocker: MockerFixture
    ) -> None:
        """An error of the store is raised as `JournalError`, with its cause but not its message."""
        mocker.patch.object(store, "mset", side_effect=ConnectionResetError("secret"))
        with pytest.raises(JournalError, match=r"failed \(ConnectionResetError\)") as caught:
            ByteStoreJournal(store).put(keys("a"), vectors(1), space=SPACE)
        assert isinstance(caught.value.__cause__, ConnectionResetError)
        assert "secret" not in str(caught.value)

    def test_a_short_answer_is_an_error(
        self, store: InMemoryByteStore, mocker: MockerFixture
    ) -> None:
        """If a store omits values, an error is raised, as vectors would go to wrong texts."""
        mocker.patch.object(store, "mget", return_value=list(store.store.values()))
        with pytest.raises(JournalError, match="ValueError"):
            ByteStoreJournal(store).get(keys("x", "a"))
