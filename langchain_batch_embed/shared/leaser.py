"""The thread that talks to the ledger, for as long as calls are under way."""

import logging
import threading
from collections.abc import Callable, Mapping
from typing import Protocol

from langchain_batch_embed.clock import Clock
from langchain_batch_embed.shared.exchange import Exchange, Reply
from langchain_batch_embed.shared.lease import Lease

__all__ = ["Leaser", "Ledger"]

logger = logging.getLogger(__name__)


class Ledger(Protocol):
    """Where the quota is kept."""

    def exchange(self, exchange: Exchange) -> Reply:
        """Make one exchange."""
        ...

    def close(self) -> None:
        """Close the connection."""
        ...


class Leaser:
    """Makes the exchanges that a lease asks for: decided under the lock, made outside it.

    Args:
        lease: decides.
        ledger: is talked to.
        in_flight: returns the amounts of requests without an answer, by kind.
    """

    def __init__(
        self, lease: Lease, ledger: Ledger, in_flight: Callable[[], Mapping[str, float]]
    ) -> None:
        self._lease = lease
        self._ledger = ledger
        self._in_flight = in_flight
        self._thread: threading.Thread | None = None
        self._is_needed = False

    def attach(self, lock: threading.RLock, clock: Clock, changed: Callable[[], None]) -> None:
        """Take over the lock that guards the lease, and what to call, under it, after a change."""
        self._clock = clock
        self._changed = changed
        self._lock = lock
        self._due = threading.Condition(lock)

    def begin(self) -> None:
        """Start, if it is not running; called under the lock."""
        self._is_needed = True
        if self._thread is None:
            thread = threading.Thread(target=self._run, name="batch-embed-lease", daemon=True)
            thread.start()
            self._thread = thread

    def look(self, now: float) -> None:
        """Make an exchange if one is due; called under the lock, after every decision."""
        if self._thread is not None and self._lease.delay(now) <= 0:
            self._due.notify()

    def end(self) -> None:
        """Give back what is held, and end; called under the lock."""
        self._is_needed = False
        self._due.notify()

    def _run(self) -> None:
        while True:
            with self._lock:
                leaves = not self._is_needed
                now = self._clock.now()
                delay = self._lease.delay(now)
                if delay > 0 and not leaves:
                    self._clock.wait(self._due, delay)
                    continue
                exchange = self._lease.begin(now, in_flight=self._in_flight(), leaves=leaves)
            self._exchange(exchange)
            if not leaves:
                continue
            with self._lock:
                self._lease.left()
                if not self._is_needed:
                    self._thread = None
                    break
        self._ledger.close()

    def _exchange(self, exchange: Exchange) -> None:
        try:
            reply = self._ledger.exchange(exchange)
        except Exception as error:  # noqa: BLE001  # redis-py's own, or the answer of a stranger
            with self._lock:
                self._lease.failed(error, self._clock.now())
                self._changed()
        else:
            with self._lock:
                self._lease.accept(reply, self._clock.now())
                self._changed()
