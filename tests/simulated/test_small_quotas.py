"""A hidden quota smaller than a batch costs little more time than it has to."""

import pytest

from tests.sending.calls import Rehearsal, lost, make_sender, make_work
from tests.support import seeds

from .grid import Cell
from .server import SimulatedServer
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


@pytest.mark.parametrize("says", ["hint", "nothing", "zero"])
@pytest.mark.parametrize("seconds", [30.0, 60.0])
@pytest.mark.parametrize("tokens", [8_191, 4_000])
@pytest.mark.parametrize("per_minute", [20_000, 40_000])
def test_long_texts_get_through_where_refused_requests_are_charged(
    per_minute: int, tokens: int, seconds: float, says: str
) -> None:
    """No long text is lost where each refused request is charged as much as an accepted one.

    The bucket gains a text's tokens in 6 to 25 s, and loses as many with each retry. Retries every
    10 s would never let it fill.
    """
    cell = Cell(
        tokens_per_minute=per_minute,
        limiter_seconds=seconds,
        says=says,  # type: ignore[arg-type]
        refused_share=1.0,
    )
    for seed in seeds(2):
        sender = make_sender(max_workers=16, is_known=False, first_requests=8, seed=seed)
        rehearsal = Rehearsal(sender, SimulatedServer(cell, seed))
        rehearsal.add(make_work(16, tokens=tokens))
        took = rehearsal.run()
        shown = f"seed {seed}: {took:.0f} s"
        assert lost(rehearsal.outcomes) == {}, shown
        assert took < 3 * 16 * tokens / per_minute * 60 + 120, shown
