"""The thread that talks to the ledger while calls are under way."""

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
    """The connection to the place where the shared quota is kept."""

    def exchange(self, exchange: Exchange) -> Reply:
        """Send one exchange, and return the ledger's reply."""
        ...

    def close(self) -> None:
        """Close the connection."""
        ...


class Leaser:
    """Makes the exchanges that a lease decides on, in a thread of its own.

    The lease decides under the lock; the exchange itself is made outside the lock.

    Args:
        lease: decides when to make an exchange and what to send.
        ledger: receives the exchanges.
        in_flight: returns the amounts of the requests without an answer, by kind.
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
        """Set what the thread needs; to be called once, before `begin`.

        Args:
            lock: guards the lease.
            clock: time and waiting.
            changed: is called under the lock after an exchange has changed the lease.
        """
        self._clock = clock
        self._changed = changed
        self._lock = lock
        self._due = threading.Condition(lock)

    def begin(self) -> None:
        """Start the thread if it is not running; the caller holds the lock."""
        self._is_needed = True
        if self._thread is None:
            thread = threading.Thread(target=self._run, name="batch-embed-lease", daemon=True)
            thread.start()
            self._thread = thread

    def look(self, now: float) -> None:
        """Wake the thread if an exchange is due; called after every decision, under the lock."""
        if self._thread is not None and self._lease.delay(now) <= 0:
            self._due.notify()

    def end(self) -> None:
        """Make the thread give back what is held and end; the caller holds the lock."""
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
            self._ledger.close()  # before another thread may use it; it connects again if needed
            with self._lock:
                self._lease.left()
                if not self._is_needed:
                    self._thread = None
                    return

    def _exchange(self, exchange: Exchange) -> None:
        try:
            reply = self._ledger.exchange(exchange)
        except Exception as error:  # noqa: BLE001  # redis-py's, or an unreadable answer
            with self._lock:
                self._lease.failed(error, self._clock.now())
                self._changed()
        else:
            with self._lock:
                self._lease.accept(reply, self._clock.now())
                self._changed()
