"""`embed_dataset` runs on a small local Ray, with actors, one quota and one journal."""

import os
import signal
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_openai import OpenAIEmbeddings
from pydantic import SecretStr

from langchain_batch_embed import BatchEmbeddings, OptionError, RedisStore, SharedQuota
from tests.support import LocalServer, assert_right
from tests.valkey_server import Server, needs_server

from .actors import pids_of_actors

ray = pytest.importorskip("ray", reason="not installed: ray")
ray_data = pytest.importorskip("ray.data", reason="not installed: ray[data]")
embed = pytest.importorskip("langchain_batch_embed.ray")

pytestmark = [
    needs_server,
    # Ray's own warnings, about files and sockets of its processes and its internal deprecations.
    pytest.mark.filterwarnings("ignore"),
]


@pytest.fixture(scope="session", autouse=True)
def _cluster() -> Iterator[None]:
    """Start Ray with two processors and little memory."""
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=150_000_000,
        configure_logging=False,
    )
    ray_data.DataContext.get_current().enable_progress_bars = False
    yield
    ray.shutdown()


def make(server: LocalServer, valkey: Server, prefix: str, **options: Any) -> BatchEmbeddings:
    """Return embeddings with a shared quota and a shared journal."""
    wrapped = OpenAIEmbeddings(
        base_url=server.url,
        api_key=SecretStr("any"),
        dimensions=8,
        model="text-embedding-3-small",
    )
    return BatchEmbeddings(
        wrapped,
        quota=SharedQuota(valkey.url, account=prefix),
        journal=RedisStore(valkey.url, prefix=prefix),
        **options,
    )


def items(count: int) -> Any:
    """Return a dataset of this many texts in several blocks."""
    rows = [{"number": number, "text": f"text {number}"} for number in range(count)]
    return ray_data.from_items(rows, override_num_blocks=8)


def test_each_row_has_its_vector(server: LocalServer, valkey: Server) -> None:
    """Each row has its vector and its other columns, and one report covers all actors."""
    totals = embed.Totals()
    dataset = embed.embed_dataset(
        items(2000), make(server, valkey, "rows"), batch_size=250, totals=totals
    )
    assert server.stats()["requests"] == 0  # the dataset is lazy
    rows = sorted(dataset.take_all(), key=lambda row: row["number"])
    assert [row["number"] for row in rows] == list(range(2000))
    vectors = np.array([row["embedding"] for row in rows], dtype=np.float32)
    assert_right(vectors, [f"text {number}" for number in range(2000)])
    report = totals.report()
    assert (report.texts, report.failures) == (2000, 0)
    assert report.requests == server.stats()["requests"]
    assert report.tokens == server.stats()["tokens_billed"]


def test_the_type_of_the_column(server: LocalServer, valkey: Server) -> None:
    """The vectors' column is a fixed-size list, as Parquet and stores need."""
    dataset = embed.embed_dataset(items(20), make(server, valkey, "type"), concurrency=1)
    (table,) = ray.get(dataset.repartition(1).to_arrow_refs())
    assert str(table.schema.field("embedding").type).startswith("fixed_size_list<")


def test_a_failed_row_is_null(server: LocalServer, valkey: Server) -> None:
    """With `on_failure="null"` a failed row has a null vector and an error's name."""
    rows = [{"text": text} for text in ("one", None, "three", "")]
    dataset = embed.embed_dataset(
        ray_data.from_items(rows), make(server, valkey, "null"), on_failure="null"
    )
    found = {row["text"]: row for row in dataset.take_all()}
    assert {text for text, row in found.items() if row["embedding"] is None} == {None, ""}
    assert found[None]["embedding_error"] == "InputTypeError"
    assert found[""]["embedding_error"] == "InputError"


def test_a_failure_ends_the_dataset(server: LocalServer, valkey: Server) -> None:
    """By default a failure ends the dataset."""
    dataset = embed.embed_dataset(
        ray_data.from_items([{"text": "one"}, {"text": ""}]), make(server, valkey, "raise")
    )
    with pytest.raises(Exception, match="InputError"):
        dataset.take_all()


def test_a_killed_worker_costs_only_what_was_in_flight(server: LocalServer, valkey: Server) -> None:
    """A killed actor's block is repeated, and the journal supplies what was finished.

    So at most the requests in flight are paid twice.
    """
    server.configure(latency=0.2)
    is_killed = False
    embeddings = make(server, valkey, "killed", max_batch_size=20, max_workers=2)
    out = embed.embed_dataset(items(1600), embeddings, batch_size=200, concurrency=2)
    rows = []
    for batch in out.iter_batches(batch_size=None, batch_format="pyarrow"):
        rows += batch.to_pylist()
        if not is_killed:
            is_killed = True
            os.kill(pids_of_actors()[0], signal.SIGKILL)
    rows.sort(key=lambda row: row["number"])
    assert [row["number"] for row in rows] == list(range(1600))
    vectors = np.array([row["embedding"] for row in rows], dtype=np.float32)
    assert_right(vectors, [f"text {number}" for number in range(1600)])
    stats = server.stats()
    assert stats["inputs_billed"] - stats["texts_billed_distinct"] <= 2 * 20


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"on_failure": "skip"}, "on_failure"),
        ({"concurrency": 0}, "concurrency must be"),
        ({"batch_size": 1.5}, "batch_size must be"),
    ],
)
def test_options_that_cannot_work_are_an_error(options: Any, message: str) -> None:
    """Impossible options raise an error at once, not in an actor."""
    embeddings = BatchEmbeddings(DeterministicFakeEmbedding(size=3))
    with pytest.raises(OptionError, match=message):
        embed.embed_dataset(items(8), embeddings, **options)
    with pytest.raises(OptionError, match="needs BatchEmbeddings"):
        embed.embed_dataset(items(8), DeterministicFakeEmbedding(size=3))


@pytest.mark.parametrize(
    ("given", "options", "message"),
    [
        ([{"text": "a"}], {}, "needs a Ray Data dataset, not list"),
        (None, {"text_column": "body"}, "has no column 'body', but number, text"),
        (None, {"vector_column": "number"}, "has a column 'number' already"),
        (None, {"vector_column": "text"}, "another column than text_column"),
        (None, {"text_column": None}, "must be the name of a column"),
    ],
)
def test_what_cannot_work_is_an_error_at_once(given: Any, options: Any, message: str) -> None:
    """A wrong dataset or column is an error before any actor starts."""
    embeddings = BatchEmbeddings(DeterministicFakeEmbedding(size=4))
    dataset = items(3).materialize() if given is None else given
    with pytest.raises(OptionError, match=message):
        embed.embed_dataset(dataset, embeddings, **options)
