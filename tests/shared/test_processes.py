"""Threads, processes and a real Valkey server work together."""

import logging
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator

import pytest
from langchain_openai import OpenAIEmbeddings
from pydantic import SecretStr
from pytest_mock import MockerFixture

from langchain_batch_embed import BatchEmbeddings, SharedQuota
from langchain_batch_embed.shared.bucket import SharedBucket
from langchain_batch_embed.shared.exchange import Exchange
from langchain_batch_embed.shared.redis_ledger import RedisLedger
from tests.support import LocalServer, assert_right, prose, wait_until
from tests.valkey_server import Server, needs_server, running

pytestmark = needs_server


@pytest.fixture
def lone() -> Iterator[Server]:
    """Start a server that the test may stop."""
    with running() as server:
        yield server


def make(server: LocalServer, url: str, **options: object) -> BatchEmbeddings:
    """Return embeddings with a shared quota."""
    wrapped = OpenAIEmbeddings(
        base_url=server.url, api_key=SecretStr("any"), dimensions=8, model="text-embedding-3-small"
    )
    return BatchEmbeddings(
        wrapped,
        quota=SharedQuota(url),
        max_tokens_per_request=2_000,
        hedge=False,
        **options,  # type: ignore[arg-type]
    )


def texts(count: int, begin: int = 0) -> list[str]:
    """Return texts of about 100 tokens."""
    return [prose(100, seed) for seed in range(begin, begin + count)]


def close(*made: BatchEmbeddings) -> None:
    """Close the connections of the embeddings."""
    for embeddings in made:
        embeddings.embeddings.client._client.close()  # type: ignore[attr-defined]


def leasers() -> list[threading.Thread]:
    """Return the threads that talk to a ledger."""
    return [each for each in threading.enumerate() if each.name == "batch-embed-lease"]


def test_two_objects_keep_to_one_quota(server: LocalServer, valkey: Server) -> None:
    """Two objects share one quota: both get their vectors and at most 10 % is refused."""
    server.configure(tokens_per_minute=1_000_000, bucket_seconds=1.0, latency=0.05)
    both = [make(server, valkey.url) for _ in range(2)]
    results: dict[int, object] = {}

    def embed(number: int) -> None:
        results[number] = both[number].embed_numpy(texts(300, 1000 * number))

    threads = [threading.Thread(target=embed, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in range(2):
        assert_right(results[number], texts(300, 1000 * number))  # type: ignore[arg-type]
    stats = server.stats()
    assert stats["by_status"].get("429", 0) <= 0.1 * stats["requests"]
    close(*both)


def test_the_thread_ends_with_the_last_call(server: LocalServer, valkey: Server) -> None:
    """The lease's thread ends with the last call and returns its amount; a new call restarts it."""
    embeddings = make(server, valkey.url, tokens_per_minute=6_000_000)
    for _ in range(2):
        assert len(embeddings.embed_numpy(texts(5))) == 5
        wait_until(lambda: not leasers())
    tokens = embeddings._pipeline.dispatcher.sender.deployments[0].pacer.tokens
    assert isinstance(tokens, SharedBucket)
    assert tokens.balance <= 0
    close(embeddings)


def test_a_server_that_stops_and_comes_back(
    server: LocalServer, lone: Server, caplog: pytest.LogCaptureFixture
) -> None:
    """While the server is stopped nothing is lost or hangs, and the log reports it once."""
    server.configure(tokens_per_minute=600_000, bucket_seconds=1.0, latency=0.05)
    embeddings = make(server, lone.url)
    given = texts(900)
    with caplog.at_level(logging.WARNING, logger="langchain_batch_embed.shared"):
        done: list[object] = []
        call = threading.Thread(target=lambda: done.append(embeddings.embed_numpy(given)))
        call.start()
        wait_until(lambda: server.stats()["requests"] > 10)
        os.kill(lone.pid, signal.SIGSTOP)
        try:
            wait_until(lambda: "does not answer" in caplog.text)
            before = server.stats()["requests"]
            wait_until(lambda: server.stats()["requests"] > before + 3)
        finally:
            os.kill(lone.pid, signal.SIGCONT)
        wait_until(lambda: "answers again" in caplog.text)
        call.join()
    assert_right(done[0], given)  # type: ignore[arg-type]
    assert caplog.text.count("does not answer") == 1
    close(embeddings)


def test_a_server_that_loses_everything(server: LocalServer, lone: Server) -> None:
    """A call completes although the server loses all its data."""
    import redis  # noqa: PLC0415  # skipped without it

    server.configure(tokens_per_minute=600_000, bucket_seconds=1.0, latency=0.05)
    embeddings = make(server, lone.url)
    given = texts(500)
    done: list[object] = []
    call = threading.Thread(target=lambda: done.append(embeddings.embed_numpy(given)))
    call.start()
    wait_until(lambda: server.stats()["requests"] > 10)
    client = redis.Redis.from_url(lone.url)
    client.flushall()
    client.close()
    call.join()
    assert_right(done[0], given)  # type: ignore[arg-type]
    close(embeddings)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_process_is_a_worker_of_its_own(server: LocalServer, valkey: Server) -> None:
    """A call after a fork completes in the child, and then again in the parent."""
    program = textwrap.dedent(
        f"""
        import os
        from langchain_openai import OpenAIEmbeddings
        from langchain_batch_embed import BatchEmbeddings, SharedQuota

        embeddings = BatchEmbeddings(
            OpenAIEmbeddings(
                base_url={server.url!r},
                api_key="any",
                dimensions=8,
                model="text-embedding-3-small",
            ),
            quota=SharedQuota({valkey.url!r}),
        )
        assert len(embeddings.embed_documents(["parent"])) == 1
        child = os.fork()
        if child == 0:
            assert len(embeddings.embed_documents(["child"])) == 1
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert len(embeddings.embed_documents(["again"])) == 1
        """
    )
    done = subprocess.run(  # noqa: S603  # our own code
        [sys.executable, "-W", "ignore", "-c", program],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_query_needs_one_lease(
    server: LocalServer, valkey: Server, mocker: MockerFixture
) -> None:
    """A single query asks the ledger for tokens once, and gives back what it does not use."""
    exchange = mocker.spy(RedisLedger, "exchange")
    embeddings = make(server, valkey.url, tokens_per_minute=6_000_000)
    assert len(embeddings.embed_query("a question")) == 8
    wait_until(lambda: not leasers())
    made: list[Exchange] = [call.args[1] for call in exchange.call_args_list]
    assert len([each for each in made if each.claims["tokens"].ask > 0]) == 1
    assert made[-1].leaves
    assert made[-1].claims["tokens"].held == 0
    assert len(made) <= 5
    close(embeddings)
