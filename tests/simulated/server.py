"""Simulates any server of the grid without waiting, with all randomness from a seed.

Requests come in order of sending, and each gets its whole fate at once. This is exact except for
requests that overtake others on the way to the server:

- the limiter may refuse the other one of two that compete (see `limiter`);
- the queue is served in order of sending, not of arrival;
- a request on its way holds a place of `refuses_above`, so there are never more than allowed.
"""

import heapq
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from langchain_batch_embed.simulator.quota import go_duration

from .exchange import Reply, Request
from .grid import Cell, Outage
from .limiter import Bucket, Limiter, Windows
from .refusals import StatusError, over_quota, too_large_for_quota

__all__ = ["Counts", "SimulatedServer", "capacity", "phase"]

# The latency model of docs/api-facts.md: lognormal, 7 ms a kilotoken at a scale of 0.3 s.
SIGMA: Final = 0.85
SECONDS_PER_TOKEN: Final = 0.007 / 1000
SLOPE_SCALE: Final = 0.3
NETWORK_SHARE: Final = 0.2
STALLED_SHARE: Final = 0.007
STALL_FACTOR: Final = 8.0

_BLOCK: Final = 4096  # requests whose random numbers are drawn together


@dataclass(slots=True, kw_only=True)
class Counts:
    """What the server has counted.

    Attributes:
        requests: all requests received.
        refused: requests answered with 429.
        answered: requests whose vectors reached a client that still waited.
        texts_computed: texts computed, including those whose client had gone.
        texts_answered: texts of answered requests; those sent twice count twice.
        tokens_let_through: charged tokens of the requests that passed the limiter.
        most_in_flight: most requests that the client waited for at once.
    """

    requests: int = 0
    refused: int = 0
    answered: int = 0
    texts_computed: int = 0
    texts_answered: int = 0
    tokens_let_through: int = 0
    most_in_flight: int = 0


