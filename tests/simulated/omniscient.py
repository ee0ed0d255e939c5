"""The run of a client that knows the cell and its limiter: the yardstick for the engine's time.

It uses the same simulated server as the engine, and sends what the engine would send if it knew
everything from the start:

- the engine's own batches, from `pack`, for the true concurrency and quotas. Where the server
  computes a few at once in a time that hardly depends on the size, batches hold the usual 10,000
  tokens: one request of 2,048 texts is faster, but nobody should wait 80 s for it;
- all places are used from time 0, and a request that would be refused for the quota, or would meet
  an outage, is sent at the moment at which it is let in. So nothing is ever refused for the rate;
- once all has been sent, a request without an answer after 1.5 times the median is sent again, for
  5 % of the tokens, where quota is left. So the tail that remains is that of any client;
- texts that are refused are not known in advance: a batch that holds one is cut into quarters at
  once;
- nor are texts that fail with a 500: what was in five failed requests, one after the other and
  without a wait, is given up. Fewer could be chance at a server that fails one request in 100,
  where one text in a billion may be lost by mistake.

Luck is random, so the run is repeated with other luck, and the median counts.
"""

import heapq
import math
from collections import deque
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from langchain_batch_embed.pacing.hedging import Hedges
from langchain_batch_embed.texts.packing import INPUT_WORK, Sizes, pack

from .exchange import Reply, Request
from .grid import Cell
from .server import SimulatedServer, capacity

__all__ = ["omniscient_seconds"]

Rows = NDArray[np.intp]

REPEATS: Final = 3

USUAL: Final = 10_000
"""Work in a batch for a server that computes a few requests at once, in tokens."""

FEW_PARTS: Final = 8
"""A bucket or window that holds fewer usual batches than this is filled with equal ones."""

MOST_COPIES: Final = 2
PARTS: Final = 4
CERTAIN: Final = 5
MAX_ITEMS: Final = 2048
MAX_TOKENS: Final = 300_000


@dataclass(slots=True, eq=False)
class _Batch:
    rows: Rows
    charge: int
    sent: float = 0.0
    copies: int = 0
    failures: int = 0
    is_done: bool = False


@dataclass(slots=True, kw_only=True)
class _Run:
    """One run of the omniscient client."""

    cell: Cell
    server: SimulatedServer
    charges: NDArray[np.int64]
    most_in_flight: int
    timeout: float
    number: int = 0
    under_way: list[tuple[float, int, _Batch, Reply]] = field(default_factory=list)

    def seconds(self, batches: list[_Batch]) -> float:
        """Send everything and return the time at which the last text has its outcome."""
        line, now = deque(batches), 0.0
        hedges = Hedges()
        hedges.allow(float(sum(batch.charge for batch in batches)))
        left = sum(len(batch.rows) for batch in batches)
        while left:
            batch, wait = self._next(line, hedges, now)
            if batch is not None:
                self._send(batch, now)
                continue
            first = self.under_way[0][0] if self.under_way else math.inf
            if now + wait < first:
                now += wait
                continue
            now, _, batch, reply = heapq.heappop(self.under_way)
            batch.copies -= 1
            if batch.is_done:
                continue
            if reply.error is None and reply.after <= self.timeout:
                hedges.answered(now - batch.sent)
                batch.is_done = True
                left -= len(batch.rows)
            elif (status := getattr(reply.error, "status_code", None)) in {400, 500}:
                batch.failures += 1
                if len(batch.rows) > 1:
                    batch.is_done = True
                    parts = np.array_split(batch.rows, min(PARTS, len(batch.rows)))
                    line.extendleft(self.batch(rows, batch.failures) for rows in reversed(parts))
                elif status == 400 or batch.failures >= CERTAIN:
                    batch.is_done = True
                    left -= 1
                elif not batch.copies:
                    line.appendleft(batch)
            elif not batch.copies:
                line.appendleft(batch)
        return now

    def batch(self, rows: Rows, failures: int = 0) -> _Batch:
        return _Batch(rows, int(self.charges[rows].sum()), failures=failures)

    def _next(self, line: deque[_Batch], hedges: Hedges, now: float) -> tuple[_Batch | None, float]:
        """Return the batch to send now, or the seconds until there may be one."""
        if len(self.under_way) >= self.most_in_flight:
            return None, math.inf
        if line:
            wait = self._delay(line[0], now)
            return (None, wait) if wait else (line.popleft(), 0.0)
        if len(self.under_way) >= (self.cell.computed_at_once or math.inf):
            return None, math.inf
        late = {id(each[2]): each[2] for each in self.under_way if not each[2].is_done}
        once = sum(batch.charge for batch in late.values() if batch.copies == 1)
        patience, wait = hedges.patience(once), math.inf
        for batch in late.values():
            if batch.copies > MOST_COPIES or not hedges.affords(batch.charge):
                continue
            left = max(0.0, batch.sent + patience - now)
            if not left and not (left := self._delay(batch, now)):
                hedges.spend(batch.charge)
                return batch, 0.0
            wait = min(wait, left)
        return None, wait

    def _delay(self, batch: _Batch, now: float) -> float:
        return self.server.delay(self._request(batch, now))

    def _request(self, batch: _Batch, now: float) -> Request:
        return Request(
            number=self.number,
            rows=batch.rows,
            tokens=batch.charge,
            charge=batch.charge,
            sent=now,
            timeout=self.timeout,
        )

    def _send(self, batch: _Batch, now: float) -> None:
        reply = self.server.receive(self._request(batch, now))
        after = min(reply.after, self.timeout)
        batch.sent = now
        batch.copies += 1
        heapq.heappush(self.under_way, (now + after, self.number, batch, reply))
        self.number += 1


