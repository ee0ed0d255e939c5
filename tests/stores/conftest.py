"""Fixtures that fill real stores, with either class of embeddings and the same caller."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_openai import OpenAIEmbeddings

from langchain_batch_embed import BatchEmbeddings
from langchain_batch_embed.commands.offline import use_offline_tiktoken
from tests.stores.callers import CALLERS
from tests.stores.corpus import corpus
from tests.stores.places import Places, missing_packages
from tests.stores.reading import close
from tests.support import treat_as_known

# Any, because the tests use store features beyond the methods of `VectorStore`.
Fill = Callable[[str, list[Document], Embeddings], Any]

NOT_TESTED: Final = "NOT TESTED: "

# Warnings of the stores' packages about themselves. Our own warnings are errors, as everywhere.
_NOT_OURS: Final = (
    "ignore:The '(timeout|verify)' parameter is deprecated:DeprecationWarning",  # supabase
)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print which stores were not tested, even where pytest hides the reasons of skips."""
    skips = [report.longrepr for report in terminalreporter.stats.get("skipped", [])]
    for reason in sorted({skip[2] for skip in skips if NOT_TESTED in skip[2]}):
        terminalreporter.write_line(reason, yellow=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Ignore the warnings that other packages raise in this folder's tests."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            for warning in _NOT_OURS:
                item.add_marker(pytest.mark.filterwarnings(warning))


@pytest.fixture(scope="session")
def places() -> Iterator[Places]:
    """Keep the database servers for the whole session."""
    with Places() as places:
        yield places


@pytest.fixture
def fill(places: Places, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fill]:
    """Return a function that runs the caller of a given name in a fresh place."""
    filled = []

    def fill(name: str, documents: list[Document], embeddings: Embeddings) -> Any:
        if missing := missing_packages(name):
            reason = f"{name} needs {' and '.join(missing)}: pip install -e '.[stores]'"
            pytest.skip(NOT_TESTED + reason)
        for variable, value in places.fresh(name).items():
            monkeypatch.setenv(variable, value)
        store = CALLERS[name](documents, embeddings)
        filled.append((name, store))
        return store

    yield fill
    for name, store in filled:
        close(name, store)


@pytest.fixture(scope="session", autouse=True)
def tiktoken_without_download() -> None:
    """Give `OpenAIEmbeddings` the vocabulary that it would download."""
    use_offline_tiktoken()


@pytest.fixture
def plain(openai_embeddings: Callable[..., OpenAIEmbeddings]) -> OpenAIEmbeddings:
    """Return the class that most people use, with its usual settings, for the local server."""
    return openai_embeddings()


@pytest.fixture
def batching(plain: OpenAIEmbeddings) -> BatchEmbeddings:
    """Return the same embeddings, wrapped in `BatchEmbeddings`."""
    return treat_as_known(BatchEmbeddings(plain, hedge=False))


@pytest.fixture(params=["plain", "batching"])
def embeddings(request: pytest.FixtureRequest) -> Embeddings:
    """Return the plain and then the wrapped embeddings, so each test that uses this runs twice."""
    chosen: Embeddings = request.getfixturevalue(request.param)
    return chosen


@pytest.fixture
def documents() -> list[Document]:
    """Return 120 documents."""
    return corpus()


@pytest.fixture
def sqlite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """Return a function that opens an empty SQLiteVec in a file."""
    pytest.importorskip("sqlite_vec")
    monkeypatch.setenv("STORE_FOLDER", str(tmp_path))
    made: list[Any] = []

    def make(embeddings: Embeddings) -> Any:
        made.append(CALLERS["sqlite_vec"]([], embeddings))
        return made[-1]

    yield make
    for store in made:
        store._connection.close()
