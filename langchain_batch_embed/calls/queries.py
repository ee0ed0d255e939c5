"""Vectors of recent queries, in memory: opt-in, as most programs ask each question once."""

import threading
from collections import OrderedDict

import numpy as np
from numpy.typing import NDArray

from langchain_batch_embed.providers.decoding import to_lists

__all__ = ["QueryCache"]


class QueryCache:
    """Keeps the vectors of the queries that were asked last.

    Args:
        size: how many; 0: none.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._lock = threading.Lock()  # guards the vectors
        self._vectors: OrderedDict[str, NDArray[np.float32]] = OrderedDict()  # the oldest first

    def get(self, query: str) -> list[float] | None:
        """Return the vector of a query, if it is here; each time a new list."""
        if not self._size:
            return None
        with self._lock:
            vector = self._vectors.get(query)
            if vector is None:
                return None
            self._vectors.move_to_end(query)
        return to_lists(vector[np.newaxis])[0]

    def put(self, query: str, vector: list[float]) -> None:
        """Keep the vector of a query, and drop the one that was asked for longest ago.

        Vectors with other dimensions are of another model, and are dropped too.
        """
        if not self._size:
            return
        kept = np.asarray(vector, dtype=np.float32)
        with self._lock:
            if any(other.shape != kept.shape for other in self._vectors.values()):
                self._vectors.clear()
            self._vectors[query] = kept
            self._vectors.move_to_end(query)
            if len(self._vectors) > self._size:
                self._vectors.popitem(last=False)
