"""A small stand-in for PostgREST, the REST front of Supabase, on a real PostgreSQL.

It answers what the `supabase` client sends for a vector store, and nothing else:

    POST   /rest/v1/documents?columns="content","embedding"   rows, as a JSON array
    POST   /rest/v1/rpc/match_documents?limit=4               the function's arguments
    GET    /rest/v1/documents?select=id,content&id=in.(<uuid>,<uuid>)
    DELETE /rest/v1/documents?id=eq.<uuid>

As in PostgREST, PostgreSQL itself reads and writes the JSON, so types, defaults and errors are
its own. PostgREST looks up tables and functions in a cache of the schema and has error codes of
its own (PGRST...) for missing ones; here PostgreSQL reports them.
"""

import json
import socket
import threading
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, Self

import psycopg
import uvicorn
from psycopg.sql import SQL, Composable, Composed, Identifier
from psycopg_pool import AsyncConnectionPool
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

_INSERT: Final = SQL("""
    WITH written AS (
        INSERT INTO {table} ({columns})
        SELECT {columns} FROM json_populate_recordset(null::{table}, %(rows)s::json)
        {on_conflict}
        RETURNING *
    )
    SELECT coalesce(json_agg(written), '[]')::text FROM written
""")
_MERGE: Final = SQL("ON CONFLICT (id) DO UPDATE SET ({columns}) = ROW ({new_values})")
_CALL: Final = SQL("""
    WITH found AS (SELECT * FROM {function} ({arguments}) LIMIT %(limit)s)
    SELECT coalesce(json_agg(found), '[]')::text FROM found
""")
_SELECT: Final = SQL("""
    WITH found AS (SELECT {columns} FROM {table} WHERE id = ANY (%(ids)s::uuid[]))
    SELECT coalesce(json_agg(found), '[]')::text FROM found
""")
_DELETE: Final = SQL("""
    WITH deleted AS (DELETE FROM {table} WHERE id = %(id)s RETURNING *)
    SELECT coalesce(json_agg(deleted), '[]')::text FROM deleted
""")

# Maps PostgreSQL's errors to HTTP statuses; all others that occur in the tests are 400
# (docs.postgrest.org, "Errors", section "PostgreSQL Errors").
_STATUS: Final[Mapping[str, int]] = {"23505": 409, "42883": 404, "42P01": 404}

_START_SECONDS: Final = 10.0


@dataclass(frozen=True, kw_only=True)
class Served:
    """One request that was answered.

    Attributes:
        method: GET, POST or DELETE.
        path: such as "/rest/v1/documents".
        status: HTTP status of the answer.
        received: bytes of the request's body.
        sent: bytes of the answer's body.
    """

    method: str
    path: str
    status: int
    received: int
    sent: int


class PostgrestStandin:
    """The stand-in server, in a thread of its own, for as long as the `with` block runs.

    Args:
        dsn: how psycopg connects to the database.

    Attributes:
        url: what `create_client` takes; set once the block runs.
        served: every request that was answered, in order. Clear it to start counting again.
    """

    def __init__(self, dsn: str) -> None:
        self.served: list[Served] = []
        self._dsn = dsn
        app = Starlette(
            routes=[
                Route("/rest/v1/rpc/{function}", self._call, methods=["POST"]),
                Route("/rest/v1/{table}", self._insert, methods=["POST"]),
                Route("/rest/v1/{table}", self._select, methods=["GET"]),
                Route("/rest/v1/{table}", self._delete, methods=["DELETE"]),
            ],
            lifespan=self._lifespan,
        )
        self._server = uvicorn.Server(
            uvicorn.Config(
                app, lifespan="on", ws="none", log_level="error", timeout_graceful_shutdown=1
            )
        )
        self._ready = threading.Event()

    def __enter__(self) -> Self:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._thread = threading.Thread(target=self._server.run, args=([self._socket],))
        self._thread.start()
        if not self._ready.wait(_START_SECONDS):
            self.__exit__()
            raise RuntimeError("the stand-in did not start: see standard error for the reason")
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join()
        self._socket.close()

    @asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        # Autocommit, because one request is one statement, which is all or nothing by itself.
        async with AsyncConnectionPool(
            self._dsn, min_size=1, kwargs={"autocommit": True}, open=False
        ) as self._pool:
            self._ready.set()
            yield

    async def _insert(self, request: Request) -> Response:
        """Insert rows, or replace those whose id exists already."""
        table = Identifier(request.path_params["table"])
        names = [name.strip('"') for name in request.query_params["columns"].split(",")]
        columns = _comma_separated([Identifier(name) for name in names])
        on_conflict: Composable = SQL("")
        if "resolution=merge-duplicates" in request.headers.get("prefer", ""):
            new_values = _comma_separated([Identifier("excluded", name) for name in names])
            on_conflict = _MERGE.format(columns=columns, new_values=new_values)
        query = _INSERT.format(table=table, columns=columns, on_conflict=on_conflict)
        rows = (await request.body()).decode()
        return await self._answer(request, query, {"rows": rows}, status=201)

    async def _call(self, request: Request) -> Response:
        """Call a function by the names of its arguments, and return its first rows."""
        given: dict[str, Any] = await request.json()
        query = _CALL.format(
            function=Identifier(request.path_params["function"]),
            arguments=_comma_separated(
                [SQL("{} => {}").format(Identifier(name), _parameter(name)) for name in given]
            ),
        )
        # Sent as text: PostgreSQL knows the arguments' types and reads JSON as a vector or as
        # jsonb.
        values: dict[str, Any] = {f"given_{name}": json.dumps(given[name]) for name in given}
        values["limit"] = request.query_params.get("limit")
        return await self._answer(request, query, values)

    async def _select(self, request: Request) -> Response:
        """Return the rows that have one of some ids."""
        names = request.query_params["select"].split(",")
        ids = request.query_params["id"].removeprefix("in.(").removesuffix(")")
        query = _SELECT.format(
            table=Identifier(request.path_params["table"]),
            columns=_comma_separated([Identifier(name) for name in names]),
        )
        values = {"ids": [name.strip('"') for name in ids.split(",")]}
        return await self._answer(request, query, values)

    async def _delete(self, request: Request) -> Response:
        """Delete one row by its id."""
        table = Identifier(request.path_params["table"])
        value = request.query_params["id"].removeprefix("eq.")
        return await self._answer(request, _DELETE.format(table=table), {"id": value})

    async def _answer(
        self, request: Request, query: Composed, values: Mapping[str, Any], *, status: int = 200
    ) -> Response:
        """Run one statement and answer with its result or its error."""
        async with self._pool.connection() as connection:
            try:
                row = await (await connection.execute(query, values)).fetchone()
                content = row[0].encode() if row else b"[]"
            except psycopg.Error as error:
                status, content = _refusal(error)
        self.served.append(
            Served(
                method=request.method,
                path=request.url.path,
                status=status,
                received=len(await request.body()),
                sent=len(content),
            )
        )
        return Response(content, status, media_type="application/json")


def _comma_separated(parts: Sequence[Composable]) -> Composed:
    return SQL(", ").join(parts)


def _parameter(name: str) -> Composable:
    return psycopg.sql.Placeholder(f"given_{name}")


def _refusal(error: psycopg.Error) -> tuple[int, bytes]:
    """Return the status and the body with which PostgREST reports an error of PostgreSQL."""
    said = error.diag
    body = {
        "code": error.sqlstate,
        "message": said.message_primary,
        "details": said.message_detail,
        "hint": said.message_hint,
    }
    return _STATUS.get(error.sqlstate or "", 400), json.dumps(body).encode()
