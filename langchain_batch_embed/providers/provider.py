"""What sends one batch, and the answer that it returns."""

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
        vectors: float32, one row a text, shape (n, d).
        tokens: tokens billed; `None` where the provider does not say, or says what cannot be.
        model: the model that the answer says it is from; `None` where it does not say.
        headers: the answer's HTTP headers, where they are known.
    """

    vectors: NDArray[np.float32]
    tokens: int | None = None
    model: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


class Provider(Protocol):
    """Sends one batch of texts.

    Attributes:
        model: the model's name, as far as it is known.
        encoding: the model or encoding to count tokens with; `None`: not known.
        timeout: seconds for one request that the wrapped object was given, if any.
        space: what tells these vectors from others in a journal.
        address: what messages call the server, without a key.
        is_known: the server is known to take any number of requests at a time.
    """

    model: str | None
    encoding: str | None
    timeout: float | None
    space: Space
    is_known: bool
    address: str

    def send(self, texts: Sequence[str], *, timeout: float) -> Answer:
        """Send one request that ends within `timeout` seconds, and check its answer.

        Raises:
            ResponseError: the answer cannot be believed.
            DimensionsError: the vectors have another width than was asked for.
            Exception: whatever the provider's SDK raises.
        """
        ...

    def send_query(self, texts: Sequence[str], *, timeout: float) -> Answer:
        """Send one query, a list of one text."""
        ...
