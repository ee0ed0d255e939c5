"""The meters of a quota, of one process or shared by several."""

from dataclasses import dataclass

from langchain_batch_embed.pacing.throttle import Throttle
from langchain_batch_embed.pacing.token_bucket import TokenBucket

__all__ = ["Meters"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Meters:
    """The meters of a quota, for one process or for all that share it.

    Attributes:
        requests: bucket of requests a minute.
        tokens: bucket of tokens a minute.
        throttle: the pause after a refusal.
    """

    requests: TokenBucket
    tokens: TokenBucket
    throttle: Throttle
