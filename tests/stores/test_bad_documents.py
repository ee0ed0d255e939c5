"""Two hundred bad documents, wherever they stand and whoever refuses them: exactly they fail."""

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
    """An error that says nothing of who is the cause."""


def refuse(word: str) -> Callable[[list[str]], None]:
    """Return what refuses all of the texts of a call if one holds the word."""

    def check(texts: list[str]) -> None:
        if any(word in text for text in texts):
            raise RefusedError("invalid input")

    return check


def given(bad: Collection[int], words: tuple[str, ...]) -> list[Document]:
    """Return documents, the bad ones with these words in turn."""
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
    """The store refuses NUL, the provider POISON, and both among them by turns."""
    bad = PLACES[place]
    embeddings = batching(CountingEmbeddings(before=refuse("POISON")))
    store = make(embeddings, refuse("NUL"))
    report = embeddings.ingest(store, given(bad, words))
    assert [failure.index for failure in report.failures] == sorted(bad)
    assert report.stored == COUNT - len(bad)
    assert len(store.rows) == COUNT - len(bad)
