"""Texts, and portions of them, that several tests of prefetches announce."""

import threading
from collections.abc import Sequence

from langchain_batch_embed.calls.prefetch import Prefetch

TEXTS = [f"section {i}" for i in range(1000)]


def threads(name: str) -> list[threading.Thread]:
    """Return the running threads whose names contain this text."""
    return [thread for thread in threading.enumerate() if name in thread.name]


def started(prefetch: Prefetch) -> Prefetch:
    """Return a prefetch that embeds as far ahead as it may, without waiting for a question."""
    prefetch.go_ahead()
    return prefetch


def slices(texts: Sequence[str], size: int) -> list[list[str]]:
    """Cut texts into portions of this size, as a store does."""
    return [list(texts[start : start + size]) for start in range(0, len(texts), size)]
