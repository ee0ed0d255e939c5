"""Several deployments in simulated time: each is a server of the grid, or one that hangs."""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from langchain_batch_embed.pacing.hedging import Hedges
from langchain_batch_embed.pacing.pacer import MAX_OUTAGE, Pacer
from langchain_batch_embed.report import DeploymentReport, Report, Tally
from langchain_batch_embed.sending.deployment import Deployment
from langchain_batch_embed.sending.flight import Flight
from langchain_batch_embed.sending.rehearsal import Reply, Request, Server, rehearse
from langchain_batch_embed.sending.sender import Sender
from langchain_batch_embed.sending.work import Lost, Outcome, Work
from langchain_batch_embed.texts.packing import Sizes
from tests.sending.calls import send_ones
from tests.simulated.grid import Cell
from tests.simulated.server import SimulatedServer

__all__ = ["Hanging", "Run", "Several", "make_senders", "run", "work_of"]

MOST_TURNS = 500_000


@dataclass
class Hanging:
    """A server that stops answering at some moment.

    Attributes:
        server: answers until that moment.
        since: the moment at which it stops, in seconds.
    """

    server: Server
    since: float

    def receive(self, request: Request) -> Reply:
        """Return the server's reply if it arrives in time, else one that never comes."""
        reply = self.server.receive(request)
        return reply if request.sent + reply.after < self.since else Reply(after=math.inf)


@dataclass
class Several:
    """One server for each deployment; each server numbers its own requests.

    Attributes:
        servers: the servers, in the order of the deployments.
        answered: tokens that each server has answered.
        requests: the requests that each server has received.
    """

    servers: Sequence[Server]
    answered: list[int] = field(default_factory=list)
    requests: list[list[Request]] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Start all counts at 0."""
        self.answered = [0] * len(self.servers)
        self.requests = [[] for _ in self.servers]

    def receive(self, request: Request) -> Reply:
        """Pass the request on to its server."""
        at, number = request.at, len(self.requests[request.at])
        own = Request(
            number=number,
            rows=request.rows,
            tokens=request.tokens,
            charge=request.charge,
            sent=request.sent,
            timeout=request.timeout,
            at=at,
        )
        self.requests[at].append(own)
        reply = self.servers[at].receive(own)
        if reply.error is None and reply.after <= request.timeout:
            self.answered[at] += request.tokens
        return reply


class _Bounded(Sender):
    turns = 0

    def next(self, now: float) -> Flight | float:
        self.turns += 1
        if self.turns > MOST_TURNS:
            raise RuntimeError(f"{MOST_TURNS:,} turns by {now:.0f} s")
        return super().next(now)


def make_senders(
    count: int,
    *,
    max_workers: int = 128,
    is_known: bool = False,
    timeout: float = 120.0,
    max_outage: float = MAX_OUTAGE,
    hedge: bool = True,
    seed: int = 0,
) -> Sender:
    """Return a sender to this many deployments."""
    draw = random.Random(f"client {seed}").random
    deployments = [
        Deployment(
            Pacer(
                max_workers=max_workers,
                first_requests=16 if is_known else 8,
                is_known=is_known,
                max_outage=max_outage,
                draw=draw,
            ),
            max_retries=8,
            timeout=timeout,
            server=f"http://server-{number}",
            number=number,
            is_alone=count == 1,
            draw=draw,
        )
        for number in range(count)
    ]
    return _Bounded(deployments, hedge=hedge)


def work_of(count: int, tokens: int, *, max_items: int = 2048) -> Work:
    """Return work on texts of one size, none of which is really sent."""
    each = np.full(count, tokens)
    return Work(
        rows=np.arange(count),
        sizes=Sizes(tokens=each, charges=each, octets=4 * each),
        max_items=max_items,
        max_tokens=300_000,
        texts=[""] * count,
        sends=(send_ones,) * 8,
        keep=lambda rows, answer: None,  # noqa: ARG005
    )


@dataclass(frozen=True, kw_only=True)
class Run:
    """The result of a call.

    Attributes:
        seconds: duration of the call.
        lost: the error of each text without a vector.
        done: number of texts with a vector.
        tally: counts of what was sent.
        several: the servers.
    """

    seconds: float
    lost: dict[int, BaseException]
    done: int
    tally: Tally
    several: Several

    @property
    def parts(self) -> Sequence[DeploymentReport]:
        """Return the report of each deployment."""
        report = Report.of(self.tally, texts=0, unique=0, done=0, seconds=0.0, dollars=None)
        return report.deployments


def run(sender: Sender, servers: Sequence[Server], work: Work, *, now: float = 0.0) -> Run:
    """Run one call to its end."""
    tally, several = Tally(), Several(servers)
    outcomes: list[Outcome] = []
    queue = sender.queue(work, tally, Hedges(), since=now)
    sender.add(queue, now)
    end = rehearse(sender, [queue], several, now=now, take=outcomes.append)
    outcomes += queue.outcomes
    queue.outcomes.clear()
    sender.remove(queue)
    lost = {
        row: each.error for each in outcomes if isinstance(each, Lost) for row in each.rows.tolist()
    }
    done = sum(len(each.rows) for each in outcomes) - len(lost)
    return Run(seconds=end - now, lost=lost, done=done, tally=tally, several=several)


def server(seed: int = 0, **options: object) -> SimulatedServer:
    """Return a server of the grid with these options."""
    return SimulatedServer(Cell(**options), seed)  # type: ignore[arg-type]
