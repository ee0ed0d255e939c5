"""A hidden quota of requests in fixed minutes costs two or three minutes."""

import pytest

from .grid import cell_of
from .trial import Client, try_cell

MINUTE = 60.0


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("latency", ["50 ms", "0.3 s"])
def test_what_the_start_used_up_costs_a_minute(latency: str, seed: int) -> None:
    """The 60 small requests of the start use up a minute, and the next minute serves the rest.

    40,000 texts in batches as small as the first ones would take ten minutes.
    """
    choice = {"quota": "60 requests", "limiter": "windows 60 s", "says": "says nothing"}
    trial = try_cell(cell_of({**choice, "latency": latency}), seed, Client(), ideal=False)
    assert not trial.error
    assert (trial.lost, trial.kept) == (0, 0)
    assert trial.seconds < 2.5 * MINUTE


@pytest.mark.parametrize("seed", range(4))
def test_a_refused_batch_is_not_taken_for_a_quota_of_tokens(seed: int) -> None:
    """The refusal of a large batch does not reveal a quota of tokens that does not exist.

    The rate of tokens measured with small batches was never a limit of the server.
    """
    choice = {"quota": "60 requests", "limiter": "bucket 60 s", "says": "says nothing"}
    trial = try_cell(
        cell_of({**choice, "refused share": "refused free"}), seed, Client(), ideal=False
    )
    assert (trial.lost, trial.kept, trial.error) == (0, 0, "")
    assert trial.seconds < 2.5 * MINUTE
