"""Runs the real sender in a cell of the grid and reports the result."""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from langchain_batch_embed.limits import FIRST_REQUESTS
from langchain_batch_embed.pacing.hedging import Hedges
from langchain_batch_embed.pacing.pacer import Pacer
from langchain_batch_embed.report import Tally
from langchain_batch_embed.sending.deployment import Deployment
from langchain_batch_embed.sending.flight import Flight
from langchain_batch_embed.sending.rehearsal import rehearse
from langchain_batch_embed.sending.sender import Sender
from langchain_batch_embed.sending.work import Lost, Outcome, Work
from langchain_batch_embed.texts.packing import Sizes

from .exchange import Reply, Request
from .grid import Cell
from .ideal import staged, texts_for
from .omniscient import omniscient_seconds
from .server import SimulatedServer

__all__ = ["Client", "EndlessError", "Trial", "clients_of", "sizes_for", "try_cell"]

IDEAL_SECONDS: Final = 20.0
FEWEST_TEXTS: Final = 2_000
MOST_TEXTS: Final = 40_000
MEAN_TOKENS: Final = 124

TIMEOUT: Final = 120.0
MAX_RETRIES: Final = 8

MOST_TURNS: Final = 2_000_000
"""Calls of `next` after which a run counts as endless."""


class EndlessError(RuntimeError):
    """A run does not end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """The user's options and what is known about the provider.

    Attributes:
        max_workers: most requests in flight.
        is_known: whether the provider is known to accept any number at once.
    """

    max_workers: int = 128
    is_known: bool = False

    def __str__(self) -> str:
        known = ", a known provider" if self.is_known else ""
        return f"at most {self.max_workers} at once{known}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One run.

    Attributes:
        cell: the cell, with its bad luck where it fell.
        client: the client that ran.
        seed: seed of the server's and the sender's luck.
        texts: number of texts sent.
        seconds: duration of the run, or `inf` if it did not end.
        ideal: seconds that a client that knows the server takes.
        requests: number of requests sent.
        refused: number of these refused with 429.
        unforeseen: number of refused ones, at most `FIRST_REQUESTS`, sent before the first 429 was
            back.
        lost: texts that failed but need not have.
        kept: texts that were answered but cannot be.
        hedged_share: share of the tokens that was sent a second time.
        error: why the run did not end, or empty if it did.
    """

    cell: Cell
    client: Client
    seed: int
    texts: int
    seconds: float
    ideal: float
    requests: int
    refused: int
    unforeseen: int
    lost: int
    kept: int
    hedged_share: float
    error: str = ""

    @property
    def ratio(self) -> float:
        """The time divided by the ideal time."""
        return self.seconds / self.ideal

    @property
    def refused_share(self) -> float:
        """Share of requests refused for the rate, without those that could not be foreseen."""
        return (self.refused - self.unforeseen) / max(1, self.requests)

    @property
    def tells_all(self) -> bool:
        """Whether headers announce the quota."""
        cell = self.cell
        has_quota = cell.requests_per_minute is not None or cell.tokens_per_minute is not None
        return has_quota and cell.says == "all"

    @property
    def most_ratio(self) -> float:
        """The bound of `ratio`."""
        return 1.1 if self.tells_all else 1.3

    @property
    def most_refused(self) -> float:
        """The bound of `refused_share`."""
        return 0.02 if self.tells_all else 0.1

    def faults(self) -> list[str]:
        """Return the bounds that the run does not keep."""
        faults = []
        if self.error:
            faults.append(f"does not end: {self.error}")
        if self.lost:
            faults.append(f"lost {self.lost}")
        if self.kept:
            faults.append(f"kept {self.kept}")
        if self.ratio > self.most_ratio:
            faults.append("time")
        if self.refused_share > self.most_refused:
            faults.append("refused")
        return faults


def sizes_of(texts: int, seed: int = 0) -> Sizes:
    """Return the sizes of texts like sections of documentation, with lognormal tokens."""
    dice = np.random.default_rng(seed)
    tokens = np.maximum(1, MEAN_TOKENS * dice.lognormal(-0.32, 0.8, texts)).astype(np.int64)
    return Sizes(tokens=tokens, charges=tokens, octets=4 * tokens)


_LONGEST: Final = sizes_of(MOST_TEXTS)


def sizes_for(cell: Cell, most_requests: int = MOST_TEXTS) -> Sizes:
    """Return texts for an ideal run of about 20 s, within the limits on their number."""
    most = min(MOST_TEXTS, most_requests * (cell.max_texts or MOST_TEXTS))
    texts = texts_for(cell, MEAN_TOKENS, IDEAL_SECONDS, fewest=FEWEST_TEXTS, most=most)
    return _first(_LONGEST, texts)


