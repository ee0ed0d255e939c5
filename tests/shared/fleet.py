"""Many processes in simulated time, with real senders and leases, one ledger and one quota.

Everything happens in order of time, so requests are judged when they arrive, and an exchange is
made when it reaches the ledger. Hours pass in seconds, and every run is the same.
"""

import heapq
import itertools
import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from langchain_batch_embed.pacing.hedging import Hedges
from langchain_batch_embed.pacing.pacer import Pacer
from langchain_batch_embed.report import Tally
from langchain_batch_embed.sending.deployment import Deployment
from langchain_batch_embed.sending.flight import Flight
from langchain_batch_embed.sending.queue import Queue
from langchain_batch_embed.sending.sender import Sender
from langchain_batch_embed.sending.work import Done
from langchain_batch_embed.shared.exchange import Exchange, Reply
from langchain_batch_embed.shared.lease import Lease
from langchain_batch_embed.simulator.quota import OverQuota, Quota
from tests.sending.calls import make_work
from tests.simulated.refusals import over_quota, too_large_for_quota

from .model import Ledger

__all__ = ["Fleet", "Worker"]

EPOCH = 1000.0
TRIP = 0.002
"""Seconds of a round trip to the ledger."""


@dataclass(eq=False)
class Worker:
    """One process of the fleet."""

    name: str
    sender: Sender
    lease: Lease | None
    queue: Queue
    wakes_at: float = 0.0
    is_alive: bool = True
    done: int = 0
    ended_at: float = math.inf
    exchanges: int = 0


