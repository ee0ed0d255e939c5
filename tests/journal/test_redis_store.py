"""`RedisStore` is a `ByteStore` that machines share, with one round trip a call."""

import itertools
import pickle
import sys

import numpy as np
import pytest

from langchain_batch_embed import ByteStoreJournal, OptionError, RedisStore, Space
from langchain_batch_embed.journal import content_keys
from tests.valkey_server import Server, needs_server

numbers = itertools.count()


@pytest.fixture
def store(valkey: Server) -> RedisStore:
    """Return a store with its own prefix of keys."""
    return RedisStore(valkey.url, prefix=f"test{next(numbers)}*:")


@needs_server
def test_values_come_back_in_order(store: RedisStore) -> None:
    """Values come back in the order of the keys, with `None` for each missing one."""
    store.mset([("a", b"1"), ("b", b"\x00\xff")])
    assert store.mget(["b", "c", "a"]) == [b"\x00\xff", None, b"1"]
    assert sorted(store.yield_keys()) == ["a", "b"]
    assert list(store.yield_keys(prefix="b")) == ["b"]
    store.mdelete(["a", "c"])
    assert store.mget(["a"]) == [None]


@needs_server
def test_nothing_is_nothing(store: RedisStore) -> None:
    """Empty calls succeed, although the server would refuse an empty command."""
    store.mset([])
    store.mdelete([])
    assert store.mget([]) == []
    assert list(store.yield_keys()) == []


@needs_server
def test_a_value_is_kept_for_as_long_as_asked(valkey: Server) -> None:
    """A value expires on the server after the given seconds."""
    store = RedisStore(valkey.url, seconds=60, prefix="short:")
    store.mset([("a", b"1")])
    assert 0 < store._client.ttl("short:a") <= 60


@needs_server
def test_a_pickled_store_opens_its_own_connection(store: RedisStore) -> None:
    """A pickled store opens its own connection, as in each worker of Ray."""
    store.mset([("a", b"1")])
    copy = pickle.loads(pickle.dumps(store))  # noqa: S301  # our own
    assert copy.mget(["a"]) == [b"1"]
    assert copy._client is not store._client


@needs_server
def test_a_look_up_of_many_keys_is_one_command(store: RedisStore) -> None:
    """A look-up of many keys is one command, as a round trip a key would cost too much."""
    before = store._client.info("commandstats").get("cmdstat_mget", {"calls": 0})["calls"]
    store.mget([str(number) for number in range(1000)])
    assert store._client.info("commandstats")["cmdstat_mget"]["calls"] == before + 1


@needs_server
def test_it_keeps_a_journal(store: RedisStore) -> None:
    """A journal in the store finds its vectors again."""
    journal = ByteStoreJournal(store)
    space = Space(provider="p", model="m")
    keys = content_keys(["one", "two"], space)
    journal.put(keys, np.ones((2, 3), dtype=np.float32), space=space)
    found, vectors = journal.get([*keys, b"another"])
    assert found.tolist() == [0, 1]
    assert vectors.tolist() == np.ones((2, 3)).tolist()


def test_errors_say_what_to_do_and_hold_no_password(monkeypatch: pytest.MonkeyPatch) -> None:
    """Errors for a wrong URL or a missing package say what to do and contain no password."""
    pytest.importorskip("redis")
    with pytest.raises(OptionError, match="redis://host:6379/0") as caught:
        RedisStore("http://:secret@host")
    assert "secret" not in str(caught.value)
    assert "secret" not in repr(RedisStore("redis://:secret@host"))
    assert repr(RedisStore("redis://host:1/2?password=secret")) == "RedisStore('redis://host:1/2')"
    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(OptionError, match=r"langchain-batch-embed\[redis\]"):
        RedisStore("redis://host")