def try_cell(
    cell: Cell,
    seed: int = 0,
    client: Client = Client(),  # frozen
    *,
    watch: Callable[[Request, Reply, Sender], object] | None = None,
    ideal: bool = True,
    most_requests: int = MOST_TEXTS,
) -> Trial:
    """Run the sender in a cell.

    Args:
        cell: the server; its bad luck is moved into the run.
        seed: seed of all random numbers.
        client: the client that runs.
        watch: called with each request and its fate.
        ideal: whether to compute the ideal as well; otherwise it is 1.
        most_requests: limits the texts where a request holds few of them, to save time.
    """
    sizes = sizes_for(cell, most_requests)
    cell = staged(cell, sizes.charges)
    count = len(sizes.tokens)
    server = SimulatedServer(cell, seed)
    draw = random.Random(f"client {seed}").random
    pacer = Pacer(max_workers=client.max_workers, is_known=client.is_known, draw=draw)
    sender = _Bounded(
        [Deployment(pacer, max_retries=MAX_RETRIES, timeout=TIMEOUT, draw=draw)], hedge=True
    )
    tally = Tally()
    work = Work(
        rows=np.arange(count),
        sizes=sizes,
        max_items=2048,
        max_tokens=300_000,
        texts=[""] * count,
        sends=(_unused,),
        keep=_unused,
    )
    queue = sender.queue(work, tally, Hedges())
    sender.add(queue, 0.0)
    failed = np.zeros(count, dtype=np.bool_)

    def take(outcome: Outcome) -> None:
        if isinstance(outcome, Lost):
            failed[outcome.rows] = True

    watched = _Watched(server, sender, watch)
    error = ""
    try:
        seconds = rehearse(sender, [queue], watched, take=take)
    except (EndlessError, RuntimeError) as mistake:
        seconds, error = math.inf, str(mistake)
    while queue.outcomes:
        take(queue.outcomes.popleft())
    bad = np.zeros(count, dtype=np.bool_)
    bad[[row for row in cell.refused_rows | cell.failing_rows if row < count]] = True
    best = 1.0
    if ideal:
        best = omniscient_seconds(
            cell, sizes, max_workers=client.max_workers, seed=seed, timeout=TIMEOUT
        )
    return Trial(
        cell=cell,
        client=client,
        seed=seed,
        texts=count,
        seconds=seconds,
        ideal=best,
        requests=server.counts.requests,
        refused=server.counts.refused,
        unforeseen=min(FIRST_REQUESTS, watched.unforeseen),
        lost=int((failed & ~bad).sum()),
        kept=int((bad & ~failed).sum()),
        hedged_share=tally.hedged_tokens / queue.charge,
        error=error,
    )


def clients_of(cell: Cell) -> list[Client]:
    """Return the clients that may run in a cell.

    A known provider accepts any number and announces its quota.
    """
    clients = [Client(max_workers=128), Client(max_workers=16)]
    has_quota = cell.requests_per_minute is not None or cell.tokens_per_minute is not None
    tells = cell.says == "all" or not has_quota
    if tells and cell.computed_at_once is None and cell.refuses_above is None:
        clients.append(Client(is_known=True))
    return clients


class _Bounded(Sender):
    """A sender that raises an error when it makes no more progress."""

    turns = 0

    def next(self, now: float) -> Flight | float:
        self.turns += 1
        if self.turns > MOST_TURNS:
            raise EndlessError(f"{MOST_TURNS:,} turns by {now:.0f} s")
        return super().next(now)


@dataclass(slots=True)
class _Watched:
    """A server that passes each request to `watch` and counts unforeseeable refusals."""

    server: SimulatedServer
    sender: Sender
    watch: Callable[[Request, Reply, Sender], object] | None
    first_back: float = math.inf  # when the client learns of the first 429
    unforeseen: int = 0

    def receive(self, request: Request) -> Reply:
        reply = self.server.receive(request)
        if getattr(reply.error, "status_code", None) == 429:
            self.unforeseen += request.sent < self.first_back
            self.first_back = min(self.first_back, request.sent + reply.after)
        if self.watch is not None:
            self.watch(request, reply, self.sender)
        return reply


def _first(sizes: Sizes, texts: int) -> Sizes:
    return replace(
        sizes,
        tokens=sizes.tokens[:texts],
        charges=sizes.charges[:texts],
        octets=sizes.octets[:texts],
    )


def _unused(*_: Any, **__: Any) -> Any:
    raise AssertionError("nothing is sent in simulated time")
