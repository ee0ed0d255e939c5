"""A `SharedQuota` checks its values and lets no secret leave the process."""

import logging
import pickle
import re
import sys
from typing import Any

import pytest
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_openai import OpenAIEmbeddings
from pydantic import SecretStr

from langchain_batch_embed import BatchEmbeddings, OptionError, SharedQuota
from langchain_batch_embed.providers.identity import account_of
from langchain_batch_embed.shared import Lease, open_ledger
from tests.valkey_server import Server, needs_server

SECRET = "sk-very-secret-0123456789"  # noqa: S105  # an invented key


def openai(key: str = SECRET, **options: Any) -> OpenAIEmbeddings:
    """Return OpenAI's class for a server that receives no requests."""
    made = {"base_url": "http://127.0.0.1:9/v1", "model": "text-embedding-3-small", **options}
    return OpenAIEmbeddings(api_key=SecretStr(key), **made)


def account(embeddings: OpenAIEmbeddings, address: str = "https://api.openai.com/v1") -> str:
    """Return the digest of an account."""
    return account_of(embeddings, address=address, model=embeddings.model)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("redis://host:6379/0", "quota must be a SharedQuota"),
        (60_000, "quota must be a SharedQuota"),
    ],
)
def test_a_quota_is_an_object(value: Any, message: str) -> None:
    """A quota that is not a `SharedQuota` raises an error that shows how to make one."""
    with pytest.raises(OptionError, match=message):
        BatchEmbeddings(DeterministicFakeEmbedding(size=3), quota=value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("host:6379",), "needs the URL"),
        ((6379,), "needs the URL"),
        (("redis://host", ""), "account must be a name"),
        (("redis://host", "mine", 0), "workers must be a whole number of at least 1"),
        (("redis://host", "mine", True), "workers must be a whole number of at least 1"),
        (("redis://host", "mine", 2.0), "workers must be a whole number of at least 1"),
    ],
)
def test_values_that_cannot_work_are_an_error(arguments: Any, message: str) -> None:
    """Impossible values raise an error when the object is made, not with the first request."""
    with pytest.raises(OptionError, match=message):
        SharedQuota(*arguments)


@needs_server
def test_a_url_that_redis_cannot_read_is_an_error_without_its_password() -> None:
    """An invalid URL raises an error without redis-py's message, which may quote the password."""
    quota = SharedQuota(f"http://:{SECRET}@host")
    with pytest.raises(OptionError) as caught:
        BatchEmbeddings(openai(), quota=quota)
    assert "redis://host:6379/0" in str(caught.value)
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None


def test_without_redis_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the redis package the error names the extra to install."""
    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(OptionError, match=r"langchain-batch-embed\[redis\]"):
        BatchEmbeddings(openai(), quota=SharedQuota("redis://host"))


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (f"redis://user:{SECRET}@host:6379/0", "redis://host:6379/0"),
        (f"redis://user:an@{SECRET}@host:6379/0", "redis://host:6379/0"),
        (f"redis://user:a/b#{SECRET}@host:6379/0", "redis://host:6379/0"),
        (f"redis://host:6379/0?password={SECRET}", "redis://host:6379/0"),
        (f"redis://host:6379/0?password=a@{SECRET}", "redis://..."),
        (f"redis://user:a?{SECRET}@host:6379/0", "redis://..."),
        (f"unix://user:{SECRET}@/run/redis.sock?db=1", "unix:///run/redis.sock"),
        ("redis://[::1]:6379", "redis://[::1]:6379"),
    ],
)
def test_the_url_is_shown_without_its_password(url: str, shown: str) -> None:
    """Neither `repr` nor `str` contains the password, wherever and however the URL has it."""
    quota = SharedQuota(url)
    assert SECRET not in repr(quota)
    assert str(quota) == shown


def test_a_pickled_object_keeps_its_quota() -> None:
    """A pickled object keeps its quota, so workers of Ray or of a process pool share it."""
    pytest.importorskip("redis")
    quota = SharedQuota("redis://127.0.0.1:9/0", account="ours", workers=4)
    embeddings = pickle.loads(pickle.dumps(BatchEmbeddings(openai(), quota=quota)))  # noqa: S301
    assert embeddings._options.quota == quota


def test_the_account_is_a_digest_of_server_model_and_key() -> None:
    """The account's digest depends on server, model and key, and on no other option."""
    names = [
        account(openai()),
        account(openai("another key")),
        account(openai(model="text-embedding-3-large")),
        account(openai(), address="https://example.com"),
    ]
    assert len(set(names)) == 4
    assert account(openai(timeout=3.0, chunk_size=7)) == names[0]
    assert all(re.fullmatch("[0-9a-f]{32}", name) for name in names)


