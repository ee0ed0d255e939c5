"""A hidden quota smaller than a batch costs little more time than it has to."""

import pytest

from .grid import Cell
from .trial import Client, try_cell


@pytest.mark.parametrize("says", ["hint", "nothing", "zero"])
@pytest.mark.parametrize(
    ("per_minute", "limiter_seconds"),
    [(6_000, 60.0), (16_000, 10.0), (16_000, 60.0), (30_000, 10.0), (30_000, 60.0)],
)
def test_a_batch_above_the_whole_quota_is_cut(
    says: str, per_minute: int, limiter_seconds: float
) -> None:
    """At a hidden quota smaller than a batch a run takes less than twice the ideal time.

    Azure with 16,000 tokens a minute is an example: minutes, not hours.
    """
    cell = Cell(
        tokens_per_minute=per_minute,
        limiter_seconds=limiter_seconds,
        says=says,  # type: ignore[arg-type]
        refused_share=0.0,
    )
    trial = try_cell(cell, 0, Client(max_workers=16))
    assert not trial.error
    assert (trial.lost, trial.kept) == (0, 0)
    assert trial.ratio < 2, f"{trial.seconds:.0f} s of {trial.ideal:.0f}"
