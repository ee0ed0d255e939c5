"""Of 1,200 documents exactly the 200 bad ones fail, wherever they are and whatever refuses them."""

from collections.abc import Callable, Collection

import pytest
from langchain_core.documents import Document

from tests.stores.fakes import CountingEmbeddings, NoIdsStore, TableStore, batching

COUNT = 1_200
PLACES = {
    "scattered": range(3, COUNT, 6),
    "first": range(200),
    "in the middle": range(500, 700),
    "last": range(COUNT - 200, COUNT),
    "rows of twenty": [i for begin in range(50, COUNT, 115) for i in range(begin, begin + 20)],
}


class RefusedError(ValueError):
    """An error that does not say which document is the cause."""


def refuse(word: str) -> Callable[[list[str]], None]:
    """Return a function that refuses all texts of a call if one of them contains the word."""

    def check(texts: list[str]) -> None:
        if any(word in text for text in texts):
            raise RefusedError("invalid input")

    return check


def given(bad: Collection[int], words: tuple[str, ...]) -> list[Document]:
    """Return documents whose bad ones contain these words in turn."""
    marks = {index: words[n % len(words)] for n, index in enumerate(sorted(bad))}
    return [Document(f"section {i} {marks.get(i, '')}") for i in range(COUNT)]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        pytest.param(TableStore, ("NUL",), id="the store"),
        pytest.param(TableStore, ("POISON",), id="the provider"),
        pytest.param(TableStore, ("NUL", "POISON"), id="both"),
        pytest.param(NoIdsStore, ("POISON",), id="the provider, without ids"),
    ],
)
@pytest.mark.parametrize("place", PLACES)
def test_exactly_the_bad_ones_fail(
    place: str, words: tuple[str, ...], make: type[TableStore] | type[NoIdsStore]
) -> None:
    """Exactly the bad documents fail, wherever they are.

    The store refuses texts with NUL, the provider those with POISON, and with "both" the bad
    documents contain the two words in turn.
    """
    bad = PLACES[place]
    embeddings = batching(CountingEmbeddings(before=refuse("POISON")))
    store = make(embeddings, refuse("NUL"))
    report = embeddings.ingest(store, given(bad, words))
    assert [failure.index for failure in report.failures] == sorted(bad)
    assert report.stored == COUNT - len(bad)
    assert len(store.rows) == COUNT - len(bad)
