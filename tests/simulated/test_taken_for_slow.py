"""A server without limits is not taken for one that works on a few requests at a time."""

import pytest

from tests.simulated.grid import cell_of
from tests.simulated.trial import Client, try_cell

SEEDS = range(30)


@pytest.mark.parametrize(
    ("latency", "limits", "luck", "workers", "most"),
    [
        ("50 ms", "256 kB", "no bad luck", 128, 4.0),
        ("50 ms", "256 kB", "refused scattered", 128, 4.0),
        ("50 ms", "no limits", "no bad luck", 16, 4.0),
        ("0.3 s", "no limits", "no bad luck", 128, 2.5),
        ("0.3 s", "256 kB", "refused in rows", 128, 2.5),
        ("2 s", "10 texts", "no bad luck", 128, 2.5),
    ],
)
def test_chance_does_not_make_a_server_look_busy(
    latency: str, limits: str, luck: str, workers: int, most: float
) -> None:
    """Round trips vary tenfold without a queue, so a few slow ones do not show one.

    Each bound is a little above the worst of 30 seeds. When four answers decided, the worst took
    10 to 40 times the ideal time. At 50 ms the start takes most of a call of a second or two.
    """
    cell = cell_of(
        {
            "quota": "no quota",
            "latency": latency,
            "concurrency": "unbounded",
            "luck": luck,
            "limits": limits,
        }
    )
    for seed in SEEDS:
        trial = try_cell(cell, seed, Client(max_workers=workers), most_requests=1_000)
        assert (trial.error, trial.lost, trial.kept) == ("", 0, 0), f"seed {seed}"
        assert trial.ratio <= most, f"seed {seed}"
