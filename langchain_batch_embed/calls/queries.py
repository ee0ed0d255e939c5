"""An in-memory cache of query vectors; opt-in, because most programs ask each query only once."""

import threading
from collections import OrderedDict

import numpy as np
from numpy.typing import NDArray

from langchain_batch_embed.providers.decoding import to_lists

__all__ = ["QueryCache"]


class QueryCache:
    """Keeps the vectors of the most recently used queries.

    Args:
        size: maximum number of queries to keep; 0 turns the cache off.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._lock = threading.Lock()  # guards the vectors
        # Least recently used first.
        self._vectors: OrderedDict[str, NDArray[np.float32]] = OrderedDict()

    def get(self, query: str) -> list[float] | None:
        """Return the vector of a query as a new list, or `None` if it is not cached."""
        if not self._size:
            return None
        with self._lock:
            vector = self._vectors.get(query)
            if vector is None:
                return None
            self._vectors.move_to_end(query)
        return to_lists(vector[np.newaxis])[0]

    def put(self, query: str, vector: list[float]) -> None:
        """Keep the vector of a query, and drop the least recently used one if the cache is full.

        Vectors with other dimensions come from another model, and are dropped too.
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