def test_a_token_that_is_renewed_does_not_name_the_account() -> None:
    """A renewed token does not change the account.

    Azure's tokens last an hour, and workers renew them at different times.
    """

    class Renewed(DeterministicFakeEmbedding):
        azure_ad_token: SecretStr = SecretStr("first")

    one, other = Renewed(size=3), Renewed(size=3, azure_ad_token=SecretStr("second"))
    name = account_of(one, address="a", model="m")
    assert name == account_of(other, address="a", model="m")


@needs_server
def test_the_server_is_given_no_secret(valkey: Server) -> None:
    """The server's keys and values contain only digests, numbers and a worker's random name."""
    import redis  # noqa: PLC0415  # skipped without it

    quota = SharedQuota(valkey.url)
    ledger = open_ledger(quota, account(openai()))
    lease = Lease("worker", draw=lambda: 0.0, tokens_per_minute=60.0)
    ledger.exchange(lease.begin(0.0, in_flight={"tokens": 0.0, "requests": 0.0}))
    ledger.close()
    client = redis.Redis.from_url(valkey.url)
    keys: list[Any] = [key for key in client.keys("lbe:*") if account(openai()).encode() in key]
    kept = b"".join(client.dump(key) or b"" for key in keys) + b"".join(keys)
    ttls = [client.pttl(key) for key in keys]
    client.close()
    assert len(keys) == 3
    assert SECRET.encode() not in kept
    assert b"openai" not in kept
    assert all(0 < ttl <= 600_000 for ttl in ttls)


@needs_server
def test_accounts_that_the_user_names_are_one(valkey: Server) -> None:
    """Several keys of one organisation share the quota of an account that the user names."""
    quota = SharedQuota(valkey.url, account="ours")
    nothing = {"tokens": 0.0, "requests": 0.0}
    for number, key in enumerate(("first key", "second key"), 1):
        ledger = open_ledger(quota, account(openai(key)))
        lease = Lease(f"worker {number}", draw=lambda: 0.0, tokens_per_minute=60.0)
        assert ledger.exchange(lease.begin(0.0, in_flight=nothing)).workers == number
        ledger.close()


@needs_server
def test_a_script_that_the_server_forgot_is_sent_again(valkey: Server) -> None:
    """If the server forgot the script, as after `SCRIPT FLUSH`, it is sent again."""
    import redis  # noqa: PLC0415  # skipped without it

    ledger = open_ledger(SharedQuota(valkey.url, account="flushed"), "")
    lease = Lease("worker", draw=lambda: 0.0, tokens_per_minute=60.0)
    nothing = {"tokens": 0.0, "requests": 0.0}
    lease.accept(ledger.exchange(lease.begin(0.0, in_flight=nothing)), 0.0)
    client = redis.Redis.from_url(valkey.url)
    client.script_flush()
    client.close()
    reply = ledger.exchange(lease.begin(1.0, in_flight=nothing))
    ledger.close()
    assert reply.balances["tokens"].rate == 1.0


def test_a_server_that_is_not_there_stops_nobody(
    server: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """If no server answers, the texts are embedded and the log says that nothing is shared."""
    pytest.importorskip("redis")
    embeddings = BatchEmbeddings(
        OpenAIEmbeddings(base_url=server.url, api_key=SecretStr("any")),
        quota=SharedQuota("redis://127.0.0.1:9/0"),
    )
    with caplog.at_level(logging.WARNING):
        assert embeddings.embed_numpy(["one", "two"]).shape == (2, 1536)
    assert "does not answer (ConnectionError)" in caplog.text
    embeddings.embeddings.client._client.close()  # type: ignore[attr-defined]
