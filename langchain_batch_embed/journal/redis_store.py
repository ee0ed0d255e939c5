"""A LangChain `ByteStore` on Redis or Valkey, for a journal that several machines share."""

import re
from collections.abc import Iterator, Sequence
from typing import Any

from langchain_core.stores import BaseStore

from langchain_batch_embed.errors import OptionError
from langchain_batch_embed.journal.redis_url import shown_url

__all__ = ["RedisStore"]


class RedisStore(BaseStore[str, bytes]):
    """A `ByteStore` that keeps its values on a Redis or Valkey server.

    `mget`, `mset` and `mdelete` take one round trip each, whatever the number of keys. A store can
    be pickled, so that each worker opens a connection of its own. The class needs
    `langchain-batch-embed[redis]`.

    Args:
        url: the server's URL for redis-py, with the scheme `redis://`, `rediss://` or `unix://`.
        seconds: how long the server keeps a value; `None` to keep it until it is deleted. A vector
            of 1,536 dimensions takes 6.2 KB of the server's memory.
        prefix: a string to put in front of each key.

    Raises:
        OptionError: redis-py is not installed, or cannot read the URL.
    """

    def __init__(self, url: str, *, seconds: int | None = None, prefix: str = "") -> None:
        try:
            import redis  # noqa: PLC0415  # needed only if the class is used
        except ImportError:
            raise OptionError(
                "RedisStore needs redis-py: pip install 'langchain-batch-embed[redis]'"
            ) from None
        try:
            self._client: Any = redis.Redis.from_url(url)
        except ValueError:  # the error's message may quote a password
            raise OptionError(
                "RedisStore needs the URL of a Redis or Valkey server: redis://host:6379/0"
            ) from None
        self._options = (url, seconds, prefix)
        self._seconds = seconds
        self._prefix = prefix

    def __repr__(self) -> str:
        return f"RedisStore({shown_url(self._options[0])!r})"

    def __getstate__(self) -> tuple[str, int | None, str]:
        return self._options

    def __setstate__(self, state: tuple[str, int | None, str]) -> None:
        url, seconds, prefix = state
        RedisStore.__init__(self, url, seconds=seconds, prefix=prefix)

    def mget(self, keys: Sequence[str]) -> list[bytes | None]:
        """Return the value of each key, or `None` for a key that has none."""
        if not keys:
            return []
        found: list[bytes | None] = self._client.mget([self._prefix + key for key in keys])
        return found

    def mset(self, key_value_pairs: Sequence[tuple[str, bytes]]) -> None:
        """Store all pairs of a key and its value."""
        if not key_value_pairs:
            return
        pairs = {self._prefix + key: value for key, value in key_value_pairs}
        if self._seconds is None:
            self._client.mset(pairs)
            return
        pipeline = self._client.pipeline(transaction=False)
        for key, value in pairs.items():
            pipeline.set(key, value, ex=self._seconds)
        pipeline.execute()

    def mdelete(self, keys: Sequence[str]) -> None:
        """Delete these keys; unknown keys are ignored."""
        if keys:
            self._client.unlink(*(self._prefix + key for key in keys))

    def yield_keys(self, *, prefix: str | None = None) -> Iterator[str]:
        """Yield all keys, or only those that begin with `prefix`."""
        begin = self._prefix + (prefix or "")
        pattern = re.sub(r"([\[\]*?\\^])", r"\\\1", begin) + "*"
        for key in self._client.scan_iter(match=pattern, count=1000):
            yield key.decode().removeprefix(self._prefix)
