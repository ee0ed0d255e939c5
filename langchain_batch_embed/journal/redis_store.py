"""A LangChain `ByteStore` on Redis or Valkey, for a journal that machines share."""

import re
from collections.abc import Iterator, Sequence
from typing import Any

from langchain_core.stores import BaseStore

from langchain_batch_embed.errors import OptionError
from langchain_batch_embed.journal.redis_url import shown_url

__all__ = ["RedisStore"]


class RedisStore(BaseStore[str, bytes]):
    """A `ByteStore` whose values are kept on a Redis or Valkey server.

    Each call is one round trip, whatever the number of keys. It can be pickled, so that each worker
    opens a connection of its own. Needs `langchain-batch-embed[redis]`.

    Args:
        url: of the server, for redis-py: `redis://`, `rediss://` or `unix://`.
        seconds: for which a value is kept; `None`: until it is deleted. A vector of 1,536
            dimensions takes 6.2 KB of the server's memory.
        prefix: in front of each key.

    Raises:
        OptionError: redis-py is not installed, or cannot read the URL.
    """

    def __init__(self, url: str, *, seconds: int | None = None, prefix: str = "") -> None:
        try:
            import redis  # noqa: PLC0415  # only those who use it need it
        except ImportError:
            raise OptionError(
                "RedisStore needs redis-py: pip install 'langchain-batch-embed[redis]'"
            ) from None
        try:
            self._client: Any = redis.Redis.from_url(url)
        except ValueError:  # its message may quote a password
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
        """Return the value of each key; `None` where there is none."""
        if not keys:
            return []
        found: list[bytes | None] = self._client.mget([self._prefix + key for key in keys])
        return found

    def mset(self, key_value_pairs: Sequence[tuple[str, bytes]]) -> None:
        """Set all pairs."""
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
        """Delete the keys that are there."""
        if keys:
            self._client.unlink(*(self._prefix + key for key in keys))

    def yield_keys(self, *, prefix: str | None = None) -> Iterator[str]:
        """Yield all keys, or those that begin with a prefix."""
        begin = self._prefix + (prefix or "")
        pattern = re.sub(r"([\[\]*?\\^])", r"\\\1", begin) + "*"
        for key in self._client.scan_iter(match=pattern, count=1000):
            yield key.decode().removeprefix(self._prefix)