class SimulatedServer:
    """One server of the grid.

    Args:
        cell: the kind of server.
        seed: seed of all random numbers; the n-th request always has the same luck.
    """

    def __init__(self, cell: Cell, seed: int = 0) -> None:
        self.cell = cell
        self.counts = Counts()
        self._dice = np.random.default_rng(seed)
        self._luck: list[tuple[float, float]] = []  # of each request: factor, stall factor
        self._limiters = _limiters(cell, phase(cell, seed))
        self._resets = [outage for outage in cell.outages if outage.kind == "reset"]
        self._workers: dict[int, list[float]] = {}  # when each worker is free, by restarts
        self._inside: list[float] = []  # when each request leaves the server
        self._in_flight: list[float] = []  # when each request ends for the client
        self._refused = _mask(cell.refused_rows)
        self._failing = _mask(cell.failing_rows)

    def receive(self, request: Request) -> Reply:
        """Return the fate of a request; calls must be in order of `sent`."""
        cell, counts, sent = self.cell, self.counts, request.sent
        counts.requests += 1
        while len(self._luck) <= request.number:
            self._draw()
        factor, stall = self._luck[request.number]
        network = NETWORK_SHARE * cell.latency * factor
        slope = SECONDS_PER_TOKEN * cell.latency / SLOPE_SCALE
        total = (cell.latency + slope * request.tokens) * factor * stall
        compute = total - network
        if cell.seconds_per_text is not None:
            compute = cell.seconds_per_text * len(request.rows) * stall
        network *= self._slowness(sent)
        reply = self._serve(request, network, compute)
        if self._resets:
            reply = self._cut(request, reply, network)

        in_flight = self._in_flight
        while in_flight and in_flight[0] <= sent:
            heapq.heappop(in_flight)
        heapq.heappush(in_flight, sent + min(reply.after, request.timeout))
        counts.most_in_flight = max(counts.most_in_flight, len(in_flight))
        if reply.error is None:
            if reply.after <= request.timeout:
                counts.answered += 1
                counts.texts_answered += len(request.rows)
        elif getattr(reply.error, "status_code", None) == 429:
            counts.refused += 1
        return reply

    def delay(self, request: Request) -> float:
        """Return the seconds after `sent` at which the request would be let in.

        Only quotas and outages count. A client that knows everything uses this.
        """
        while len(self._luck) <= request.number:
            self._draw()
        network = NETWORK_SHARE * self.cell.latency * self._luck[request.number][0]
        arrival = request.sent + network * self._slowness(request.sent) / 2
        if (outage := self._outage(arrival)) is not None:
            # Rounding must not make it arrive a moment too early.
            return max(0.0, outage.start + outage.length - arrival) + 1e-6
        amounts = {"requests": 1.0, "tokens": float(request.charge)}
        waits = [0.0]
        for kind, limiter in self._limiters.items():
            limiter.settle(request.sent)
            waits.append(limiter.delay(amounts[kind], arrival))
        return max(waits)

    def reseed(self, seed: Sequence[int]) -> None:
        """Give all requests new random numbers; the phase of fixed windows stays."""
        self._luck.clear()
        self._dice = np.random.default_rng(seed)

    def _serve(self, request: Request, network: float, compute: float) -> Reply:
        """Return the reply, assuming that no outage begins before it arrives."""
        arrival = request.sent + network / 2
        if (error := self._turned_away(request, arrival)) is not None:
            return Reply(after=network, error=error)
        headers: dict[str, str] = {}
        if self._limiters:
            if (refusal := self._limit(request, arrival)) is not None:
                return Reply(after=network, headers=refusal.response.headers, error=refusal)
            if self.cell.says == "all":
                headers = self._headers(arrival)
        self.counts.tokens_let_through += request.charge
        if self._refused is not None and _holds(request.rows, self._refused):
            message = "Your request was rejected as a result of our safety system."
            refusal = StatusError(400, message, headers=headers, type="invalid_request_error")
            return Reply(after=network, headers=headers, error=refusal)
        done = self._compute(request, arrival, compute)
        after = done + network / 2 - request.sent
        if self._failing is not None and _holds(request.rows, self._failing):
            failure = StatusError(500, "Internal Server Error", headers=headers)
            return Reply(after=after, headers=headers, error=failure)
        return Reply(after=after, headers=headers)

    def _turned_away(self, request: Request, arrival: float) -> Exception | None:
        """Return the error of a request that is rejected at the door and costs nothing."""
        cell = self.cell
        if cell.outages and (outage := self._outage(arrival)) is not None:
            if outage.kind == "reset":
                return ConnectionRefusedError("connection refused")
            return StatusError(503, "Service Unavailable")
        if cell.refuses_above is not None:
            self._inside = [end for end in self._inside if end > request.sent]
            if sum(end > arrival for end in self._inside) >= cell.refuses_above:
                return StatusError(cell.refuses_with, "Too many connections")
        if cell.max_bytes is not None and 4 * request.charge > cell.max_bytes:
            return StatusError(413, "Request Entity Too Large")
        if cell.max_texts is not None and len(request.rows) > cell.max_texts:
            message = f"batch size is invalid, it should not be larger than {cell.max_texts}."
            return StatusError(400, message)
        return None

    def _compute(self, request: Request, arrival: float, seconds: float) -> float:
        """Return when the vectors are computed, or `inf` if never because the client has gone."""
        cell, gone = self.cell, request.sent + request.timeout
        start = arrival
        workers: list[float] = []
        if cell.computed_at_once is not None:
            workers = self._workers_at(arrival)
            start = max(arrival, workers[0])
            if cell.notices_gone and start >= gone:
                return math.inf
        done = start + seconds * self._slowness(start)
        if workers:
            heapq.heapreplace(workers, done)
        if cell.refuses_above is not None:
            # The proxy closes its connection to the server when the client has gone.
            self._inside.append(min(done, gone))
        if done <= self._next_reset(request.sent):
            self.counts.texts_computed += len(request.rows)
        return done

    def _limit(self, request: Request, arrival: float) -> StatusError | None:
        """Charge a request, or return the refusal if a quota has no room for it."""
        cell = self.cell
        amounts = {"requests": 1.0, "tokens": float(request.charge)}
        delays = {}
        for kind, limiter in self._limiters.items():
            limiter.settle(request.sent)
            delays[kind] = limiter.delay(amounts[kind], arrival)
        if not any(delays.values()):
            for kind, limiter in self._limiters.items():
                limiter.charge(amounts[kind], arrival)
            return None
        kind = max(delays, key=lambda kind: delays[kind])
        limiter, amount, delay = self._limiters[kind], amounts[kind], delays[kind]
        if delay < math.inf:
            self._charge_refused(amounts, arrival)
            # After the charge: a client that obeys is let in, unless others come first.
            delay = max(delay, limiter.delay(amount, arrival))
        headers = {"all": lambda: self._headers(arrival)}.get(cell.says, dict[str, str])()
        if delay == math.inf:
            if cell.says in {"all", "used"}:
                return too_large_for_quota(
                    kind, limit=limiter.capacity, requested=amount, headers=headers
                )
            return StatusError(429, "Too many requests")
        if cell.says == "nothing":
            return StatusError(429, "Too many requests")
        if cell.says == "zero":
            return StatusError(429, "Too many requests", headers={"retry-after": "0"})
        milliseconds = math.ceil(delay * 1000)
        if cell.says == "hint":
            hint = {"retry-after": f"{milliseconds / 1000:.3f}"}
            return StatusError(429, "Too many requests", headers=hint)
        limit, used = self._per_minute(kind), limiter.used(arrival)
        if cell.says == "all":
            headers["retry-after-ms"] = str(milliseconds)
            headers["retry-after"] = str(math.ceil(delay))
            used += limit - limiter.capacity
        return over_quota(
            kind, limit=limit, used=used, requested=amount, delay=delay, headers=headers
        )

    def _charge_refused(self, amounts: dict[str, float], arrival: float) -> None:
        for kind, limiter in self._limiters.items():
            # Not above the capacity, so that a storm of retries blocks itself only while it lasts.
            room = max(0.0, limiter.capacity - limiter.used(arrival))
            charge = min(room, amounts[kind] * self.cell.refused_share)
            if charge > 0:
                limiter.charge(charge, arrival)

    def _headers(self, arrival: float) -> dict[str, str]:
        """Return the x-ratelimit-* headers as OpenAI writes them."""
        headers = {}
        for kind, limiter in self._limiters.items():
            left = max(0, math.floor(limiter.capacity - limiter.used(arrival) + 1e-3))
            headers[f"x-ratelimit-limit-{kind}"] = str(self._per_minute(kind))
            headers[f"x-ratelimit-remaining-{kind}"] = str(left)
            headers[f"x-ratelimit-reset-{kind}"] = go_duration(limiter.reset(arrival))
        return headers

    def _per_minute(self, kind: str) -> int:
        cell = self.cell
        limit = cell.requests_per_minute if kind == "requests" else cell.tokens_per_minute
        return limit or 0

    def _slowness(self, at: float) -> float:
        """Return the factor by which everything that begins at this time is slowed down."""
        slow = self.cell.slow
        return self.cell.slow_factor if slow is not None and slow[0] <= at < slow[1] else 1.0

    def _outage(self, at: float) -> Outage | None:
        for outage in self.cell.outages:
            if outage.start <= at < outage.start + outage.length:
                return outage
        return None

    def _next_reset(self, sent: float) -> float:
        return min((reset.start for reset in self._resets if reset.start > sent), default=math.inf)

    def _cut(self, request: Request, reply: Reply, network: float) -> Reply:
        """Drop the reply if the connections break before it arrives."""
        after = self._next_reset(request.sent) - request.sent
        if reply.after <= after:
            return reply
        error = ConnectionResetError("connection reset by peer")
        return Reply(after=after + network / 2, error=error)

    def _workers_at(self, at: float) -> list[float]:
        """Return when each worker is free; a restart discards all work."""
        restarts = sum(reset.start <= at for reset in self._resets)
        if restarts not in self._workers:
            self._workers[restarts] = [0.0] * (self.cell.computed_at_once or 0)
        return self._workers[restarts]

    def _draw(self) -> None:
        factors = np.exp(SIGMA * self._dice.standard_normal(_BLOCK)).tolist()
        stalls = np.where(self._dice.random(_BLOCK) < STALLED_SHARE, STALL_FACTOR, 1.0).tolist()
        self._luck.extend(zip(factors, stalls, strict=True))


