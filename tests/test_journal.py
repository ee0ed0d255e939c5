"""The journal: what was put is got back bit for bit, and nothing else ever is."""

import multiprocessing
import os
import pickle
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from langchain_classic.storage import LocalFileStore
from langchain_core.stores import ByteStore, InMemoryByteStore
from numpy.typing import NDArray
from pytest_mock import MockerFixture

from langchain_batch_embed.errors import JournalError, OptionError
from langchain_batch_embed.journal import (
    ByteStoreJournal,
    Journal,
    MemoryJournal,
    Space,
    SQLiteJournal,
    content_keys,
    open_journal,
)
from langchain_batch_embed.journal.sqlite_file import identities, is_replaced

SPACE = Space(provider="openai", model="text-embedding-3-small", dimensions=8)
PERSISTENT = ["sqlite", "files"]
ALL = [*PERSISTENT, "memory", "bytestore"]
CHILD_SECONDS = 30

CHILD = """
import sys
import numpy as np
from langchain_batch_embed.journal import SQLiteJournal, Space, content_keys

path, name, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
space = Space(provider="openai", model="text-embedding-3-small", dimensions=8)
journal = SQLiteJournal(path)
print("ready", flush=True)
sys.stdin.readline()
for number in range(1, count + 1):
    texts = [f"{name} {number} {i}" for i in range(20)]
    journal.put(content_keys(texts, space), np.full((20, 8), number, np.float32), space=space)
    print(number, flush=True)
"""


class Clock:
    """Seconds that pass only when a test says so."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        """Tell the time."""
        return self.now


@pytest.fixture
def clock() -> Clock:
    """Give the time to a journal."""
    return Clock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Name a file that is not there yet."""
    return tmp_path / "journal.sqlite"


@pytest.fixture
def journal(
    request: pytest.FixtureRequest, path: Path, tmp_path: Path, clock: Clock
) -> Iterator[Journal]:
    """Make the journal that the test asks for."""
    made: Journal
    match getattr(request, "param", "sqlite"):
        case "memory":
            made = MemoryJournal(clock=clock)
        case "bytestore":
            made = ByteStoreJournal(InMemoryByteStore(), clock=clock)
        case "files":
            made = ByteStoreJournal(LocalFileStore(tmp_path / "store"), clock=clock)
        case _:
            made = SQLiteJournal(path, clock=clock)
    yield made
    made.close()


def keys(*texts: str, space: Space = SPACE) -> list[bytes]:
    """Shorten the tests."""
    return content_keys(texts, space)


def vectors(count: int, width: int = 8, seed: int = 0) -> NDArray[np.float32]:
    """Draw vectors that are all different."""
    return np.random.default_rng(seed).standard_normal((count, width), dtype=np.float32)


def numbers(positions: NDArray[np.intp]) -> list[int]:
    """Make positions comparable."""
    return [int(position) for position in positions]


def spawn(path: Path, name: str, count: int) -> "subprocess.Popen[str]":
    """Start a process that writes batches once it is sent a line."""
    command = [sys.executable, "-c", CHILD, str(path), name, str(count)]
    root = str(Path(__file__).parents[1])
    return subprocess.Popen(  # noqa: S603 - our own program
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": root},
    )


def snapshot(folder: Path) -> dict[str, bytes]:
    """Read every file of a folder."""
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


