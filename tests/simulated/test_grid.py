"""Every pair of a server's properties in simulated time: calls end, lose nothing and are fast.

`python -m tests.benchmarks.grid` prints the same for more cells; `tests/simulated` has the server,
the grid, and the client that knows everything, against whose time the engine's is measured.
"""

from dataclasses import dataclass

import pytest

from langchain_batch_embed.sending.sender import Sender
from tests.simulated.exchange import Reply, Request
from tests.simulated.grid import Cell, cell_of, pairwise
from tests.simulated.trial import Client, clients_of, try_cell

REASONS = {
    "AT_A_TIME": "to find a limit of 8 at a time, 8 grow to 32 or 48, and to 128 where headers"
    " tell the quota: 24 to 120 refusals of 200 to 900 requests, and each attempt at more too",
    "SCARCE": "at 1 request a second that nobody tells, 8 small requests, one that excludes a limit"
    " at a time, 2 or 3 pauses and 5 steps to a full batch cost 8 to 15 s of 20",
    "FIRST": "of one request a second, what arrives a moment early is refused, and charged",
    "SHORT": "the whole run takes about a second, so finding the number at once is half of it",
    "NOISE": "a tail of slow answers is taken for a line, so fewer are sent than the server takes",
    "OVERSIZED": "batches above the whole bucket are refused alone until the size is found",
    "OUTAGE": "503s beside answers count as a limit, and the way back is one more a round",
    "HALVES": "a failing text is sent five times, one after the other, before it is given up",
    "WINDOWS": "the headers of a fixed window are read as those of a bucket",
    "BURSTS": "a bucket that nobody tells, or tells by a hint alone, is overrun after each pause",
    "LINE": "a line at a server of 2 s is noticed late, and a restart loses all that stands in it",
    "TAIL": "luck: the slowest of a few late requests",
}

EXCEPTIONS = """
reason       ratio      %  cell
AT_A_TIME        -     17  1M, windows 1 s, refused charged, says hint, 50 ms, 8 or 429, 5 min reset, no limits
AT_A_TIME        -     36  20M, bucket 0.5 s, refused free, says zero, 2 s, 8 or 429, 5 s reset, 256 kB
AT_A_TIME      2.9      -  40M, bucket 1 s, refused free, says hint, 50 ms, 8 or 429, 5 s of 503, 10 texts
AT_A_TIME        -     24  40M, bucket 3 s, refused free, says all, 50 ms, 8 or 429, refused in rows, no limits
AT_A_TIME        -     20  40M, windows 60 s, refused free, says nothing, 0.3 s, 8 or 429, 5 s reset, 256 kB
AT_A_TIME        -     10  5M, bucket 1 s, refused free, says all, 50 ms, 8 or 429, no bad luck, 10 texts
AT_A_TIME      2.3      -  60 requests, bucket 60 s, refused free, says used, 2 s, 8 or 429, failing scattered, no limits
AT_A_TIME        -     17  no quota, 2 s, 8 or 429, 5 min of 503, no limits
AT_A_TIME      9.4     12  no quota, 5 ms, 8 or 429, refused in rows, 256 kB
AT_A_TIME      2.6      -  no quota, 50 ms, 8 or 429, refused scattered, 10 texts
SCARCE         3.0     13  60 requests, bucket 1 s, refused charged, says zero, 2 s, 32 at once, refused scattered, 256 kB
SCARCE         2.4     24  60 requests, bucket 1 s, refused charged, says zero, 5 ms, blind worker, slow minute, no limits
SCARCE           -     15  60 requests, bucket 10 s, refused charged, says nothing, 50 ms, unbounded, 5 min of 503, 10 texts
SCARCE           -     12  60 requests, windows 1 s, refused free, says zero, 0.3 s, 8 or 503, restarts, 10 texts
SCARCE         7.5      -  60 requests, windows 1 s, refused free, says zero, 2 s, 1 at once, no bad luck, no limits
SCARCE         1.6      -  60 requests, windows 60 s, refused charged, says hint, 2 s, 1 at once, refused in rows, 10 texts
SCARCE         8.0      -  60 requests, windows 60 s, refused charged, says used, 5 ms, 4 at once, 5 s of 503, no limits
FIRST          1.4      6  60 requests, bucket 1 s, refused charged, says all, 5 ms, unbounded, 5 s reset, 10 texts
SHORT          2.5      -  1M, windows 60 s, refused charged, says hint, 50 ms, 32 at once, refused scattered, 10 texts
SHORT          2.6      -  20M, windows 1 s, refused charged, says used, 5 ms, 32 at once, refused in rows, 10 texts
SHORT          3.3      -  40M, bucket 3 s, refused free, says hint, 5 ms, 8 or 503, no bad luck, 10 texts
SHORT          3.0      -  5M, bucket 60 s, refused free, says used, 50 ms, unbounded, no bad luck, 10 texts
NOISE          2.3     19  1M, bucket 60 s, refused charged, says zero, 50 ms, 4 at once, refused in rows, 256 kB
NOISE          2.2      -  20M, bucket 60 s, refused free, says hint, 50 ms, 32 at once, slow minute, 10 texts
NOISE            -     19  5M, bucket 3 s, refused charged, says nothing, 5 ms, 1 at once, slow minute, 256 kB
NOISE          4.1      -  no quota, 5 ms, unbounded, slow minute, 256 kB
OVERSIZED      1.8     20  20M, bucket 0.5 s, refused free, says hint, 0.3 s, unbounded, restarts, 256 kB
OVERSIZED      9.4     36  5M, bucket 0.5 s, refused charged, says hint, 50 ms, 8 or 503, refused in rows, 256 kB
OVERSIZED      2.3      -  5M, bucket 0.5 s, refused charged, says zero, 5 ms, 8 or 503, failing scattered, no limits
OVERSIZED        -     14  5M, bucket 0.5 s, refused free, says nothing, 5 ms, 32 at once, 5 s reset, no limits
OVERSIZED      2.1      -  5M, bucket 0.5 s, refused free, says nothing, 5 ms, 4 at once, refused scattered, 256 kB
OUTAGE         3.6      -  1M, bucket 1 s, refused charged, says nothing, 2 s, 8 or 503, 5 s of 503, 256 kB
OUTAGE         1.9      -  40M, bucket 0.5 s, refused free, says zero, 2 s, unbounded, 5 s of 503, no limits
OUTAGE         1.9     16  5M, bucket 3 s, refused free, says zero, 2 s, unbounded, 5 s of 503, no limits
HALVES         2.4      -  1M, bucket 10 s, refused free, says all, 5 ms, 1 at once, refused scattered, no limits
HALVES         2.1      -  1M, windows 60 s, refused free, says hint, 5 ms, unbounded, failing scattered, 256 kB
HALVES         1.5      -  20M, bucket 1 s, refused charged, says all, 0.3 s, 1 at once, failing scattered, 256 kB
HALVES         1.3      -  40M, bucket 1 s, refused free, says all, 0.3 s, unbounded, refused in rows, no limits
HALVES         2.3      -  40M, bucket 3 s, refused free, says all, 5 ms, 4 at once, failing scattered, no limits
WINDOWS          -     13  5M, windows 1 s, refused free, says all, 5 ms, 4 at once, 5 min of 503, 256 kB
LINE           1.7      -  1M, bucket 1 s, refused charged, says zero, 2 s, 1 at once, restarts, 10 texts
LINE           1.7      -  no quota, 2 s, 4 at once, restarts, 10 texts
BURSTS           -     12  1M, bucket 3 s, refused free, says nothing, 50 ms, 32 at once, restarts, 256 kB
BURSTS           -     16  1M, windows 1 s, refused free, says zero, 50 ms, blind worker, failing scattered, 10 texts
TAIL           1.4      -  1M, bucket 0.5 s, refused charged, says all, 2 s, 32 at once, no bad luck, 10 texts
"""  # noqa: E501  # a row a cell
"""Cells that exceed the bounds of their class.

The columns are the reason, the largest multiple of the ideal time, and the largest percentage of
requests refused; `-` is the bound of the class. The bounds are the measured values plus a sixth, so
that they cannot get worse unnoticed.
"""

