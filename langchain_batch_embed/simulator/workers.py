"""The timetable of a server's workers; callers pass in the time, and nothing here waits."""

import heapq
import math
from dataclasses import dataclass


@dataclass(kw_only=True, eq=False)
class Job:
    """The computation of one request: when it entered the queue, and its planned start and end."""

    entered: float
    seconds: float
    start: float = math.inf
    end: float = math.inf

    def is_queued(self, now: float) -> bool:
        """Return whether no worker has started on the job yet."""
        return self.start > now


class Workers:
    """A first-in, first-out queue for workers, each of which computes one request at a time.

    Args:
        count: number of workers; `None` gives every request its own worker.
        seconds_per_request: time that every request takes.
        seconds_per_text: additional time for each text of the request.

    """

    def __init__(
        self, count: int | None, *, seconds_per_request: float = 0.0, seconds_per_text: float = 0.0
    ) -> None:
        self._count = count
        self._seconds_per_request = seconds_per_request
        self._seconds_per_text = seconds_per_text
        self._jobs: list[Job] = []  # queued and running, in order of arrival

    def seconds(self, texts: int) -> float:
        """Return the seconds that a worker takes for a request with this many texts."""
        return self._seconds_per_request + self._seconds_per_text * texts

    def enter(self, texts: int, now: float) -> Job:
        """Queue a request; `now` is in seconds, always of the same clock."""
        job = Job(entered=now, seconds=self.seconds(texts))
        self._jobs.append(job)
        self._plan(now)
        return job

    def remove(self, job: Job, now: float) -> None:
        """Remove a request from the queue or from its worker; the requests behind it move up."""
        if job in self._jobs:
            self._jobs.remove(job)
        self._plan(now)

    def _plan(self, now: float) -> None:
        """Plan the start and end of every job that no worker has started on."""
        self._jobs = [job for job in self._jobs if job.end > now]
        queued = [job for job in self._jobs if job.is_queued(now)]
        count = len(self._jobs) if self._count is None else self._count
        free_at = [job.end for job in self._jobs if not job.is_queued(now)]
        free_at += [now] * (count - len(free_at))
        heapq.heapify(free_at)
        for job in queued:
            job.start = heapq.heappop(free_at)
            job.end = job.start + job.seconds
            heapq.heappush(free_at, job.end)
