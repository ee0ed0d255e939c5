"""Which ids a store receives, and how it shows that it does not keep them."""

from collections.abc import Sequence

import pytest
from langchain_core.documents import Document

from langchain_batch_embed.stores.documents import Item
from langchain_batch_embed.stores.given_ids import GivenIds


def items(*ids: str | None, made: bool = False) -> list[Item]:
    """Return items with these ids."""
    return [Item(i, Document("text"), name, made) for i, name in enumerate(ids)]


@pytest.mark.parametrize(
    ("takes", "passes", "made", "expected"),
    [
        (True, False, True, ["a"]),
        (True, False, False, None),
        (False, False, True, None),
        (False, True, True, ["a"]),  # the user gave them
    ],
)
def test_ids_are_passed_where_the_store_takes_them(
    takes: bool, passes: bool, made: bool, expected: Sequence[str] | None
) -> None:
    """Ids are passed if the store takes them, and always if the user gave them."""
    assert GivenIds(takes=takes, passes=passes).of(items("a"), made=made) == expected


def test_the_last_document_of_an_id_stays() -> None:
    """Of several documents with the same id the last one stays, and so do those without an id."""
    kept, older = GivenIds(takes=True, passes=True).last_of_each(items("a", None, "b", "a"))
    assert [item.index for item in kept] == [1, 2, 3]
    assert [item.index for item in older] == [0]


def test_a_store_that_takes_no_ids_keeps_all_documents() -> None:
    """If a store takes no ids, even documents with equal ids each become a row."""
    _, older = GivenIds(takes=False, passes=True).last_of_each(items("a", "a"))
    assert older == []


@pytest.mark.parametrize(
    ("returned", "kept"),
    [
        (["A-1", "B-2"], True),  # UUIDs without dashes, in capitals
        (["index:a1", "index:b2"], True),  # the form in which Redis returns ids
        (["1", "2"], False),
        ([], True),  # no ids came back, so nothing is known
    ],
)
def test_ids_that_come_back_tell_whether_they_are_kept(
    returned: Sequence[str], kept: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """A store that returns other ids receives none from the next call on, and this is logged."""
    ids = GivenIds(takes=True, passes=False)
    ids.compare(items("a1", "b2", made=True), returned)
    assert ids.are_kept == kept
    assert (ids.of(items("c")) is None) == (not kept)
    assert ("does not keep them" in caplog.text) == (not kept)


def test_documents_whose_ids_do_not_come_back_are_missing() -> None:
    """Documents whose ids do not come back are missing, which is unknown if one has no id."""
    ids = GivenIds(takes=True, passes=True)
    missing = ids.missing(items("a", "b", "c"), ["c", "a"])
    assert missing is not None
    assert [item.id for item in missing] == ["b"]
    assert ids.missing(items("a", None), ["a"]) is None


def test_only_ids_that_were_made_here_may_be_why_a_document_is_refused() -> None:
    """Only ids that were made here may be dropped after a refusal; the user's own ids stay."""
    (made,), (own,) = items("a", made=True), items("a")
    ids = GivenIds(takes=True, passes=False)
    assert ids.may_be_refused(made)
    assert not ids.may_be_refused(own)
    ids.are_refused()
    assert not ids.may_be_refused(made)
    assert not ids.are_kept
