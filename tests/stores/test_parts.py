"""Batches are written in parts, in order, and calls that were too large lower the limit."""

import pytest
from langchain_core.documents import Document

from langchain_batch_embed.stores.documents import Item
from langchain_batch_embed.stores.parts import Part, Parts
from langchain_batch_embed.stores.troubles import Trouble
from langchain_batch_embed.stores.write_size import WriteSize


def parts(count: int, *, most: int = 100) -> tuple[Parts, WriteSize]:
    """Return parts with this many documents, and the size of their calls."""
    size = WriteSize(most)
    made = Parts(size)
    made.begin([Item(i, Document(str(i)), None) for i in range(count)])
    return made, size


def take(made: Parts) -> Part:
    """Return the next part."""
    part = made.next()
    assert part is not None
    return part


def indices(part: Part) -> list[int]:
    """Return the positions of a part's documents."""
    return [item.index for item in part.items]


def test_no_part_is_larger_than_a_call_may_be() -> None:
    """No part exceeds the size of a call, and the documents stay in order."""
    made, _ = parts(5, most=2)
    assert [indices(take(made)) for _ in range(3)] == [[0, 1], [2, 3], [4]]
    assert made.next() is None


def test_halves_come_next_with_the_trouble_of_the_whole() -> None:
    """After a part is halved, its halves come next, in order, with the trouble of the whole."""
    made, _ = parts(3)
    whole = take(made)
    whole.trouble = Trouble.REFUSED
    made.halve(whole)
    halves = [take(made), take(made)]
    assert [indices(half) for half in halves] == [[0, 1], [2]]
    assert {half.trouble for half in halves} == {Trouble.REFUSED}


def test_a_halved_call_that_loses_nothing_was_too_large() -> None:
    """If both halves of a call succeed, the call was too large, so the limit drops to half."""
    made, size = parts(8)
    made.halve(take(made))
    for _ in range(2):
        made.close(take(made), lost=False)
    assert size.limit == 4


@pytest.mark.parametrize("trouble", [Trouble.TIMED_OUT, Trouble.TOO_LARGE])
def test_a_call_whose_error_was_about_its_size_counts_once(
    monkeypatch: pytest.MonkeyPatch, trouble: Trouble
) -> None:
    """A call that timed out or was too large reduces the limit at once, and not again later.

    Counted twice, a single time-out would look like a limit of the store.
    """
    made, size = parts(8)
    refused: list[int] = []
    monkeypatch.setattr(size, "refused", refused.append)
    whole = take(made)
    whole.trouble = trouble
    made.halve(whole)
    assert refused == [8]
    for _ in range(2):
        made.close(take(made), lost=False)
    assert refused == [8]


def test_a_halved_call_that_loses_a_document_was_not_too_large() -> None:
    """If a half loses a document, the document was the cause, so the limit stays."""
    made, size = parts(4)
    made.halve(take(made))
    made.halve(take(made))
    made.close(take(made), lost=True)
    while (part := made.next()) is not None:
        made.close(part, lost=False)
    assert size.limit == 100


def test_a_half_that_is_cut_further_is_settled_with_its_last_piece(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A half that is cut further counts as lost if its last piece is lost.

    The limit may fall while the halves wait.
    """
    made, size = parts(8)
    made.halve(take(made))
    size.limit = 2
    refused: list[int] = []
    monkeypatch.setattr(size, "refused", refused.append)
    pieces = [take(made) for _ in range(4)]
    for piece in pieces[:-1]:
        made.close(piece, lost=False)
    made.close(pieces[-1], lost=True)
    assert refused == []
