"""What is counted of a quota."""

from dataclasses import dataclass

from langchain_batch_embed.pacing.throttle import Throttle
from langchain_batch_embed.pacing.token_bucket import TokenBucket

__all__ = ["Meters"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Meters:
    """What is counted of a quota: for one process, or for all that share it.

    Attributes:
        requests: a minute.
        tokens: a minute.
        throttle: the pause after a refusal.
    """

    requests: TokenBucket
    tokens: TokenBucket
    throttle: Throttle
