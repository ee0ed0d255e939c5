"""Every pair of a server's properties, in simulated time: it ends, loses nothing, and is fast.

`python -m tests.benchmarks.grid` prints the same for more cells; `tests/simulated` has the server,
the grid, and the client that knows everything, by whose time the engine's is measured.
"""

from dataclasses import dataclass

import pytest

from tests.simulated.grid import Cell, pairwise
from tests.simulated.trial import Client, clients_of, try_cell

REASONS = {}
EXCEPTIONS = """
"""
"""Cells that do not hold the bounds of their class: the reason, most times the ideal time, and most
percent of requests refused; `-` is the bound of the class. Measured, and a sixth more, so that they
cannot get worse unnoticed."""

CELLS = {cell.name: cell for cell in pairwise(count=0)}


@dataclass(frozen=True, slots=True)
class Looser:
    """The bounds of a cell that cannot hold those of its class.

    Attributes:
        reason: a key of `REASONS`.
        ratio: most time, in times the ideal.
        refused: most requests refused, in percent.
    """

    reason: str = ""
    ratio: float = 0.0
    refused: float = 0.0


def exceptions() -> dict[str, Looser]:
    """Read the table."""
    found = {}
    for line in EXCEPTIONS.strip().splitlines()[1:]:
        reason, ratio, refused, name = line.split(maxsplit=3)
        found[name] = Looser(
            reason, *(0.0 if each == "-" else float(each) for each in (ratio, refused))
        )
    return found


LOOSER = exceptions()


@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
def test_a_cell_of_the_grid_holds(cell: Cell) -> None:
    """It ends, exactly the texts that the server refuses fail, and its bounds hold."""
    looser = LOOSER.get(cell.name, Looser())
    for seed, client in enumerate(clients_of(cell)):
        trial = try_cell(cell, seed, client)
        where = f"{client}, seed {seed}: {REASONS.get(looser.reason, 'holds so far')}"
        assert not trial.error, where
        assert (trial.lost, trial.kept) == (0, 0), where
        assert trial.ratio <= max(trial.most_ratio, looser.ratio), where
        assert 100 * trial.refused_share <= max(100 * trial.most_refused, looser.refused), where


def test_exceptions_are_of_the_sample() -> None:
    """A cell that is listed is run, and its reason is one of those that are explained."""
    assert set(LOOSER) <= set(CELLS)
    assert {looser.reason for looser in LOOSER.values()} == set(REASONS)


def test_the_same_seed_gives_the_same_run() -> None:
    """Nothing else decides what happens, so a failure can be looked into."""
    cell = next(iter(CELLS.values()))
    assert try_cell(cell, 3, Client()) == try_cell(cell, 3, Client())
