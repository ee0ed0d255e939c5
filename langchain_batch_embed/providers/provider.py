"""The interface for sending one batch, and the answer that it returns."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from langchain_batch_embed.journal import Space

__all__ = ["Answer", "Provider"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A checked answer.

    Attributes:
        vectors: float32, one row per text, shape (n, d).
        tokens: tokens billed; `None` if the answer has no possible number.
        model: the model that the answer names; `None` if it names none.
        headers: the answer's HTTP headers; empty if they are not known.
    """

    vectors: NDArray[np.float32]
    tokens: int | None = None
    model: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


class Provider(Protocol):
    """Sends one batch of texts.

    Attributes:
        model: the model's name; `None` if it is not known.
        encoding: the model or encoding to count tokens with; `None` if it is not known.
        timeout: the wrapped object's own time-out in seconds; `None` if it has none.
        space: distinguishes these vectors from others in a journal.
        address: the server's address without a key, or whose server it is, for messages.
        name: what messages call the provider.
        class_name: the name of the wrapped object's class, for messages.
        is_known: whether the server is known to accept any number of concurrent requests.
        shares_queries: whether one request may hold several queries.
    """

    model: str | None
    encoding: str | None
    timeout: float | None
    space: Space
    is_known: bool
    shares_queries: bool
    address: str
    name: str
    class_name: str

    def send(self, texts: Sequence[str], *, timeout: float) -> Answer:
        """Send one request that ends within `timeout` seconds, and check its answer.

        Raises:
            ResponseError: the answer is not valid.
            DimensionsError: the vectors do not have the dimensions of the request.
            Exception: whatever the provider's SDK raises.
        """
        ...

    def send_query(self, texts: Sequence[str], *, timeout: float) -> Answer:
        """Send queries, of which there may be several only if the provider `shares_queries`."""
        ...
