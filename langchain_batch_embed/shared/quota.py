"""`SharedQuota`, which users pass to `BatchEmbeddings`, and the ledger that is opened for it."""

import hashlib
from dataclasses import dataclass, field

from langchain_batch_embed.errors import OptionError
from langchain_batch_embed.journal import shown_url
from langchain_batch_embed.limits import plain
from langchain_batch_embed.shared.redis_ledger import RedisLedger

__all__ = ["SharedQuota", "open_ledger"]


@dataclass(frozen=True)
class SharedQuota:
    """One account's quota, shared by all processes and machines that name it.

    ```python
    BatchEmbeddings(OpenAIEmbeddings(...), quota=SharedQuota("redis://host:6379/0"))
    ```

    A Redis (6.2 or later) or Valkey server reserves tokens and requests in the order in which the
    processes ask for them, by its own clock. It learns the quota from the headers of the provider's
    answers, and after a refusal all processes pause once. If the server cannot be reached, each
    process continues with its part of the last known quota, logs a warning, and returns to the
    shared quota when the server answers again. This needs `langchain-batch-embed[redis]`.

    Args:
        url: the server's URL for redis-py: `redis://`, `rediss://` or `unix://`.
        account: a name for the quota, where several keys share one, such as those of one
            organisation. `None`: a digest of the provider's address, the model and the key.
        workers: how many processes are assumed to share the quota until the server reports how many
            do.

    Raises:
        OptionError: an argument has a value that cannot work.
    """

    url: str = field(repr=False)
    account: str | None = None
    workers: int = 1

    def __post_init__(self) -> None:
        """Check the values; raise `OptionError` for one that cannot work."""
        if not isinstance(self.url, str) or "://" not in self.url:
            raise OptionError(
                "SharedQuota needs the URL of a Redis or Valkey server: "
                'SharedQuota("redis://host:6379/0")'
            )
        if not isinstance(self.account, str | None) or self.account == "":
            raise OptionError("account must be a name, or None to derive one from the key")
        object.__setattr__(self, "workers", workers := plain(self.workers))
        if isinstance(workers, bool) or not isinstance(workers, int) or workers < 1:
            raise OptionError("workers must be a whole number of at least 1")

    def __str__(self) -> str:
        """Return the URL without its password."""
        return shown_url(self.url)


def open_ledger(quota: SharedQuota, account: str) -> RedisLedger:
    """Return a connection to the ledger, for this process alone.

    Args:
        quota: the quota as the user describes it.
        account: a digest that identifies the account, used if the user does not name one.

    Raises:
        OptionError: redis-py is not installed, or cannot read the URL.
    """
    if quota.account is not None:
        account = hashlib.blake2b(quota.account.encode(), digest_size=16).hexdigest()
    return RedisLedger(quota.url, account)
