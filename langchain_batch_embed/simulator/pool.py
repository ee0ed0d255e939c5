"""Makes requests wait for a worker, as planned by the timetable in `workers`."""

import asyncio
from collections.abc import Callable

from starlette.requests import ClientDisconnect

from .workers import Workers


class Pool:
    """The queue in which requests wait for a worker.

    Args:
        workers: the timetable of the workers.
        now: returns the time in seconds.

    """

    def __init__(self, workers: Workers, now: Callable[[], float]) -> None:
        self.workers = workers
        self._now = now
        self._moved_up: asyncio.Future[None] | None = None

    async def compute(self, texts: int, left: asyncio.Future[bool] | None) -> float:
        """Wait until a worker has computed a request.

        If the wait is cancelled, the next request takes its place in the queue or its worker.

        Args:
            texts: number of texts in the request.
            left: a future that is done once the client has disconnected; `None` ignores that.

        Returns:
            Seconds from the call to the end of the work: time in the queue plus computing time.

        Raises:
            ClientDisconnect: the client disconnected before a worker had started.

        """
        job = self.workers.enter(texts, self._now())
        try:
            while (seconds := job.end - self._now()) > 0:
                await self._wait(seconds, left)
                if left is not None and left.done() and job.is_queued(self._now()):
                    raise ClientDisconnect
        except (asyncio.CancelledError, ClientDisconnect):
            self.workers.remove(job, self._now())
            self._wake()
            raise
        return job.end - job.entered

    async def _wait(self, seconds: float, left: asyncio.Future[bool] | None) -> None:
        """Wait until the time is over, the queue moves up, or the client disconnects."""
        if self._moved_up is None:
            self._moved_up = asyncio.get_running_loop().create_future()
        events: set[asyncio.Future[None] | asyncio.Future[bool]] = {self._moved_up}
        if left is not None and not left.done():
            events.add(left)
        await asyncio.wait(events, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)

    def _wake(self) -> None:
        """Wake all waiting requests, which then check the timetable again."""
        if self._moved_up is not None:
            self._moved_up.set_result(None)
            self._moved_up = None
