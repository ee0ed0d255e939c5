"""The client that knows everything takes as long as arithmetic predicts."""

import numpy as np
import pytest

from langchain_batch_embed.texts.packing import Sizes

from .grid import Cell, Outage
from .omniscient import omniscient_seconds


def sizes(texts: int) -> Sizes:
    """Return the sizes of texts of 100 tokens each."""
    tokens = np.full(texts, 100)
    return Sizes(tokens=tokens, charges=tokens, octets=4 * tokens)


@pytest.mark.parametrize(
    ("cell", "seconds"),
    [
        (Cell(computed_at_once=1, seconds_per_text=0.04, latency=0.005), 80.0),
        (Cell(computed_at_once=4, seconds_per_text=0.04, latency=0.005), 20.0),
        (Cell(tokens_per_minute=600_000, limiter_seconds=1.0, latency=0.005), 19.0),
        (
            Cell(
                tokens_per_minute=600_000,
                limiter_seconds=1.0,
                latency=0.005,
                outages=(Outage(start=5.0, length=5.0, kind="503"),),
            ),
            23.0,  # the bucket saves up a second's worth
        ),
    ],
    ids=["one worker", "four workers", "quota", "outage"],
)
def test_it_takes_as_long_as_arithmetic_says(cell: Cell, seconds: float) -> None:
    """2,000 texts take their work divided by the workers, or tokens less burst by the rate."""
    took = omniscient_seconds(cell, sizes(2000))
    assert seconds * 0.97 <= took <= seconds * 1.12  # stalls and whole batches cost a little more


def test_fewer_at_once_take_longer() -> None:
    """With a sixteenth of the workers a run takes longer, but not sixteen times as long.

    The tail stays the same, and larger batches save requests.
    """
    cell = Cell(latency=0.3)
    few, many = (omniscient_seconds(cell, sizes(40_000), max_workers=n) for n in (8, 128))
    assert 1.5 * many < few < 16 * many
