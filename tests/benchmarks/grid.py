"""How the engine copes with every kind of server: `python -m tests.benchmarks.grid`.

Runs the real sender over cells of the grid in simulated time, beside a client that knows the server
(`tests.simulated.omniscient`), and prints two tables: one with a row for each value of each
dimension, and one with a row for each cell that exceeds the bounds. The values of such a cell are
removed one by one, and those without which it keeps the bounds are named as the causes.

The bounds: it ends, exactly the texts that the server refuses fail, at most 1.3 of the ideal time
(1.1 where headers announce the quota), at most 10 % of the requests refused (2 %).
"""

import argparse
import logging
import math
import multiprocessing
from collections import defaultdict
from collections.abc import Iterable, Sequence
from statistics import median

from tests.simulated.grid import DIMENSIONS, Cell, cell_of, cells, choice_of, pairwise, sample
from tests.simulated.trial import Trial, clients_of, try_cell

PAIRWISE = 150


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cells", type=int, default=PAIRWISE, help="how many (default: pairwise)")
    parser.add_argument("--seeds", type=int, default=2, help="runs of each cell and client")
    parser.add_argument("--all", action="store_true", help="the whole grid: hours")
    parser.add_argument("--worst", type=int, default=40, help="rows of the second table")
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    if options.all:
        chosen: Iterable[Cell] = cells()
    elif options.cells == PAIRWISE:
        chosen = pairwise(count=PAIRWISE)
    else:
        chosen = sample(options.cells)
    work = [(cell, seed) for cell in chosen for seed in range(options.seeds)]
    with multiprocessing.Pool(options.processes, _be_quiet) as pool:
        each = pool.imap_unordered(_run, work, chunksize=4)
        rows = [trial for trials in each for trial in trials]
        rows.sort(key=lambda row: (row.cell.name, row.seed, str(row.client)))
        print(f"{len(rows)} runs of {len({trial.cell.name for trial in rows})} cells\n")
        _print_dimensions(rows)
        worst = _worst_cells(rows)
        print(f"\n{len(worst)} cells do not hold; the worst:\n")
        shown = worst[: options.worst]
        whys = pool.map(_why, shown, chunksize=1)
    _print_worst(shown, whys)


def _be_quiet() -> None:
    logging.disable(logging.CRITICAL)


def _run(work: tuple[Cell, int]) -> list[Trial]:
    cell, seed = work
    return [try_cell(cell, seed, client) for client in clients_of(cell)]


def _print_dimensions(rows: Sequence[Trial]) -> None:
    print(
        "| value | runs | hold | time/ideal, median | worst | refused %, median | worst"
        " | lost in vain |"
    )
    print("|---|--:|--:|--:|--:|--:|--:|--:|")
    groups: dict[str, list[Trial]] = defaultdict(list)
    order = ["all", *(value for values in DIMENSIONS.values() for value in values)]
    for trial in rows:
        for value in ("all", *choice_of(trial.cell).values(), str(trial.client)):
            if value:
                groups[value].append(trial)
    order += sorted(set(groups) - set(order))
    for value in order:
        if trials := groups.get(value):
            ratios = [trial.ratio for trial in trials]
            refused = [100 * trial.refused_share for trial in trials]
            held = sum(not trial.faults() for trial in trials) / len(trials)
            print(
                f"| {value} | {len(trials)} | {held:.0%} | {median(ratios):.2f} | {max(ratios):.2f}"
                f" | {median(refused):.1f} | {max(refused):.1f}"
                f" | {sum(trial.lost + trial.kept for trial in trials)} |"
            )


def _worst_cells(rows: Sequence[Trial]) -> list[Trial]:
    """Return the worst run of each cell that exceeds the bounds, the worst first."""
    worst: dict[str, Trial] = {}
    for trial in rows:
        known = worst.get(trial.cell.name)
        if trial.faults() and (known is None or _badness(trial) > _badness(known)):
            worst[trial.cell.name] = trial
    return sorted(worst.values(), key=lambda trial: -_badness(trial))


def _badness(trial: Trial) -> float:
    if trial.lost or trial.kept:
        return math.inf
    return max(trial.ratio / trial.most_ratio, trial.refused_share / trial.most_refused / 4)


def _why(trial: Trial) -> str:
    """Return the values without which the cell keeps the bounds."""
    choice = choice_of(trial.cell)
    causes = []
    for dimension, value in choice.items():
        usual = next(iter(DIMENSIONS[dimension]))
        if value and value != usual:
            other = cell_of({**choice, dimension: usual})
            if not try_cell(other, trial.seed, trial.client).faults():
                causes.append(value)
    return ", ".join(causes) or "several"


def _print_worst(rows: Sequence[Trial], whys: Sequence[str]) -> None:
    print("| cell | client | seed | time/ideal | s | ideal s | refused % | fails | due to |")
    print("|---|---|--:|--:|--:|--:|--:|---|---|")
    for trial, why in zip(rows, whys, strict=True):
        print(
            f"| {trial.cell.name} | {trial.client} | {trial.seed} | {trial.ratio:.2f}"
            f" | {trial.seconds:.1f} | {trial.ideal:.1f} | {100 * trial.refused_share:.1f}"
            f" | {', '.join(trial.faults())} | {why} |"
        )


if __name__ == "__main__":
    main()
