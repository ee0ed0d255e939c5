"""Fills real stores, with either class of embeddings and one and the same caller."""

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

# Any, because what a store can beside `VectorStore`'s methods is what its tests are about.
Fill = Callable[[str, list[Document], Embeddings], Any]

NOT_TESTED: Final = "NOT TESTED: "

# Warnings of the stores' packages about themselves; ours are errors, as everywhere.
_NOT_OURS: Final = (
    "ignore:The '(timeout|verify)' parameter is deprecated:DeprecationWarning",  # supabase
)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say which stores were not tested, also where pytest keeps the reasons of skips back."""
    skips = [report.longrepr for report in terminalreporter.stats.get("skipped", [])]
    for reason in sorted({skip[2] for skip in skips if NOT_TESTED in skip[2]}):
        terminalreporter.write_line(reason, yellow=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Ignore, in this folder's tests, what other packages warn of."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            for warning in _NOT_OURS:
                item.add_marker(pytest.mark.filterwarnings(warning))


@pytest.fixture(scope="session")
def places() -> Iterator[Places]:
    """Keep the databases' servers for the session."""
    with Places() as places:
        yield places


@pytest.fixture
def fill(places: Places, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fill]:
    """Hand out a function that runs the caller of a name in a fresh place."""
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
    """The class that most people use, as they use it, asking the local server."""
    return openai_embeddings()


@pytest.fixture
def batching(plain: OpenAIEmbeddings) -> BatchEmbeddings:
    """The same, wrapped."""
    return treat_as_known(BatchEmbeddings(plain, hedge=False))


@pytest.fixture(params=["plain", "batching"])
def embeddings(request: pytest.FixtureRequest) -> Embeddings:
    """First the one and then the other: each test with this runs twice."""
    chosen: Embeddings = request.getfixturevalue(request.param)
    return chosen


@pytest.fixture
def documents() -> list[Document]:
    """120 documents."""
    return corpus()


@pytest.fixture
def sqlite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """Open an empty SQLiteVec, in a file."""
    pytest.importorskip("sqlite_vec")
    monkeypatch.setenv("STORE_FOLDER", str(tmp_path))
    made: list[Any] = []

    def make(embeddings: Embeddings) -> Any:
        made.append(CALLERS["sqlite_vec"]([], embeddings))
        return made[-1]

    yield make
    for store in made:
        store._connection.close()
