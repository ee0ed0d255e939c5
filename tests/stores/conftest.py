"""Fills real stores, with either class of embeddings and one and the same caller."""

from collections.abc import Callable, Iterator
from typing import Any, Final

import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_openai import OpenAIEmbeddings

from langchain_batch_embed import BatchEmbeddings
from tests.stores.callers import CALLERS
from tests.stores.corpus import corpus
from tests.stores.places import Places, missing_packages

# Any, because what a store can beside `VectorStore`'s methods is what its tests are about.
Fill = Callable[[str, list[Document], Embeddings], Any]

_not_tested: Final[set[str]] = set()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say which stores were not tested, also where pytest keeps the reasons of skips back."""
    for reason in sorted(_not_tested):
        terminalreporter.write_line(f"NOT TESTED: {reason}", yellow=True)


@pytest.fixture(scope="session")
def places() -> Iterator[Places]:
    """Keep the databases' servers for the session."""
    with Places() as places:
        yield places


@pytest.fixture
def fill(places: Places, monkeypatch: pytest.MonkeyPatch) -> Fill:
    """Return a function that runs the caller of a name in a fresh place."""

    def fill(name: str, documents: list[Document], embeddings: Embeddings) -> Any:
        if missing := missing_packages(name):
            reason = f"{name} needs {' and '.join(missing)}: pip install -e '.[stores]'"
            _not_tested.add(reason)
            pytest.skip(reason)
        for variable, value in places.fresh(name).items():
            monkeypatch.setenv(variable, value)
        return CALLERS[name](documents, embeddings)

    return fill


@pytest.fixture
def plain(openai_embeddings: Callable[..., OpenAIEmbeddings]) -> OpenAIEmbeddings:
    """The class that most people use, asking the local server.

    It sends strings: for token arrays it would need a vocabulary that is downloaded.
    """
    return openai_embeddings(check_embedding_ctx_length=False)


@pytest.fixture
def batching(plain: OpenAIEmbeddings) -> BatchEmbeddings:
    """The same, wrapped."""
    return BatchEmbeddings(plain)


@pytest.fixture(params=["plain", "batching"])
def embeddings(request: pytest.FixtureRequest) -> Embeddings:
    """First the one and then the other: each test with this runs twice."""
    chosen: Embeddings = request.getfixturevalue(request.param)
    return chosen


@pytest.fixture
def documents() -> list[Document]:
    """300 documents."""
    return corpus()