def omniscient_seconds(
    cell: Cell, sizes: Sizes, *, max_workers: int = 128, seed: int = 0, timeout: float = 120.0
) -> float:
    """Return the seconds of an omniscient client: the median of several runs with different luck.

    Args:
        cell: the server.
        sizes: sizes of the texts, all of which are sent.
        max_workers: most requests in flight.
        seed: seed of the server, whose fixed windows start at a random phase.
        timeout: seconds for one request.
    """
    times = []
    for repeat in range(REPEATS):
        server = SimulatedServer(cell, seed)
        server.reseed((seed, repeat))
        run = _Run(
            cell=cell,
            server=server,
            charges=sizes.charges,
            most_in_flight=_most_in_flight(cell, max_workers),
            timeout=timeout,
        )
        times.append(run.seconds([run.batch(rows) for rows in _cut(cell, sizes, max_workers)]))
    return median(times)


def _most_in_flight(cell: Cell, max_workers: int) -> int:
    most = min(max_workers, cell.refuses_above or max_workers)
    if cell.computed_at_once is not None:
        # As many again are on their way, so that the server is never idle.
        most = min(most, 2 * cell.computed_at_once)
    return most


def _cut(cell: Cell, sizes: Sizes, max_workers: int) -> list[Rows]:
    items = min(MAX_ITEMS, cell.max_texts or MAX_ITEMS)
    tokens: float = MAX_TOKENS
    if cell.max_bytes is not None:
        tokens = min(tokens, cell.max_bytes / 4)
    holds = math.inf
    if cell.tokens_per_minute is not None:
        holds = capacity(cell.tokens_per_minute, cell)
        tokens = min(tokens, holds)
        if (parts := math.ceil(holds / USUAL)) < FEW_PARTS:
            tokens = min(tokens, holds / parts)
    few_at_once = cell.computed_at_once or cell.refuses_above
    if few_at_once is not None and cell.requests_per_minute is None:
        return _usual(sizes, items, tokens)
    batches = pack(
        sizes.tokens,
        max_items=items,
        max_tokens=int(tokens),
        workers=min(max_workers, few_at_once or max_workers),
        spare_requests=15 / 60 * (cell.requests_per_minute or math.inf),
    )
    return [np.arange(batch.start, batch.stop) for batch in batches]


def _usual(sizes: Sizes, items: int, tokens: float) -> list[Rows]:
    """Return batches of the usual size."""
    batches: list[Any] = []
    begin = work = charge = 0
    for row, each in enumerate(sizes.tokens.tolist()):
        work += each + INPUT_WORK
        charge += each
        if row > begin and (work > USUAL or charge > tokens or row - begin >= items):
            batches.append(np.arange(begin, row))
            begin, work, charge = row, each + INPUT_WORK, each
    batches.append(np.arange(begin, len(sizes.tokens)))
    return batches
