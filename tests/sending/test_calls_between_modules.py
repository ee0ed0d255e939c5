"""How many calls between modules one batch needs."""

import sys
import threading
from collections import Counter
from functools import reduce
from operator import and_
from types import FrameType
from typing import Any

from langchain_core.embeddings import Embeddings

from langchain_batch_embed import BatchEmbeddings

PACKAGE = "langchain_batch_embed."
MOST = 70
"""The most calls from one module of the package into another that one batch may need."""

RUNS = 16
ROUNDS = 4
"""On a busy machine, threads are late in each of 16 runs, but not in each of 64."""


class Ones(Embeddings):
    """A model that returns vectors of ones at once."""

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Return one vector for each text."""
        return [[1.0, 1.0] for _ in texts]

    def embed_query(self, text: str) -> list[float]:  # noqa: ARG002
        """Return one vector."""
        return [1.0, 1.0]


def calls_for(batches: int) -> Counter[str]:
    """Return how often each function was called from another module in a call of this size.

    There is one worker, because several wake one another more or less often, depending on the load.
    """
    calls: Counter[str] = Counter()

    def count(frame: FrameType, event: str, _: Any) -> None:
        if event != "call" or frame.f_back is None:
            return
        called = str(frame.f_globals.get("__name__", ""))
        caller = str(frame.f_back.f_globals.get("__name__", ""))
        if called != caller and called.startswith(PACKAGE) and caller.startswith(PACKAGE):
            calls[f"{caller} -> {called}.{frame.f_code.co_name}"] += 1

    embeddings = BatchEmbeddings(Ones(), max_batch_size=10, max_workers=1, model="ones")
    threading.setprofile(count)
    sys.setprofile(count)
    try:
        embeddings.embed_numpy([f"text {i}" for i in range(10 * batches)])
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    return calls


def needed_for(batches: int) -> Counter[str]:
    """Return the calls that all runs have in common, since a late thread adds some to one run."""
    return reduce(and_, (calls_for(batches) for _ in range(RUNS)))


def test_one_batch_takes_few_calls_between_modules() -> None:
    """One batch needs at most 70 calls between modules: a reader turns the page that often."""
    few, many = needed_for(10), needed_for(60)
    for _ in range(ROUNDS - 1):
        if (many.total() - few.total()) / 50 <= MOST:
            break
        few, many = few & needed_for(10), many & needed_for(60)
    assert (many.total() - few.total()) / 50 <= MOST, (many - few).most_common(20)
