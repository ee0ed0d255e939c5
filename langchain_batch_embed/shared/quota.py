"""`SharedQuota`: what the user names, and what `BatchEmbeddings` makes of it."""

import hashlib
from dataclasses import dataclass, field

from langchain_batch_embed.errors import OptionError
from langchain_batch_embed.journal import shown_url
from langchain_batch_embed.shared.redis_ledger import RedisLedger

__all__ = ["SharedQuota", "open_ledger"]


@dataclass(frozen=True)
class SharedQuota:
    """One account's quota for all processes and machines that name it.

    ```python
    BatchEmbeddings(OpenAIEmbeddings(...), quota=SharedQuota("redis://host:6379/0"))
    ```

    Tokens and requests a minute are reserved in order on a Redis (6.2 or later) or Valkey server,
    whose clock counts. What the answers' headers say is fed back, and a refusal pauses everybody
    once. If the server cannot be reached, each process goes on with its part of the last known
    quota, says so in the log, and comes back by itself. Needs `langchain-batch-embed[redis]`.

    Args:
        url: of the server, for redis-py: `redis://`, `rediss://` or `unix://`.
        account: names the quota where several keys share it, as those of one organisation do.
            `None`: the provider's address, the model and the key, as a digest.
        workers: how many processes are taken to share the quota before the server has said it.

    Raises:
        OptionError: a value cannot work.
    """

    url: str = field(repr=False)
    account: str | None = None
    workers: int = 1

    def __post_init__(self) -> None:
        """Check the values."""
        if not isinstance(self.url, str) or "://" not in self.url:
            raise OptionError(
                "SharedQuota needs the URL of a Redis or Valkey server: "
                'SharedQuota("redis://host:6379/0")'
            )
        if not isinstance(self.account, str | None) or self.account == "":
            raise OptionError("account must be a name, or None for one of its own for each key")
        workers = self.workers
        if isinstance(workers, bool) or not isinstance(workers, int) or workers < 1:
            raise OptionError("workers must be a whole number of at least 1")

    def __str__(self) -> str:
        """The URL without its password."""
        return shown_url(self.url)


def open_ledger(quota: SharedQuota, account: str) -> RedisLedger:
    """Return a connection to the ledger, for this process alone.

    Args:
        quota: what the user names.
        account: a digest of what names the account, where the user does not.

    Raises:
        OptionError: redis-py is not installed, or cannot read the URL.
    """
    if quota.account is not None:
        account = hashlib.blake2b(quota.account.encode(), digest_size=16).hexdigest()
    return RedisLedger(quota.url, account)
