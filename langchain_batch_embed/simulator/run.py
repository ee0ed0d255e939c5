"""The state of one run, from the time the scenario is set: random draws, quotas and counters."""

import asyncio
import random
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from .answers import NO_ANSWER
from .batches import Batches
from .periods import seconds_away, seconds_to_outage, slowness
from .pool import Pool
from .question import Cache, Question
from .quota import Quota
from .scenario import Scenario
from .workers import Workers

_LOG_LENGTH: Final = 100_000

# The latency model, fitted to public recordings of OpenAI's endpoint (see `Scenario.latency`).
_SERVER_SECONDS: Final = 0.080
_SERVER_SECONDS_PER_TOKEN: Final = 0.007 / 1000
_SERVER_SIGMA: Final = 0.85
_NETWORK_SECONDS: Final = (0.040, 0.150)
_CONNECT_SECONDS: Final = 0.300


@dataclass(kw_only=True)
class Call:
    """One request in the server, with the fault and delays that were drawn on its arrival."""

    started: float
    dice: random.Random
    fault: str | None
    server_factor: float
    network_seconds: float
    holds_place: bool  # one of `Scenario.max_in_flight`; a request without a place is refused
    left: asyncio.Future[bool] | None = None  # done once the client leaves, if watched
    is_read: bool = False
    inputs: int = 0
    tokens: int = 0
    charge: int = 0
    status: int = NO_ANSWER
    shown: str | None = None  # the fault that was actually applied

    def server_seconds(self) -> float:
        """Return the seconds that the server takes for the tokens, without the network's."""
        return self.server_factor * (_SERVER_SECONDS + _SERVER_SECONDS_PER_TOKEN * self.tokens)