MOST_REQUESTS = 400
"""Most requests where each holds few texts, so that the tests take seconds."""

CELLS = {cell.name: cell for cell in pairwise(count=0)}


@dataclass(frozen=True, slots=True)
class Looser:
    """The bounds of a cell that exceeds those of its class.

    Attributes:
        reason: a key of `REASONS`.
        ratio: most time, as a multiple of the ideal.
        refused: most requests refused, in percent.
    """

    reason: str = ""
    ratio: float = 0.0
    refused: float = 0.0


def exceptions() -> dict[str, Looser]:
    """Return the bounds in the table by the name of their cell."""
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
    """A run ends, only texts that the server refuses or fails are lost, and its bounds hold."""
    looser = LOOSER.get(cell.name, Looser())
    for seed, client in enumerate(clients_of(cell)):
        trial = try_cell(cell, seed, client, most_requests=MOST_REQUESTS)
        where = f"{client}, seed {seed}: {REASONS.get(looser.reason, 'holds so far')}"
        assert not trial.error, where
        assert (trial.lost, trial.kept) == (0, 0), where
        assert trial.ratio <= max(trial.most_ratio, looser.ratio), where
        assert 100 * trial.refused_share <= max(100 * trial.most_refused, looser.refused), where


def test_exceptions_are_of_the_sample() -> None:
    """Every listed cell is in the sample, and every reason is explained and used."""
    assert set(LOOSER) <= set(CELLS)
    assert {looser.reason for looser in LOOSER.values()} == set(REASONS)


def test_the_same_seed_gives_the_same_run() -> None:
    """Two runs with the same seed are equal, so that a failure can be reproduced."""
    cell = next(iter(CELLS.values()))
    assert try_cell(cell, 3, Client()) == try_cell(cell, 3, Client())


def test_scarce_requests_do_not_overload_a_slow_worker() -> None:
    """A hidden quota of requests does not make batches too large for a slow worker to answer.

    The worker takes 40 ms for each text: 2,000 of them, which fit into one request, take 80 s, or
    640 s where it stalls. Batches may grow only as fast as they are answered in time, so each one
    takes about 10 s at most, unless it stalls or waits for the one before.
    """
    sizes, late = list[int](), list[Request]()

    def watch(request: Request, reply: Reply, _: Sender) -> None:
        sizes.append(len(request.rows))
        if reply.after > request.timeout:
            late.append(request)

    cell = cell_of(
        {
            "quota": "60 requests",
            "limiter": "windows 1 s",
            "says": "says zero",
            "latency": "50 ms",
            "concurrency": "blind worker",
            "luck": "failing scattered",
        }
    )
    trial = try_cell(cell, 1, Client(), ideal=False, watch=watch)
    assert (trial.error, trial.lost, trial.kept) == ("", 0, 0)
    assert late == []
    assert trial.texts / 20 <= max(sizes) <= 10 / 0.04
    assert trial.seconds <= 4 * 0.04 * trial.texts
