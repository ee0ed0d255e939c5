"""The ledger on a Redis or Valkey server: each exchange runs one script in one round trip."""

from functools import cache
from importlib.resources import files
from typing import Any

from langchain_batch_embed.errors import OptionError
from langchain_batch_embed.shared.exchange import Exchange, Reply

__all__ = ["TIMEOUT", "RedisLedger"]

TIMEOUT = 0.5
"""Seconds allowed for connecting, and for an answer. The script takes a tenth of a millisecond, and
a worker that has waited for `terms.PATIENCE` continues without the ledger anyway."""


class RedisLedger:
    """The ledger of one account and model.

    Args:
        url: the server's URL, in a form that redis-py reads.
        account: a name that distinguishes this ledger from others; not a secret.

    Raises:
        OptionError: redis-py is not installed, or cannot read the URL.
    """

    def __init__(self, url: str, account: str) -> None:
        redis = _redis()
        try:
            self._client: Any = redis.Redis.from_url(
                url,
                socket_timeout=TIMEOUT,
                socket_connect_timeout=TIMEOUT,
                # Only the leaser may retry, because it knows what has changed since.
                retry=redis.retry.Retry(redis.backoff.NoBackoff(), 0),
            )
        except ValueError:  # not chained: its message may quote a password
            raise OptionError(
                "SharedQuota needs the URL of a Redis or Valkey server: redis://host:6379/0, "
                "rediss:// with TLS, or unix:///path"
            ) from None
        # The braces keep the three keys on one node of a cluster.
        self._keys = [f"lbe:{{{account}}}:{name}" for name in ("ledger", "heard", "reports")]
        self._script = self._client.register_script(_source())

    def exchange(self, exchange: Exchange) -> Reply:
        """Make one exchange, and return the ledger's reply.

        If the server has lost the script, it is sent again.

        Raises:
            Exception: an error of redis-py, within twice `TIMEOUT` seconds, or of an unreadable
                answer.
        """
        answer: bytes | str = self._script(keys=self._keys, args=exchange.arguments())
        return Reply.parse(answer if isinstance(answer, str) else answer.decode())

    def close(self) -> None:
        """Close the connection."""
        self._client.close()


@cache
def _source() -> str:
    return files(__package__).joinpath("ledger.lua").read_text(encoding="utf-8")


def _redis() -> Any:
    try:
        import redis  # noqa: PLC0415  # needed only for a shared quota
        import redis.backoff  # noqa: PLC0415
        import redis.retry  # noqa: PLC0415
    except ImportError:
        raise OptionError(
            "quota=SharedQuota(...) needs redis-py: pip install 'langchain-batch-embed[redis]'"
        ) from None
    return redis
