"""A hidden quota of requests is found, and the remaining texts are sent in few requests."""

from dataclasses import replace
from statistics import median

import pytest

from .grid import Cell, cell_of
from .trial import Client, try_cell

SEEDS = range(6)


def server(requests_per_minute: int, limiter: str, latency: str, refused: str) -> Cell:
    """Return a server with a hidden quota of requests, which sends bare refusals."""
    cell = cell_of(
        {
            "quota": "60 requests",
            "limiter": limiter,
            "says": "says nothing",
            "refused share": refused,
            "latency": latency,
        }
    )
    return replace(cell, requests_per_minute=requests_per_minute)


@pytest.mark.parametrize(
    ("requests_per_minute", "limiter", "latency", "refused", "seconds"),
    [
        (300, "bucket 60 s", "50 ms", "refused free", 12),
        (300, "bucket 60 s", "50 ms", "refused charged", 12),
        (300, "bucket 3 s", "50 ms", "refused free", 10),
        (300, "bucket 3 s", "0.3 s", "refused free", 25),
        (300, "bucket 1 s", "50 ms", "refused charged", 12),
        (60, "bucket 10 s", "0.3 s", "refused charged", 60),
        (60, "bucket 10 s", "2 s", "refused free", 135),
    ],
)
def test_what_is_left_is_sent_in_few_requests(
    requests_per_minute: int, limiter: str, latency: str, refused: str, seconds: float
) -> None:
    """Nothing is lost, and the median of six runs is at most a fifth above the measured time.

    At first the quota may count tokens, so small batches are sent. They use up what may be sent at
    once, and the rest has to wait.
    """
    cell = server(requests_per_minute, limiter, latency, refused)
    trials = [try_cell(cell, seed, Client(), ideal=False, most_requests=400) for seed in SEEDS]
    assert not any(trial.error or trial.lost or trial.kept for trial in trials)
    assert median(trial.seconds for trial in trials) <= seconds