class Run:
    """The state of one run; only the event loop's thread changes its counters, so it has no locks.

    Args:
        scenario: how the server behaves.
        cache: tokens and embeddings from earlier runs.
        now: returns the time in seconds, of the clock that the event loop uses.

    """

    def __init__(
        self,
        scenario: Scenario,
        cache: Cache | None = None,
        *,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        requests, tokens = scenario.quotas
        self.scenario = scenario
        self.now = now
        self.cache = (cache or Cache()) if scenario.vector_cache else None
        self.quota = Quota(
            requests,
            tokens,
            bucket_seconds=scenario.bucket_seconds,
            fixed_window_seconds=scenario.fixed_window_seconds,
            refused_share=scenario.refused_share,
            used_of=scenario.used_of,
        )
        self.pool = Pool(
            Workers(
                scenario.workers,
                seconds_per_request=scenario.seconds_per_request,
                seconds_per_text=scenario.seconds_per_text,
            ),
            now,
        )
        self._places_held = 0
        self._fault_names = list(scenario.faults)
        self._processor = time.process_time()
        self._first: float | None = None
        self._counts: Counter[str] = Counter()
        self._highest: Counter[str] = Counter()
        self._statuses: Counter[str] = Counter()
        self._faults: Counter[str] = Counter()
        self._seen: set[int] = set()
        self._billed: set[int] = set()
        self._log: deque[list[Any]] = deque(maxlen=_LOG_LENGTH)
        self.batches = Batches(scenario, self.cache, now)
        self.batch_calls: Counter[str] = Counter()
        self.first_batch_call: float | None = None

    def arrive(self, *, on_new_connection: bool, is_cold: bool) -> Call:
        """Count a request, and draw its fault and delays.

        Args:
            on_new_connection: whether the request is the first of its connection in this run.
            is_cold: whether it is the first of its connection in any run, which adds the time to
                connect.

        """
        scenario = self.scenario
        number = self._counts["requests"]
        now = self.now()
        if self._first is None:
            self._first = now
        self._counts["requests"] += 1
        self._counts["in_flight"] += 1
        self._counts["connections"] += on_new_connection
        self._raise_to("in_flight", self._counts["in_flight"])

        # Seeded by the request's number, so that the order in which requests end has no influence.
        dice = random.Random(f"{scenario.seed}:{number}")  # noqa: S311 - not for security
        fault = self._draw_fault(dice.random())
        if number < len(scenario.script):
            fault = None if scenario.script[number] == "ok" else scenario.script[number]
        scale = scenario.latency * slowness(scenario.slow_periods, now - self._first)
        if dice.random() < scenario.stall_probability:
            scale *= scenario.stall_factor
        connect = _CONNECT_SECONDS if is_cold else 0.0
        limit = scenario.max_in_flight
        holds_place = limit is None or self._places_held < limit
        self._places_held += holds_place
        return Call(
            started=now,
            dice=dice,
            fault=fault,
            server_factor=scale * dice.lognormvariate(0.0, _SERVER_SIGMA),
            network_seconds=scale * (dice.uniform(*_NETWORK_SECONDS) + connect),
            holds_place=holds_place,
        )

    def seconds_away(self) -> float:
        """Return the seconds until the current outage is over; 0 if there is none now."""
        return seconds_away(self.scenario.outages, self._elapsed())

    def seconds_to_outage(self) -> float | None:
        """Return the seconds until the next outage starts; `None` if none is left."""
        return seconds_to_outage(self.scenario.outages, self._elapsed())

    def measure(self, call: Call, question: Question) -> None:
        """Record the size of a request, whether or not it will be answered."""
        call.inputs = len(question.texts)
        call.tokens = sum(question.tokens)
        call.charge = question.charge
        self._raise_to("inputs", call.inputs)
        self._raise_to("tokens", call.tokens)
        self._raise_to("charge", call.charge)
        self._seen.update(map(hash, question.texts))

    def count_computed(self, call: Call) -> None:
        """Record that a worker has finished, whether or not a client waits for the answer."""
        self._counts["inputs_computed"] += call.inputs

    def bill(self, call: Call, question: Question) -> None:
        """Record that the answer was computed; it is billed whether or not it arrives."""
        self._counts["inputs_billed"] += call.inputs
        self._counts["tokens_billed"] += call.tokens
        self._counts["charged"] += call.charge
        self._billed.update(map(hash, question.texts))

    def settle_batches(self) -> float:
        """Write the files of batches that have ended, bill answered lines, and return the time.

        Callers must show batches as of this time. At a later time a batch may have ended without
        having a file yet.
        """
        now = self.now()
        for line in self.batches.settle(now):
            self._counts["batch_inputs_billed"] += len(line.texts)
            self._counts["batch_tokens_billed"] += line.tokens
            self._counts["inputs_billed"] += len(line.texts)
            self._billed.update(line.texts)
            self._seen.update(line.texts)
        return now

    def free_place(self, call: Call) -> None:
        """Free a request's place among `max_in_flight`, at the latest when the request ends."""
        self._places_held -= call.holds_place
        call.holds_place = False

    def leave(self, call: Call) -> None:
        """Record how a request ended."""
        now = self.now()
        self.free_place(call)
        self._counts["in_flight"] -= 1
        self._statuses[str(call.status)] += 1
        if call.shown:
            self._faults[call.shown] += 1
        first = self._first or 0.0
        self._log.append(
            [
                round(call.started - first, 6),
                round(now - first, 6),
                call.inputs,
                call.tokens,
                call.charge,
                call.status,
                call.shown,
            ]
        )

    def stats(self) -> dict[str, Any]:
        """Return the counters, as `Simulator.stats` describes them."""
        now = self.settle_batches()
        counts, highest = self._counts, self._highest
        return {
            "requests": counts["requests"],
            "by_status": dict(self._statuses),
            "faults": dict(self._faults),
            "in_flight": counts["in_flight"],
            "max_in_flight": highest["in_flight"],
            "inputs_computed": counts["inputs_computed"],
            "inputs_billed": counts["inputs_billed"],
            "texts_seen_distinct": len(self._seen),
            "texts_billed_distinct": len(self._billed),
            "tokens_billed": counts["tokens_billed"],
            "charged": counts["charged"],
            "max_inputs_seen": highest["inputs"],
            "max_tokens_seen": highest["tokens"],
            "max_charge_seen": highest["charge"],
            "batch_inputs_billed": counts["batch_inputs_billed"],
            "batch_tokens_billed": counts["batch_tokens_billed"],
            "batch_calls": dict(self.batch_calls),
            **self.batches.stats(now),
            "connections": counts["connections"],
            "processor_seconds": time.process_time() - self._processor,
            "log": list(self._log),
        }

    def _elapsed(self) -> float:
        now = self.now()
        return now - (now if self._first is None else self._first)

    def _draw_fault(self, luck: float) -> str | None:
        for name in self._fault_names:
            luck -= self.scenario.faults[name]
            if luck < 0:
                return name
        return None

    def _raise_to(self, name: str, value: int) -> None:
        self._highest[name] = max(self._highest[name], value)
