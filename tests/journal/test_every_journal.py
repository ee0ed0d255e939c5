"""Every journal returns what was put, bit for bit, and nothing else."""

import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from langchain_core.stores import InMemoryByteStore
from numpy.typing import NDArray

from langchain_batch_embed.errors import JournalError, OptionError
from langchain_batch_embed.journal import (
    ByteStoreJournal,
    Journal,
    MemoryJournal,
    Space,
    SQLiteJournal,
    open_journal,
)
from tests.journal.support import ALL, CHILD_SECONDS, SPACE, Clock, keys, numbers, vectors
from tests.support import examples


class TestEveryJournal:
    """Behaviour that all journals have in common."""

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
        """Look-ups of many keys, in any order, lose no vector and swap none."""
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
        """One journal serves several models and keeps their vectors apart."""
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
        """Changing an array that was put, or returned, changes nothing in the journal."""
        put = vectors(1)
        expected = put.tobytes()
        journal.put(keys("a"), put, space=SPACE)
        put[:] = 0
        journal.get(keys("a"))[1][:] = 1
        assert expected == journal.get(keys("a"))[1].tobytes()

    @pytest.mark.parametrize("journal", ALL, indirect=True)
    def test_takes_an_empty_batch(self, journal: Journal) -> None:
        """An empty batch can be put."""
        journal.put([], np.empty((0, 0), np.float32), space=SPACE)
        assert tuple(vars(journal.stats()).values()) == (0, 0, None, None, {})

    @pytest.mark.parametrize("journal", ALL, indirect=True)
    @pytest.mark.parametrize("shape", [(1, 8), (3, 8), (2,), (2, 0)])
    def test_refuses_vectors_that_do_not_fit_the_keys(
        self, journal: Journal, shape: tuple[int, ...]
    ) -> None:
        """Vectors whose number differs from the keys are refused, and nothing is stored."""
        with pytest.raises(ValueError, match=r"2 keys need vectors of shape \(2, d\)"):
            journal.put(keys("a", "b"), np.zeros(shape, np.float32), space=SPACE)
        assert journal.stats().vectors == 0

    @pytest.mark.parametrize("journal", ALL, indirect=True)
    def test_stats_count(self, journal: Journal, clock: Clock) -> None:
        """Statistics count vectors and bytes, and give the oldest and the newest time."""
        journal.put(keys("a", "b"), vectors(2), space=SPACE)
        clock.now += 60
        journal.put(keys("c"), vectors(1), space=SPACE)
        stats = journal.stats()
        assert (3, 3 * 8 * 4, {SPACE.name: 3}) == (stats.vectors, stats.bytes, stats.spaces)
        assert datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC) == stats.oldest
        assert datetime(2023, 11, 14, 22, 14, 20, tzinfo=UTC) == stats.newest

    @pytest.mark.parametrize("journal", ALL, indirect=True)
    def test_prunes_by_age(self, journal: Journal, clock: Clock) -> None:
        """Pruning by age removes older vectors and keeps the rest."""
        for text in "abc":
            journal.put(keys(text), vectors(1), space=SPACE)
            clock.now += 3600
        assert journal.prune(older_than=timedelta(hours=1.5)) == 2
        assert numbers(journal.get(keys(*"abc"))[0]) == [2]

    @pytest.mark.parametrize("journal", ALL, indirect=True)
    def test_prunes_by_size(self, journal: Journal, clock: Clock) -> None:
        """Pruning by size keeps the newest vectors that fit."""
        for text in "abc":
            journal.put(keys(text), vectors(1), space=SPACE)
            clock.now += 1
        assert journal.prune(max_bytes=2 * 8 * 4 + 31) == 1
        assert numbers(journal.get(keys(*"abc"))[0]) == [1, 2]

    @pytest.mark.parametrize("journal", ALL, indirect=True)
    def test_prunes_by_both(self, journal: Journal, clock: Clock) -> None:
        """With both rules, a vector that either rule removes is removed and counted once."""
        for text in "abc":
            journal.put(keys(text), vectors(1), space=SPACE)
            clock.now += 3600
        assert journal.prune(older_than=timedelta(hours=2.5), max_bytes=8 * 4) == 2
        assert numbers(journal.get(keys(*"abc"))[0]) == [2]

    @pytest.mark.parametrize("journal", ALL, indirect=True)
    def test_prune_can_empty_the_journal(self, journal: Journal) -> None:
        """Pruning to no bytes empties the journal, which then accepts another width."""
        journal.put(keys("a", "b"), vectors(2), space=SPACE)
        assert journal.prune(max_bytes=0) == 2
        journal.put(keys("a"), vectors(1, width=4), space=SPACE)
        assert journal.get(keys("a", "b"))[1].shape == (1, 4)

    @pytest.mark.parametrize("journal", ALL, indirect=True)
    def test_prune_wants_to_know_what(self, journal: Journal) -> None:
        """Pruning without a rule, or with an impossible one, is an error."""
        with pytest.raises(ValueError, match="needs older_than= or max_bytes="):
            journal.prune()
        with pytest.raises(ValueError, match="not be negative"):
            journal.prune(max_bytes=-1)
        with pytest.raises(ValueError, match="not be negative"):
            journal.prune(older_than=timedelta(days=-1))

    @pytest.mark.parametrize("journal", ["memory", "bytestore", "files"], indirect=True)
    def test_refuses_to_mix_widths(self, journal: Journal) -> None:
        """Vectors of two widths for one model raise an error instead of giving a wrong row."""
        journal.put(keys("a"), vectors(1), space=SPACE)
        journal.put(keys("b"), vectors(1, width=4), space=SPACE)
        with pytest.raises(JournalError, match="different dimensions"):
            journal.get(keys("a", "b"))
        assert journal.get(keys("b"))[1].shape == (1, 4)

    @pytest.mark.parametrize("journal", ALL, indirect=True)
    def test_threads_share_one_journal(self, journal: Journal) -> None:
        """Threads that write and read at the same time lose nothing."""
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
        """A closed journal can be closed again and used again, as it then reopens its file."""
        journal.put(keys("a"), vectors(1), space=SPACE)
        journal.close()
        journal.close()
        assert numbers(journal.get(keys("a"))[0]) == [0]

    def test_bits_survive_every_journal(self, tmp_path_factory: pytest.TempPathFactory) -> None:
        """Every journal returns any valid float32 with the same bits."""
        folder = tmp_path_factory.mktemp("bits")
        journals: list[Journal] = [
            MemoryJournal(),
            ByteStoreJournal(InMemoryByteStore()),
            SQLiteJournal(folder / "journal.sqlite"),
        ]
        shapes = st.tuples(st.integers(1, 6), st.integers(1, 9))

        @examples(50)
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
    """The option `journal=` accepts several kinds of values."""

    def test_none_is_memory(self) -> None:
        """Without a journal, vectors are kept in memory."""
        journal = open_journal(None)
        assert (MemoryJournal, False) == (type(journal), journal.persistent)

    def test_path_is_sqlite(self, path: Path) -> None:
        """A path, as `Path` or as string, opens a SQLite file."""
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

    @pytest.mark.parametrize(
        "where", [":memory:", Path(":memory:"), "file::memory:?cache=shared", "sqlite:///:memory:"]
    )
    def test_sqlites_name_for_memory_is_refused(
        self, where: str | Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """SQLite's `:memory:` is refused with advice, as it would be the name of a file here."""
        monkeypatch.chdir(tmp_path)
        with pytest.raises(OptionError, match="journal=None keeps vectors in memory"):
            open_journal(where)
        assert not list(tmp_path.iterdir())

    def test_byte_store_is_wrapped(self) -> None:
        """Any LangChain `ByteStore` becomes a journal."""
        journal = open_journal(InMemoryByteStore())
        assert (ByteStoreJournal, True) == (type(journal), journal.persistent)

    def test_open_journal_is_taken_as_it_is(self) -> None:
        """A journal object that the user made is used as it is."""
        journal = MemoryJournal()
        assert open_journal(journal) is journal

    def test_other_things_are_refused(self) -> None:
        """A value of a wrong type is refused at once."""
        with pytest.raises(OptionError, match="takes a path, a LangChain ByteStore or None"):
            open_journal(7)  # type: ignore[arg-type]
