"""A hidden quota of tokens whose bucket holds less than a large batch."""

from dataclasses import replace
from statistics import median
from typing import Literal

import pytest

from .grid import Says, cell_of
from .trial import Client, try_cell

SEEDS = range(10)


@pytest.mark.parametrize(
    ("tokens_per_minute", "limiter", "seconds", "latency", "says", "usual", "worst"),
    [
        (350_000, "bucket", 0.5, 0.05, "nothing", 2.5, 3.0),
        (350_000, "windows", 1, 0.05, "hint", 2.2, 7.0),
        (350_000, "bucket", 1, 0.3, "nothing", 1.9, 3.0),
        (350_000, "bucket", 1, 2.0, "nothing", 3.9, 6.8),
        (1_000_000, "bucket", 1, 0.3, "hint", 1.9, 3.6),
        (3_000_000, "bucket", 0.5, 0.05, "hint", 2.0, 5.4),
    ],
)
def test_nothing_is_lost_and_time_is_bounded(
    tokens_per_minute: int,
    limiter: Literal["bucket", "windows"],
    seconds: float,
    latency: float,
    says: Says,
    usual: float,
    worst: float,
) -> None:
    """Nothing is lost, and the time is at most a fifth above the measured one.

    The times, median and worst of ten runs, are relative to those of a client that knows the quota.
    The bucket holds 3,000 to 25,000 tokens, so batches above it are refused for ever.
    """
    cell = replace(
        cell_of({"quota": "60 requests"}),
        requests_per_minute=None,
        tokens_per_minute=tokens_per_minute,
        limiter=limiter,
        limiter_seconds=seconds,
        latency=latency,
        says=says,
        refused_share=1.0 if says == "hint" else 0.0,
    )
    trials = [try_cell(cell, seed, Client(), most_requests=400) for seed in SEEDS]
    assert not any(trial.error or trial.lost or trial.kept for trial in trials)
    ratios = [trial.ratio for trial in trials]
    assert median(ratios) <= usual
    assert max(ratios) <= worst
