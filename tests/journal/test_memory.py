"""The journal in memory."""

import pickle
from dataclasses import replace

from langchain_batch_embed.journal import (
    MemoryJournal,
)
from tests.journal.support import SPACE, keys, numbers, vectors


class TestMemoryJournal:
    """Behaviour that only the journal in memory has."""

    def test_discards_what_is_done_with(self) -> None:
        """`discard` removes vectors that a call has used and ignores unknown keys."""
        journal = MemoryJournal()
        journal.put(keys("a", "b"), vectors(2), space=SPACE)
        journal.discard(keys("a", "unknown"))
        assert numbers(journal.get(keys("a", "b"))[0]) == [1]
        assert journal.stats().vectors == 1

    def test_tells_one_spaces_keys_from_anothers(self) -> None:
        """Objects with different models may share a journal, which lists their keys separately."""
        journal, other = MemoryJournal(), replace(SPACE, model="text-embedding-3-large")
        journal.put(keys("a", "b"), vectors(2), space=SPACE)
        journal.put(keys("a", space=other), vectors(1), space=other)
        assert journal.keys(SPACE) == keys("a", "b")
        assert journal.keys(other) == keys("a", space=other)

    def test_pickled_copy_is_empty(self) -> None:
        """A pickled copy is empty, so that vectors are not sent to worker processes."""
        journal = MemoryJournal()
        journal.put(keys("a"), vectors(1), space=SPACE)
        copy = pickle.loads(pickle.dumps(journal))  # noqa: S301 - our own
        assert (copy.stats().vectors, journal.stats().vectors) == (0, 1)
