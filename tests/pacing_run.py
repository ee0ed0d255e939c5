"""Runs a `Pacer` against the simulator's quota in simulated time: hours in milliseconds."""

import heapq
import itertools
import random
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from langchain_batch_embed.pacing import Pacer, Ticket
from langchain_batch_embed.retry import Backoff, Retry, decide
from langchain_batch_embed.simulator.quota import Quota as ServerQuota


class RefusedError(Exception):
    """A 429 as an SDK would raise it."""

    def __init__(self, body: Mapping[str, str], headers: Mapping[str, str]) -> None:
        super().__init__("429")
        self.status_code = 429
        self.body = body
        self.response = self
        self.headers = headers


@dataclass
class Outcome:
    """What came of a run; times in seconds."""

    seconds: float = 0.0
    requests: int = 0
    refused: list[float] = field(default_factory=list)
    passed: list[tuple[float, int]] = field(default_factory=list)
    most_in_flight: int = 0


def latency(tokens: int, dice: random.Random) -> float:
    """Return the seconds of a request at OpenAI, as far as is known from public samples."""
    return (0.08 + 7e-6 * tokens) * dice.lognormvariate(0, 0.85) + dice.uniform(0.04, 0.15)


def run(
    pacer: Pacer,
    charges: Sequence[int],
    quota: ServerQuota | None,
    *,
    headers: bool = True,
    told: bool = True,
    seed: int = 0,
    answer: Callable[[int, random.Random], float] = latency,
) -> Outcome:
    """Send batches of these charges through the pacer, as the dispatcher does.

    Args:
        pacer: what is tried.
        charges: tokens of each batch, in the order in which they are sent.
        quota: the server's, or `None`.
        headers: the server sends its rate-limit headers.
        told: a refusal says how long to wait, and what the quota is.
        seed: of all random numbers.
        answer: the seconds until an answer.
    """
    dice = random.Random(seed)
    outcome = Outcome()
    ready = deque((charge, 0) for charge in charges)
    events: list[tuple[float, int, Callable[[float], None]]] = []
    number = itertools.count()

    def at(time: float, event: Callable[[float], None]) -> None:
        heapq.heappush(events, (time, next(number), event))

    def arrive(charge: int, attempt: int, ticket: Ticket) -> Callable[[float], None]:
        def event(now: float) -> None:
            over = quota.admit(charge, now) if quota else None
            sent = quota.headers(now) if quota and headers else {}
            if over is None:
                outcome.passed.append((now, charge))
                at(now + answer(charge, dice), lambda now: pacer.succeeded(ticket, sent, now))
                return
            outcome.refused.append(now)
            message = "Too many requests"
            if told:
                message = (
                    f"Rate limit reached on {over.kind} per min (TPM): Limit {over.limit}, "
                    f"Used {over.used}, Requested {over.requested}. "
                    f"Please try again in {over.wait:.3f}s."
                )
            error = RefusedError({"message": message}, sent)
            at(now + dice.uniform(0.02, 0.1), refused(charge, attempt, ticket, error))

        return event

    def refused(
        charge: int, attempt: int, ticket: Ticket, error: RefusedError
    ) -> Callable[[float], None]:
        def event(now: float) -> None:
            decision = decide(
                error,
                attempt=attempt,
                inputs=1,
                max_retries=1_000_000,
                backoff=Backoff(),
                draw=dice.random,
            )
            assert isinstance(decision, Retry)
            pacer.refused(
                ticket, now, after=decision.after, headers=error.headers, quota=decision.quota
            )
            ready.appendleft((charge, attempt + 1))

        return event

    now = 0.0
    while ready or pacer.in_flight:
        wait = float("inf")
        while ready:
            charge, attempt = ready[0]
            wait = pacer.wait(charge, now)
            if wait > 0:
                break
            ready.popleft()
            ticket = pacer.start(charge, now)
            outcome.requests += 1
            outcome.most_in_flight = max(outcome.most_in_flight, pacer.in_flight)
            at(now + dice.uniform(0.02, 0.07), arrive(charge, attempt, ticket))
        if not events or now + wait < events[0][0]:
            now += wait
            continue
        now, _, due = heapq.heappop(events)
        due(now)
    outcome.seconds = now
    return outcome