def make_foreign(path: Path, *, application_id: int = 0, version: int = 0) -> None:
    """Write somebody's SQLite database, in WAL mode as many are."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("CREATE TABLE theirs (value TEXT)")
    connection.execute("INSERT INTO theirs VALUES ('precious')")
    connection.execute(f"PRAGMA application_id = {application_id}")
    connection.execute(f"PRAGMA user_version = {version}")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.close()


class TestContentKeys:
    """Keys tell texts and spaces apart, and hold neither."""

    def test_same_text_and_space_give_the_same_key(self) -> None:
        """A key is the same in every process and release of this version."""
        expected = ["1c452b4cbf", "69727f1ada"]
        actual = [key.hex()[:10] for key in keys("one", "two")]
        assert expected == actual

    @pytest.mark.parametrize(
        "other",
        [
            Space(provider="azure", model="m"),
            Space(provider="openai", model="n"),
            Space(provider="openai", model="m", dimensions=8),
            Space(provider="openai", model="m", endpoint="http://localhost:8080"),
            Space(provider="openai", model="m", variant="query"),
            Space(provider="openaim", model=""),
        ],
        ids=["provider", "model", "dimensions", "endpoint", "variant", "moved border"],
    )
    def test_another_space_gives_another_key(self, other: Space) -> None:
        """Nothing that changes a vector shares its key."""
        space = Space(provider="openai", model="m")
        assert keys("text", space=space) != keys("text", space=other)

    def test_keys_have_at_least_128_bits(self) -> None:
        """Keys are long enough to be taken for the text."""
        assert all(len(key) * 8 >= 128 for key in keys("", "text", "x" * 10_000))

    @given(st.lists(st.text(st.characters(codec=None)), unique=True))
    def test_different_texts_have_different_keys(self, texts: list[str]) -> None:
        """Any Python string has a key of its own, lone surrogates too."""
        assert len(texts) == len(set(content_keys(texts, SPACE)))

    @pytest.mark.parametrize(
        ("given", "kept"),
        [
            ("https://user:sk-secret@Example.com:8443/v1/", "https://example.com:8443/v1"),
            ("https://example.com/v1?api-key=sk-secret#sk-secret", "https://example.com/v1"),
            ("user:sk-secret@example.com/v1", "example.com/v1"),
            ("user:sk-secret@example.com?to=https://other", "example.com"),
            ("localhost:8080/v1", "localhost:8080/v1"),
            ("", ""),
        ],
    )
    def test_endpoint_keeps_no_secret(self, given: str, kept: str) -> None:
        """Of an address only what names the server is kept."""
        assert kept == Space(provider="openai", model="m", endpoint=given).endpoint

    def test_name_says_what_made_the_vectors(self) -> None:
        """The name is for people, and leaves out the endpoint's path."""
        space = Space(
            provider="azure",
            model="m",
            dimensions=256,
            endpoint="https://me.openai.azure.com/account/17",
            variant="average",
        )
        assert space.name == "azure m, 256 dimensions, me.openai.azure.com, average"