@dataclass
class Fleet:
    """Processes that share an account.

    Args:
        tokens_per_minute: the account's quota.
        requests_per_minute: the account's quota of requests; `None` if there is none.
        bucket_seconds: how many seconds of quota the account's bucket holds.
        latency: returns the seconds until an answer.
        shares: whether the processes share the quota through a ledger.
        says: whether the server's answers have headers.
        trip: seconds of a round trip to the ledger.
    """

    tokens_per_minute: int = 10_000_000
    requests_per_minute: int | None = None
    bucket_seconds: float = 1.0
    shares: bool = True
    says: bool = True
    trip: float = TRIP
    latency: Callable[[random.Random], float] = lambda draw: 0.1 * draw.lognormvariate(0, 0.5)
    now: float = 0.0
    workers: list[Worker] = field(default_factory=list)
    admitted: list[tuple[float, int]] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)
    requests: int = 0
    ledger_is_down: Callable[[float], bool] = lambda _: False

    def __post_init__(self) -> None:
        """Start the server and the ledger."""
        self.quota = Quota(
            self.requests_per_minute, self.tokens_per_minute, bucket_seconds=self.bucket_seconds
        )
        self.ledger = Ledger(epoch=EPOCH)
        self._draw = random.Random(0)
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._number = itertools.count()

    def at(self, time: float, act: Callable[[], None]) -> None:
        """Schedule an action at a time."""
        heapq.heappush(self._events, (time, next(self._number), act))

    def add(
        self, count: int, *, tokens: int = 500, max_items: int = 20, per_minute: float | None = None
    ) -> Worker:
        """Start a process with a call of this many texts."""
        name = f"w{len(self.workers)}"
        draw = random.Random(name).random
        lease = Lease(name, draw=draw, tokens_per_minute=per_minute) if self.shares else None
        pacer = Pacer(
            max_workers=32,
            first_requests=8,
            is_known=True,
            tokens_per_minute=per_minute,
            meters=None if lease is None else lease.meters,
            draw=draw,
        )
        sender = Sender([Deployment(pacer, max_retries=8, timeout=60.0, draw=draw)])
        queue = sender.queue(
            make_work(count, tokens=tokens, max_items=max_items), Tally(), Hedges()
        )
        worker = Worker(name, sender, lease, queue)
        sender.add(queue, self.now)
        self.workers.append(worker)
        self.at(self.now, lambda: self._advance(worker))
        return worker

    def kill(self, worker: Worker) -> None:
        """Kill a process, without a message to the ledger."""
        worker.is_alive = False

    def run(self, until: float = math.inf) -> float:
        """Run until everything is sent, and return the time at which that was."""
        while self._events and self.now < until:
            if not any(worker.is_alive and worker.queue.open for worker in self.workers):
                break
            self.now, _, act = heapq.heappop(self._events)
            assert self.now < 3600, "the fleet does not come to an end"
            act()
        return max(worker.ended_at for worker in self.workers if worker.is_alive)

    def used(self, begin: float, end: float) -> float:
        """Return the share of the quota that was admitted in a period."""
        amount = sum(charge for at, charge in self.admitted if begin <= at < end)
        return amount / (self.tokens_per_minute / 60 * (end - begin))

    def _advance(self, worker: Worker) -> None:
        if not worker.is_alive:
            return
        while True:
            turn = worker.sender.next(self.now)
            worker.sender.news()
            if not isinstance(turn, Flight):
                break
            self._send(worker, turn)
        for queue in [worker.queue]:
            while queue.outcomes:
                outcome = queue.outcomes.popleft()
                worker.done += len(outcome.rows) if isinstance(outcome, Done) else 0
        if not worker.queue.open:
            worker.ended_at = min(worker.ended_at, self.now)
        self._look(worker)
        if math.isfinite(turn) and worker.queue.open:
            self._wake(worker, self.now + max(turn, 1e-6))

    def _wake(self, worker: Worker, time: float) -> None:
        def act() -> None:
            if worker.wakes_at == time:
                self._advance(worker)

        if not self.now < worker.wakes_at <= time:
            worker.wakes_at = time
            self.at(time, act)

    def _look(self, worker: Worker) -> None:
        """Begin an exchange if one is due, or schedule the next check."""
        lease = worker.lease
        if lease is None or not worker.is_alive:
            return
        leaves = not worker.queue.open
        delay = lease.delay(self.now)
        if delay == math.inf:
            return
        if delay > 0 and not leaves:
            self.at(self.now + delay, lambda: self._look(worker))
            return
        in_flight = worker.sender.deployments[0].pacer.amounts_in_flight()
        exchange = lease.begin(self.now, in_flight=in_flight, leaves=leaves)
        worker.exchanges += 1
        self.at(self.now + self.trip / 2, lambda: self._exchange(worker, lease, exchange))

    def _exchange(self, worker: Worker, lease: Lease, exchange: Exchange) -> None:
        if self.ledger_is_down(self.now):
            self.at(self.now + 0.5, lambda: self._fail(worker, lease))
            return
        reply = self.ledger.exchange(exchange, EPOCH + self.now)
        self.at(self.now + self.trip / 2, lambda: self._accept(worker, lease, reply))

    def _fail(self, worker: Worker, lease: Lease) -> None:
        lease.failed(TimeoutError(), self.now)
        self._advance(worker)

    def _accept(self, worker: Worker, lease: Lease, reply: Reply) -> None:
        lease.accept(reply, self.now)
        if worker.queue.open:
            self._advance(worker)

    def _send(self, worker: Worker, flight: Flight) -> None:
        seconds = self.latency(self._draw)
        way = min(0.02, seconds / 3)
        self.at(self.now + way, lambda: self._arrive(worker, flight, seconds - way))

    def _arrive(self, worker: Worker, flight: Flight, seconds: float) -> None:
        self.requests += 1
        charge = flight.ticket.charge
        over = self.quota.admit(charge, self.now)
        headers = self.quota.headers(self.now) if self.says else {}
        if over is None:
            self.admitted.append((self.now, charge))
            self.at(self.now + seconds, lambda: self._answer(worker, flight, headers))
            return
        self.refused.append(self.now)
        error = _refusal(over, headers)
        self.at(self.now + 0.02, lambda: self._refuse(worker, flight, error))

    def _answer(self, worker: Worker, flight: Flight, headers: dict[str, str]) -> None:
        if worker.is_alive:
            worker.sender.answered(flight, self.now, headers=headers)
            self._advance(worker)

    def _refuse(self, worker: Worker, flight: Flight, error: Exception) -> None:
        if worker.is_alive:
            worker.sender.failed(flight, error, self.now)
            self._advance(worker)


def _refusal(over: OverQuota, headers: dict[str, str]) -> Exception:
    if math.isinf(over.wait):
        return too_large_for_quota(
            over.kind, limit=over.limit, requested=over.requested, headers=headers
        )
    return over_quota(
        over.kind,
        limit=over.limit,
        used=over.used,
        requested=over.requested,
        delay=over.wait,
        headers={**headers, "retry-after": f"{over.wait:.3f}"},
    )