def phase(cell: Cell, seed: int) -> float:
    """Return the seconds of the first fixed window that have passed at time 0."""
    return random.Random(f"phase {seed}").random() * cell.limiter_seconds


def capacity(limit_per_minute: float, cell: Cell) -> float:
    """Return the units that the limiter's bucket or window holds."""
    # At least one request, or nothing would ever be let in.
    return max(1.0, limit_per_minute / 60 * cell.limiter_seconds)


def _limiters(cell: Cell, phase: float) -> dict[str, Limiter]:
    limiters: dict[str, Limiter] = {}
    limits = {"requests": cell.requests_per_minute, "tokens": cell.tokens_per_minute}
    for kind, limit in limits.items():
        if limit is None:
            continue
        if cell.limiter == "bucket":
            limiters[kind] = Bucket(limit / 60, capacity(limit, cell))
        else:
            limiters[kind] = Windows(capacity(limit, cell), cell.limiter_seconds, phase)
    return limiters


def _mask(rows: frozenset[int]) -> NDArray[np.bool_] | None:
    if not rows:
        return None
    mask = np.zeros(max(rows) + 1, dtype=np.bool_)
    mask[sorted(rows)] = True
    return mask


def _holds(rows: NDArray[Any], mask: NDArray[np.bool_]) -> bool:
    return bool(mask[rows[rows < len(mask)]].any())