class TestEveryJournal:
    """What all journals have in common."""

    @pytest.mark.parametrize("journal", ALL, indirect=True)
    def test_gives_back_what_was_put(self, journal: Journal) -> None:
        """Vectors come back bit for bit, at the positions of their keys."""
        put = vectors(3)
        journal.put(keys("a", "b", "c"), put, space=SPACE)
        positions, found = journal.get(keys("?", "c", "a", "!", "c"))
        assert numbers(positions) == [1, 2, 4]
        assert np.float32 == found.dtype
        assert put[[2, 0, 2]].tobytes() == found.tobytes()

    @pytest.mark.parametrize("journal", ALL, indirect=True)
    def test_finds_all_of_many(self, journal: Journal) -> None:
        """Look-ups of many keys, in any order, lose and swap nothing."""
        put = vectors(1_001)
        order = np.random.default_rng(1).permutation(1_001)
        names = keys(*map(str, range(1_001)))
        journal.put(names, put, space=SPACE)
        positions, found = journal.get([names[i] for i in order])
        assert list(range(1_001)) == numbers(positions)
        assert put[order].tobytes() == found.tobytes()

    @pytest.mark.parametrize("journal", ALL, indirect=True)
    def test_finds_nothing_in_an_empty_journal(self, journal: Journal) -> None:
        """Unknown keys give empty arrays, not an error."""
        positions, found = journal.get(keys("a", "b"))
        assert (positions.shape, found.shape, found.dtype.name) == ((0,), (0, 0), "float32")

    @pytest.mark.parametrize("journal", ALL, indirect=True)
    def test_another_model_does_not_find_the_vector(self, journal: Journal) -> None:
        """One journal serves several models and keeps them apart."""
        other = Space(provider="openai", model="text-embedding-3-large")
        journal.put(keys("a"), vectors(1), space=SPACE)
        journal.put(keys("a", space=other), vectors(1, width=16), space=other)
        positions, found = journal.get(keys("a", space=other))
        assert (numbers(positions), found.shape) == ([0], (1, 16))
        assert {SPACE.name: 1, other.name: 1} == journal.stats().spaces

    @pytest.mark.parametrize("journal", ALL, indirect=True)
    def test_the_last_put_counts(self, journal: Journal) -> None:
        """Putting a key again replaces its vector."""
        first, second = vectors(2)[:, None]
        journal.put(keys("a"), first, space=SPACE)
        journal.put(keys("a"), second, space=SPACE)
        assert second.tobytes() == journal.get(keys("a"))[1].tobytes()
        assert journal.stats().vectors == 1

    @pytest.mark.parametrize("journal", ALL, indirect=True)
    def test_keeps_its_own_copy(self, journal: Journal) -> None:
        """Changing an array that was put, or was got, changes nothing in the journal."""
        put = vectors(1)
        expected = put.tobytes()
        journal.put(keys("a"), put, space=SPACE)
        put[:] = 0
        journal.get(keys("a"))[1][:] = 1
        assert expected == journal.get(keys("a"))[1].tobytes()

    @pytest.mark.parametrize("journal", ALL, indirect=True)
    def test_takes_an_empty_batch(self, journal: Journal) -> None:
        """Putting nothing is allowed."""
        journal.put([], np.empty((0, 0), np.float32), space=SPACE)
        assert tuple(vars(journal.stats()).values()) == (0, 0, None, None, {})

    @pytest.mark.parametrize("journal", ALL, indirect=True)
    @pytest.mark.parametrize("shape", [(1, 8), (3, 8), (2,), (2, 0)])
    def test_refuses_vectors_that_do_not_fit_the_keys(
        self, journal: Journal, shape: tuple[int, ...]
    ) -> None:
        """As many rows as keys, or nothing is stored."""
        with pytest.raises(ValueError, match=r"2 keys need vectors of shape \(2, d\)"):
            journal.put(keys("a", "b"), np.zeros(shape, np.float32), space=SPACE)
        assert journal.stats().vectors == 0

    @pytest.mark.parametrize("journal", ALL, indirect=True)
    def test_stats_count(self, journal: Journal, clock: Clock) -> None:
        """Statistics count vectors and bytes, and tell the oldest and the newest."""
        journal.put(keys("a", "b"), vectors(2), space=SPACE)
        clock.now += 60
        journal.put(keys("c"), vectors(1), space=SPACE)
        stats = journal.stats()
        assert (3, 3 * 8 * 4, {SPACE.name: 3}) == (stats.vectors, stats.bytes, stats.spaces)
        assert datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC) == stats.oldest
        assert datetime(2023, 11, 14, 22, 14, 20, tzinfo=UTC) == stats.newest

    @pytest.mark.parametrize("journal", ALL, indirect=True)
    def test_prunes_by_age(self, journal: Journal, clock: Clock) -> None:
        """What was written longer ago goes, the rest stays."""
        for text in "abc":
            journal.put(keys(text), vectors(1), space=SPACE)
            clock.now += 3600
        assert journal.prune(older_than=timedelta(hours=1.5)) == 2
        assert numbers(journal.get(keys(*"abc"))[0]) == [2]

    @pytest.mark.parametrize("journal", ALL, indirect=True)
    def test_prunes_by_size(self, journal: Journal, clock: Clock) -> None:
        """The newest vectors that fit stay."""
        for text in "abc":
            journal.put(keys(text), vectors(1), space=SPACE)
            clock.now += 1
        assert journal.prune(max_bytes=2 * 8 * 4 + 31) == 1
        assert numbers(journal.get(keys(*"abc"))[0]) == [1, 2]

    @pytest.mark.parametrize("journal", ALL, indirect=True)
    def test_prunes_by_both(self, journal: Journal, clock: Clock) -> None:
        """A vector goes if either rule says so, and is counted once."""
        for text in "abc":
            journal.put(keys(text), vectors(1), space=SPACE)
            clock.now += 3600
        assert journal.prune(older_than=timedelta(hours=2.5), max_bytes=8 * 4) == 2
        assert numbers(journal.get(keys(*"abc"))[0]) == [2]

    @pytest.mark.parametrize("journal", ALL, indirect=True)
    def test_prune_can_empty_the_journal(self, journal: Journal) -> None:
        """Nothing fits in no bytes; then another width may come."""
        journal.put(keys("a", "b"), vectors(2), space=SPACE)
        assert journal.prune(max_bytes=0) == 2
        journal.put(keys("a"), vectors(1, width=4), space=SPACE)
        assert journal.get(keys("a", "b"))[1].shape == (1, 4)

    @pytest.mark.parametrize("journal", ALL, indirect=True)
    def test_prune_wants_to_know_what(self, journal: Journal) -> None:
        """Without a rule, or with an impossible one, nothing is deleted."""
        with pytest.raises(ValueError, match="needs older_than= or max_bytes="):
            journal.prune()
        with pytest.raises(ValueError, match="not be negative"):
            journal.prune(max_bytes=-1)
        with pytest.raises(ValueError, match="not be negative"):
            journal.prune(older_than=timedelta(days=-1))

    @pytest.mark.parametrize("journal", ["memory", "bytestore", "files"], indirect=True)
    def test_refuses_to_mix_widths(self, journal: Journal) -> None:
        """Vectors of two widths for one model are an error, not a wrong row."""
        journal.put(keys("a"), vectors(1), space=SPACE)
        journal.put(keys("b"), vectors(1, width=4), space=SPACE)
        with pytest.raises(JournalError, match="different dimensions"):
            journal.get(keys("a", "b"))
        assert journal.get(keys("b"))[1].shape == (1, 4)

    @pytest.mark.parametrize("journal", ALL, indirect=True)
    def test_threads_share_one_journal(self, journal: Journal) -> None:
        """Threads that write and read at once lose nothing."""
        put = vectors(80)
        wrong: list[int] = []

        def work(thread: int) -> None:
            for i in range(thread * 20, thread * 20 + 20):
                journal.put(keys(str(i)), put[i : i + 1], space=SPACE)
                if journal.get(keys(str(i)))[1].tobytes() != put[i].tobytes():
                    wrong.append(i)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(CHILD_SECONDS)
        assert wrong == []
        assert put.tobytes() == journal.get(keys(*map(str, range(80))))[1].tobytes()

    @pytest.mark.parametrize("journal", ALL, indirect=True)
    def test_may_be_closed_twice_and_used_again(self, journal: Journal) -> None:
        """Closing is not final: a later use opens the file again."""
        journal.put(keys("a"), vectors(1), space=SPACE)
        journal.close()
        journal.close()
        assert numbers(journal.get(keys("a"))[0]) == [0]

    def test_bits_survive_every_journal(self, tmp_path_factory: pytest.TempPathFactory) -> None:
        """Any float32 that an answer may hold comes back with the same bits, from every journal."""
        folder = tmp_path_factory.mktemp("bits")
        journals: list[Journal] = [
            MemoryJournal(),
            ByteStoreJournal(InMemoryByteStore()),
            SQLiteJournal(folder / "journal.sqlite"),
        ]
        shapes = st.tuples(st.integers(1, 6), st.integers(1, 9))

        @settings(max_examples=50, deadline=None)
        @given(arrays(np.uint32, shapes, elements=st.integers(0, 0xFF7FFFFF), fill=st.nothing()))
        def check(bits: NDArray[np.uint32]) -> None:
            numbers_of_them = bits.view(np.float32)
            assume(np.isfinite(numbers_of_them).all() and numbers_of_them.any(axis=1).all())
            space = Space(provider="openai", model="m", dimensions=bits.shape[1])
            names = keys(*map(str, range(len(bits))), space=space)
            for journal in journals:
                journal.put(names, bits.view(np.float32), space=space)
                positions, found = journal.get(names)
                assert list(range(len(bits))) == numbers(positions)
                assert bits.tobytes() == found.tobytes()

        check()
        journals[-1].close()


