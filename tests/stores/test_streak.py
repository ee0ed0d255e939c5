"""The number of failures in a row shows whether documents or the store are at fault."""

from langchain_batch_embed.stores.streak import BATCHES, DOCUMENTS, FATAL, MANY, Streak


def test_two_hundred_in_a_row_are_one_bad_file() -> None:
    """Two hundred failures in a row may be one bad file, however many whole batches they fill."""
    streak = Streak()
    for _ in range(200):
        streak.failed()
        streak.batch_failed()
        assert not streak.is_hopeless


def test_whole_batches_one_after_the_other_are_hopeless() -> None:
    """Several whole batches in a row are hopeless, and so is any very long run of failures."""
    streak = Streak()
    for _ in range(DOCUMENTS):
        streak.failed()
    for _ in range(BATCHES):
        assert not streak.is_hopeless
        streak.batch_failed()
    assert streak.is_hopeless
    many = Streak()
    for _ in range(MANY):
        assert not many.is_hopeless
        many.failed()
    assert many.is_hopeless


def test_what_is_stored_in_between_ends_a_streak() -> None:
    """A stored document ends a streak of documents and of batches."""
    streak = Streak()
    for _ in range(MANY - 1):
        streak.failed()
        streak.batch_failed()
    streak.stored()
    streak.failed()
    assert not streak.is_hopeless


def test_a_reason_that_concerns_all_ends_it_sooner() -> None:
    """A cause that affects all documents ends an ingest sooner, soonest if nothing was stored.

    Two failures of another kind before these make no difference.
    """
    streak = Streak()
    streak.failed(fatal=True)
    assert not streak.is_hopeless
    streak.failed(fatal=True)
    assert streak.is_hopeless
    streak.stored()
    for _ in range(FATAL):
        assert not streak.is_hopeless
        streak.failed(fatal=True)
    assert streak.is_hopeless
    streak.failed()
    assert not streak.is_hopeless
