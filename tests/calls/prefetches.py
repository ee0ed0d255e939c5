"""What the tests of prefetches share: announced texts, and portions of them."""

import threading
from collections.abc import Sequence

from langchain_batch_embed.calls.prefetch import Prefetch

TEXTS = [f"section {i}" for i in range(1000)]


def threads(name: str) -> list[threading.Thread]:
    """Return the threads that run whose names hold this one."""
    return [thread for thread in threading.enumerate() if name in thread.name]


def started(prefetch: Prefetch) -> Prefetch:
    """Return a prefetch that embeds as far ahead as it may, without a question."""
    prefetch.go_ahead()
    return prefetch


def slices(texts: Sequence[str], size: int) -> list[list[str]]:
    """Cut texts into portions, as a store does."""
    return [list(texts[start : start + size]) for start in range(0, len(texts), size)]