class TestOpenJournal:
    """What `journal=` may be."""

    def test_none_is_memory(self) -> None:
        """Without a journal vectors are kept in memory."""
        journal = open_journal(None)
        assert (MemoryJournal, False) == (type(journal), journal.persistent)

    def test_path_is_sqlite(self, path: Path) -> None:
        """A path, as `Path` or as string, names a SQLite file."""
        for where in (path, str(path)):
            journal = open_journal(where)
            journal.close()
            assert (SQLiteJournal, True) == (type(journal), journal.persistent)
        assert path.exists()

    def test_home_is_understood(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A tilde stands for the user's folder, as in a shell."""
        monkeypatch.setenv("HOME", str(tmp_path))
        open_journal("~/journal.sqlite").close()
        assert [file.name for file in tmp_path.iterdir()] == ["journal.sqlite"]

    def test_byte_store_is_wrapped(self) -> None:
        """Any LangChain `ByteStore` will do."""
        journal = open_journal(InMemoryByteStore())
        assert (ByteStoreJournal, True) == (type(journal), journal.persistent)

    def test_open_journal_is_taken_as_it_is(self) -> None:
        """A journal that the user made, with options of their own, is used."""
        journal = MemoryJournal()
        assert open_journal(journal) is journal

    def test_other_things_are_refused(self) -> None:
        """A wrong type is told at once."""
        with pytest.raises(OptionError, match="takes a path, a LangChain ByteStore or None"):
            open_journal(7)  # type: ignore[arg-type]


class TestMemoryJournal:
    """What only the journal in memory does."""

    def test_discards_what_is_done_with(self) -> None:
        """Vectors that a call has used are forgotten; unknown keys do no harm."""
        journal = MemoryJournal()
        journal.put(keys("a", "b"), vectors(2), space=SPACE)
        journal.discard(keys("a", "unknown"))
        assert numbers(journal.get(keys("a", "b"))[0]) == [1]
        assert journal.stats().vectors == 1

    def test_tells_one_spaces_keys_from_anothers(self) -> None:
        """Two objects with different models may share one."""
        journal, other = MemoryJournal(), replace(SPACE, model="text-embedding-3-large")
        journal.put(keys("a", "b"), vectors(2), space=SPACE)
        journal.put(keys("a", space=other), vectors(1), space=other)
        assert journal.keys(SPACE) == keys("a", "b")
        assert journal.keys(other) == keys("a", space=other)

    def test_pickled_copy_is_empty(self) -> None:
        """What one process still needs is not shipped to its workers."""
        journal = MemoryJournal()
        journal.put(keys("a"), vectors(1), space=SPACE)
        copy = pickle.loads(pickle.dumps(journal))  # noqa: S301 - our own
        assert (copy.stats().vectors, journal.stats().vectors) == (0, 1)


class TestByteStoreJournal:
    """What only the journal in a ByteStore does."""

    @pytest.fixture
    def store(self) -> InMemoryByteStore:
        """Make a store with one vector in it, for the text "a"."""
        store = InMemoryByteStore()
        ByteStoreJournal(store).put(keys("a"), vectors(1), space=SPACE)
        return store

    @staticmethod
    def found(store: ByteStore) -> list[int]:
        """Look for the text "a"."""
        return numbers(ByteStoreJournal(store).get(keys("a"))[0])

    def test_keys_are_safe_in_file_names(self, store: InMemoryByteStore) -> None:
        """A key is a prefix and hexadecimal digits."""
        assert ["lbe1-" + keys("a")[0].hex()] == list(store.yield_keys())

    def test_every_cut_record_is_not_found(self, store: InMemoryByteStore) -> None:
        """However short a record was cut, it never gives a vector."""
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
        """What somebody else wrote under our key is no vector."""
        (name,) = store.yield_keys()
        store.mset([(name, garbage)])
        assert self.found(store) == []
        assert ByteStoreJournal(store).stats().vectors == 0

    def test_a_record_under_another_key_is_not_found(self, store: InMemoryByteStore) -> None:
        """A renamed file does not give its vector to another text."""
        ((_name, whole),) = store.store.items()
        other = "lbe1-" + keys("b")[0].hex()
        store.mset([(other, whole)])
        assert numbers(ByteStoreJournal(store).get(keys("b"))[0]) == []

    def test_leaves_the_others_alone(self, store: InMemoryByteStore) -> None:
        """A shared store keeps its other values when the journal is emptied."""
        store.mset([("theirs", b"precious")])
        assert ByteStoreJournal(store).prune(max_bytes=0) == 1
        assert store.store == {"theirs": b"precious"}

    def test_holds_no_text(self, store: InMemoryByteStore) -> None:
        """Neither keys nor values hold what was embedded."""
        text = "a very secret sentence"
        ByteStoreJournal(store).put(keys(text), vectors(1), space=SPACE)
        assert b"secret" not in b"".join(k.encode() + v for k, v in store.store.items())

    def test_a_failing_store_is_a_journal_error(
        self, store: InMemoryByteStore, mocker: MockerFixture
    ) -> None:
        """Whatever a store raises comes as `JournalError`, with the cause attached."""
        mocker.patch.object(store, "mset", side_effect=ConnectionResetError("secret"))
        with pytest.raises(JournalError, match=r"failed \(ConnectionResetError\)") as caught:
            ByteStoreJournal(store).put(keys("a"), vectors(1), space=SPACE)
        assert isinstance(caught.value.__cause__, ConnectionResetError)
        assert "secret" not in str(caught.value)

    def test_a_short_answer_is_an_error(
        self, store: InMemoryByteStore, mocker: MockerFixture
    ) -> None:
        """A store that leaves out values must not shift the others to wrong texts."""
        mocker.patch.object(store, "mget", return_value=list(store.store.values()))
        with pytest.raises(JournalError, match="ValueError"):
            ByteStoreJournal(store).get(keys("x", "a"))


class TestSQLiteJournal:
    """What only the journal in a file does."""

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
        """Ctrl-C in the middle of a put goes on, and the next put works."""

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
        """Deleted vectors give their room back to the disk."""
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
        """A file of zero bytes becomes a journal of mode 0600."""
        path.touch(mode=0o644)
        journal = SQLiteJournal(path)
        journal.put(keys("a"), vectors(1), space=SPACE)
        journal.close()
        assert path.stat().st_mode & 0o777 == 0o600
        assert path.read_bytes().startswith(b"SQLite format 3")

    def test_holds_no_text_and_no_key(self, path: Path) -> None:
        """Neither what was embedded nor a secret in the endpoint is in any file."""
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
        """Characters that mean something in an address mean nothing in a path."""
        path = tmp_path / "100% what? #1 ü.sqlite"
        SQLiteJournal(path).close()
        assert [path] == list(tmp_path.iterdir())

    def test_pickled_copy_opens_the_same_file(
        self, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A worker that runs in another folder gets the same journal."""
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
        """Parent and child write on, each with a connection of its own."""
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
        """Processes that start at once can keep each other from WAL; the journal still works."""
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

    def test_two_processes_share_one_file(self, path: Path) -> None:
        """Processes that start at once on a new file and write at once lose nothing."""
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

    @pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL")
    def test_every_put_that_returned_survives_kill_9(self, path: Path) -> None:
        """After SIGKILL in the middle of writing, all that was reported done is there."""
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
        assert total % 20 == 0  # no batch is there by half


class TestFilesThatAreNotOurs:
    """A clear error, and the file stays as it was, byte for byte."""

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
        """Somebody's notes are not overwritten."""
        path.write_bytes(content)
        self.refuse(path, "not a journal.* it was left as it is, name another file")

    def test_somebody_elses_database(self, path: Path) -> None:
        """A SQLite file of another program is left alone, and gets no companions."""
        make_foreign(path)
        self.refuse(path, "not a journal but something else; it was left as it is")

    def test_somebody_elses_database_after_a_crash(self, tmp_path: Path) -> None:
        """A log that waits to be read back is left to its owner."""
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
        """A newer release's journal is neither read nor changed."""
        make_foreign(path, application_id=int.from_bytes(b"LBEJ"), version=version)
        self.refuse(path, f"has version {version}, .* knows version 1")

    @pytest.mark.parametrize("length", [50, 5_000, 40_000, 100_000])
    def test_a_journal_that_was_cut_short(self, path: Path, length: int) -> None:
        """A file that a full disk or a broken copy cut short is told at once."""
        SQLiteJournal(path).close()
        content = path.read_bytes()
        assert len(content) > length
        path.write_bytes(content[:length])
        self.refuse(path, "damaged|not a journal")

    def test_a_journal_with_broken_pages(self, path: Path) -> None:
        """Damage inside shows when it is read, and reading changes nothing."""
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
        """A folder cannot be a journal."""
        with pytest.raises(JournalError, match="is a folder; name a file in it"):
            SQLiteJournal(tmp_path)

    def test_a_folder_that_is_missing(self, tmp_path: Path) -> None:
        """A misspelt folder is told, not made."""
        with pytest.raises(JournalError, match="check that its folder is there"):
            SQLiteJournal(tmp_path / "missing" / "journal.sqlite")
        assert list(tmp_path.iterdir()) == []

    def test_a_folder_that_is_a_file(self, path: Path) -> None:
        """A path through a file is told."""
        path.touch()
        with pytest.raises(JournalError, match="check that its folder is there"):
            SQLiteJournal(path / "journal.sqlite")


class TestDamagedVectors:
    """What is not what was put is never handed out: it is paid for again."""

    @staticmethod
    def spoil(path: Path, change: str) -> None:
        """Change the file behind the journal's back."""
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
        """Whatever was changed in it; the others are there, and one line tells how many were."""
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
        """Also where the number is still a fine one."""
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
        """Even where its checksum is right, as when another program wrote it."""
        put = vectors(2)
        put[1] = number
        journal.put(keys("a", "b"), put, space=SPACE)
        positions, found = journal.get(keys("a", "b"))
        assert (numbers(positions), found.shape) == ([0], (1, 8))
        positions, found = journal.get(keys("b"))
        assert (positions.shape, found.shape, found.dtype.name) == ((0,), (0, 0), "float32")
        assert [record.levelname for record in caplog.records] == ["WARNING"] * 2

    def test_damaged_records_of_a_store_are_counted(self, caplog: pytest.LogCaptureFixture) -> None:
        """One line tells of them; what was never there is not damaged."""
        store = InMemoryByteStore()
        journal = ByteStoreJournal(store)
        journal.put(keys("a", "b", "c"), vectors(3), space=SPACE)
        for text in "ab":
            name = "lbe1-" + keys(text)[0].hex()
            store.store[name] = store.store[name][:-1] + b"x"
        assert numbers(journal.get(keys("a", "b", "c", "d"))[0]) == [2]
        (record,) = caplog.records
        assert "the ByteStore used as journal holds damaged vectors for 2 of" in record.message


class TestJournalsOfEarlierReleases:
    """A file without checksums is opened and used."""

    @pytest.fixture
    def old(self, path: Path) -> Path:
        """Write a journal as the releases before checksums did, with vectors for "a" to "d"."""
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
        """It is changed when it is opened, once, and by several at a time."""
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
        """By its width, and by numbers that no answer may hold."""
        TestDamagedVectors.spoil(
            old,
            f"UPDATE vector SET value = x'{value.hex()}' WHERE id = 2",  # noqa: S608 - ours
        )
        journal = SQLiteJournal(old)
        assert numbers(journal.get(keys(*"abcd"))[0]) == [0, 2, 3]
        assert "damaged vectors for 1 of" in caplog.text
        journal.close()

    def test_the_release_that_made_it_can_still_use_it(self, old: Path) -> None:
        """It names its columns; what it writes has no checksum, and is found."""
        SQLiteJournal(old).close()
        connection = sqlite3.connect(old)
        with connection:
            connection.execute(_OLD_INSERT, (keys("f")[0], vectors(1)[0]))
        connection.close()
        journal = SQLiteJournal(old)
        assert numbers(journal.get(keys("f"))[0]) == [0]
        journal.close()


_OLD_INSERT = (
    "INSERT OR REPLACE INTO vector (key, space, created, value) VALUES (?, 1, 1700000000.0, ?)"
)


@pytest.mark.skipif(sys.platform == "win32", reason="there, open files cannot be deleted")
class TestFilesThatDisappear:
    """Nothing that was put is lost with a file that is deleted or replaced while it is open."""

    @staticmethod
    def remove(path: Path, how: str) -> None:
        """Take the file away."""
        if how == "renamed":
            path.rename(path.with_name("elsewhere"))
            return
        path.unlink()
        if how == "deleted with its companions":
            for end in ("-wal", "-shm"):
                path.with_name(path.name + end).unlink()

    @staticmethod
    def content(path: Path, *texts: str) -> list[int]:
        """Tell which texts a new object finds, after a look at the whole file."""
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
        """Put vectors that are drawn from their texts."""
        for text in texts:
            journal.put(keys(text), vectors(1, seed=ord(text)), space=SPACE)

    @pytest.mark.parametrize("how", ["deleted", "deleted with its companions", "renamed"])
    def test_a_file_that_is_gone_is_made_again_with_all_that_it_held(
        self, path: Path, caplog: pytest.LogCaptureFixture, how: str
    ) -> None:
        """By each process that had it open, with what is put then; one line tells it."""
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
        """What that one has already stays as it is, and no log is played into the wrong file."""
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
        """The old file stays open, and the next attempt succeeds once there is a place for it."""
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
        """The new file has vectors of another width for it: the old ones are left out."""
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
        """It empties what is there now."""
        journal = SQLiteJournal(path)
        self.put(journal, "a")
        self.remove(path, "deleted")
        assert journal.prune(max_bytes=0) == 1
        journal.close()
        assert self.content(path, "a") == []

    def test_a_file_that_went_while_it_was_closed_is_logged(
        self, path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """What it held is with the old file alone."""
        journal = SQLiteJournal(path)
        self.put(journal, "a")
        journal.close()
        path.rename(path.with_name("elsewhere"))
        self.put(journal, "b")
        assert "was deleted or replaced since it was open last" in caplog.text
        journal.close()

    def test_without_inodes_nothing_is_compared(self, path: Path, mocker: MockerFixture) -> None:
        """On Windows they can be 0, and then every file would be the same."""
        journal = SQLiteJournal(path)
        status = mocker.patch.object(Path, "stat").return_value
        status.st_dev = status.st_ino = 0
        assert identities(path) == {}
        assert not is_replaced(path, {})
        mocker.stopall()
        journal.close()


class TestTroubleWhileWriting:
    """The error says what to do, earlier vectors stay, and later ones can be put."""

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
        """Nothing of the batch is stored, and it can be put once there is room."""
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
        """Another process that keeps its lock is reported, and reading goes on."""
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(JournalError, match="another process kept it locked for 0 s"):
            journal.put(keys("b"), vectors(1), space=SPACE)
        assert numbers(journal.get(keys("a", "b"))[0]) == [0]
        other.close()
        self.check_usable(journal, keys("b"))

    def test_a_busy_thread_is_not_waited_for_forever(self, journal: SQLiteJournal) -> None:
        """Threads do not queue for one time-out after the other."""
        with (
            journal._connected(),
            pytest.raises(JournalError, match="busy in another thread for 0 s"),
        ):
            journal.put(keys("b"), vectors(1), space=SPACE)
        self.check_usable(journal, keys("b"))

    def test_the_file_may_not_be_written(self, journal: SQLiteJournal) -> None:
        """A file that turned read-only is told with what to do."""
        with journal._connected() as connection:
            connection.execute("PRAGMA query_only = ON")
        with pytest.raises(JournalError, match="may not be written; change its permissions"):
            journal.put(keys("b"), vectors(1), space=SPACE)
        with journal._connected() as connection:
            connection.execute("PRAGMA query_only = OFF")
        self.check_usable(journal, keys("b"))

    def test_the_message_holds_no_secret(self, journal: SQLiteJournal) -> None:
        """The error names the file and neither text nor digest."""
        with journal._connected() as connection:
            connection.execute("PRAGMA query_only = ON")
        with pytest.raises(JournalError) as caught:
            journal.put(keys("secret"), vectors(1), space=SPACE)
        assert "secret" not in str(caught.value)
        assert keys("secret")[0].hex() not in str(caught.value)
