"""Every pair of a server's properties, in simulated time: it ends, loses nothing, and is fast.

`python -m tests.benchmarks.grid` prints the same for more cells; `tests/simulated` has the server,
the grid, and the client that knows everything, by whose time the engine's is measured.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import pytest

from tests.simulated.grid import Cell, pairwise
from tests.simulated.trial import Client, Trial, clients_of, try_cell


@dataclass(frozen=True, slots=True)
class Looser:
    """The bounds of a cell that cannot hold those of its class.

    Attributes:
        reason: why.
        ratio: most time, in times the ideal.
        refused: most requests refused, in percent.
    """

    reason: str
    ratio: float = 0.0
    refused: float = 0.0


# EXCEPTIONS

EXCEPTIONS: Mapping[str, Looser] = {}
"""Measured, and a sixth more: so a cell that does not hold cannot get worse unnoticed."""

CELLS = {cell.name: cell for cell in pairwise(count=0)}


def trials(cell: Cell) -> list[Trial]:
    """Run each client that makes sense in a cell, each with luck of its own."""
    return [try_cell(cell, seed, client) for seed, client in enumerate(clients_of(cell))]


@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
def test_a_cell_of_the_grid_holds(cell: Cell) -> None:
    """It ends, exactly the texts that the server refuses fail, and its bounds hold."""
    looser = EXCEPTIONS.get(cell.name, Looser(""))
    for trial in trials(cell):
        where = f"{trial.client}, seed {trial.seed}"
        assert not trial.error, where
        assert (trial.lost, trial.kept) == (0, 0), where
        assert trial.ratio <= max(trial.most_ratio, looser.ratio), where
        assert 100 * trial.refused_share <= max(100 * trial.most_refused, looser.refused), where


def test_exceptions_are_of_the_sample() -> None:
    """A cell that is listed is run."""
    assert set(EXCEPTIONS) <= set(CELLS)
    assert all(looser.reason for looser in EXCEPTIONS.values())


def test_the_same_seed_gives_the_same_run() -> None:
    """Nothing else decides what happens, so a failure can be looked into."""
    cell = next(iter(CELLS.values()))
    assert try_cell(cell, 3, Client()) == try_cell(cell, 3, Client())
