"""How long a hidden quota takes: `python -m tests.benchmarks.hidden_quotas`.

Runs the real sender in simulated time against quotas of requests and of tokens, with every bucket,
whose refusals say nothing. Prints the time relative to that of a client that knows the quota: for
each quota the geometric mean over all else, and the kinds that take longest. `--says` sets what
refusals say, as in the grid.
"""

import argparse
import itertools
import logging
import math
import multiprocessing
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from statistics import fmean

from tests.simulated.grid import Cell, cell_of
from tests.simulated.trial import Trial, try_cell

LIMITERS = ("bucket 1 s", "bucket 3 s", "bucket 10 s", "bucket 60 s", "windows 1 s", "windows 60 s")
REFUSED = ("refused charged", "refused free")
LATENCIES = ("50 ms", "0.3 s", "2 s")
REQUESTS = (60, 300, 1_500)
TOKENS = (350_000, 1_000_000, 5_000_000, 20_000_000)
MOST_REQUESTS = 400


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--says", default="nothing", help="what refusals say")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each kind")
    parser.add_argument("--worst", type=int, default=10, help="rows of the second table")
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    work = [(cell, seed) for cell in _cells(options.says) for seed in range(options.seeds)]
    with multiprocessing.Pool(options.processes, _be_quiet) as pool:
        trials = pool.starmap(_run, work, chunksize=4)
    _print(trials, options.worst)


def _cells(says: str) -> Iterator[Cell]:
    names = ("limiter", "refused share", "latency")
    for values in itertools.product(LIMITERS, REFUSED, LATENCIES):
        choice = {"quota": "60 requests", "says": f"says {says}"}
        cell = cell_of({**choice, **dict(zip(names, values, strict=True))})
        rest = ", ".join(values)
        for requests in REQUESTS:
            yield replace(cell, name=f"{requests:,} requests: {rest}", requests_per_minute=requests)
        for tokens in TOKENS:
            yield replace(
                cell,
                name=f"{tokens:,} tokens: {rest}",
                requests_per_minute=None,
                tokens_per_minute=tokens,
            )


def _be_quiet() -> None:
    logging.disable(logging.CRITICAL)


def _run(cell: Cell, seed: int) -> Trial:
    return try_cell(cell, seed, most_requests=MOST_REQUESTS)


def _print(trials: Sequence[Trial], worst: int) -> None:
    quotas: dict[str, list[Trial]] = defaultdict(list)
    kinds: dict[str, list[Trial]] = defaultdict(list)
    for trial in trials:
        quota = trial.cell.name.partition(":")[0]
        for name in ("all", f"all {quota.rpartition(' ')[2]}", quota):
            quotas[name].append(trial)
        kinds[trial.cell.name].append(trial)
    print("| a minute | runs | time/ideal | worst | refused % | lost in vain |")
    print("|---|--:|--:|--:|--:|--:|")
    for name, group in quotas.items():
        print(
            f"| {name} | {len(group)} | {_mean(group):.2f}"
            f" | {max(trial.ratio for trial in group):.1f}"
            f" | {100 * fmean(trial.refused_share for trial in group):.1f}"
            f" | {sum(trial.lost + trial.kept for trial in group)} |"
        )
    print("\n| kind | time/ideal | requests | refused |\n|---|--:|--:|--:|")
    for name in sorted(kinds, key=lambda name: -_mean(kinds[name]))[:worst]:
        group = kinds[name]
        requests, refused = (
            fmean(trial.requests for trial in group),
            fmean(trial.refused for trial in group),
        )
        print(f"| {name} | {_mean(group):.2f} | {requests:.0f} | {refused:.0f} |")


def _mean(trials: Sequence[Trial]) -> float:
    """Return the geometric mean of the time relative to the ideal time."""
    return math.exp(fmean(math.log(trial.ratio) for trial in trials))


if __name__ == "__main__":
    main()
