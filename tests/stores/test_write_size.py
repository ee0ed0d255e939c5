"""The size of a store's calls adapts to what the store accepts."""

import random
from collections.abc import Callable

import pytest

from langchain_batch_embed.stores.write_size import WriteSize


def write(size: WriteSize, documents: int, takes: Callable[[int], bool]) -> tuple[int, int]:
    """Write documents as the writer does and return the calls and how many were refused."""
    calls = refused = 0
    while documents:
        count = min(size.limit, documents)
        calls += 1
        if takes(count):
            size.accepted(count)
            documents -= count
        else:
            refused += 1
            size.refused(count)
    return calls, refused


@pytest.mark.parametrize("limit", [1, 2, 7, 128, 200, 1000, 1023])
def test_a_limit_that_stays_is_found_and_kept_to(limit: int) -> None:
    """A fixed limit causes at most 24 refused calls, and most calls are at least half as large."""
    size = WriteSize(1024)
    calls, refused = write(size, 400 * limit, lambda count: count <= limit)
    assert refused <= 24
    assert calls <= 2 * 400 + 24


def test_a_limit_that_goes_is_forgotten() -> None:
    """After a slow phase reduced the calls to one document, they grow back to full size."""
    size = WriteSize(1024)
    write(size, 50_000, lambda _: True)
    for count in (1024, 512, 256, 128, 64, 32, 16, 8, 4, 2):
        size.refused(count)
    assert size.limit == 1
    calls, refused = write(size, 50_000, lambda _: True)
    assert (size.limit, refused) == (1024, 0)
    assert calls <= 120


def test_documents_that_grow_are_written_in_smaller_calls() -> None:
    """A size that succeeded before is lowered again once larger documents are refused."""
    size = WriteSize(1024)
    write(size, 50_000, lambda _: True)
    _, refused = write(size, 50_000, lambda count: count <= 100)
    assert refused <= 24


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("share", [0.01, 0.05, 0.1])
def test_refusals_by_chance_do_not_make_calls_small(share: float, seed: int) -> None:
    """If one call in ten is refused whatever its size, calls stay large: 98 would be the fewest."""
    draw = random.Random(seed)
    calls, _ = write(WriteSize(1024), 100_000, lambda _: draw.random() >= share)
    assert calls <= 200


def test_one_document_is_the_least() -> None:
    """A refused call with one document leaves the limit at one."""
    size = WriteSize(1)
    size.refused(1)
    assert size.limit == 1
