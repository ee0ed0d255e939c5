"""Adds up the reports of all workers in a separate actor."""

import time
from dataclasses import fields
from typing import Any

import ray

from langchain_batch_embed.report import DeploymentReport, Report

__all__ = ["Totals"]

_ADDED = [
    field.name
    for field in fields(Report)
    if field.name not in {"dollars", "seconds", "deployments"}
]


class _Sum:
    """The sum of all reports so far, held by an actor."""

    def __init__(self) -> None:
        self._counts = dict.fromkeys(_ADDED, 0)
        self._deployments: tuple[DeploymentReport, ...] = ()
        self._dollars: float | None = 0.0
        self._begin: float | None = None
        self._end = 0.0

    def add(self, report: Report, now: float) -> None:
        for name in _ADDED:
            self._counts[name] += getattr(report, name)
        if report.deployments:
            before = self._deployments
            self._deployments = tuple(
                part.plus(before[number]) if before else part
                for number, part in enumerate(report.deployments)
            )
        if self._dollars is not None:
            self._dollars = None if report.dollars is None else self._dollars + report.dollars
        begin = now - report.seconds
        self._begin = begin if self._begin is None else min(self._begin, begin)
        self._end = max(self._end, now)

    def report(self) -> Report:
        begin = self._end if self._begin is None else self._begin
        return Report(
            **self._counts,
            dollars=self._dollars,
            seconds=self._end - begin,
            deployments=self._deployments,
        )


class Totals:
    """What all workers of a dataset did and cost in total.

    ```python
    totals = Totals()
    embed_dataset(dataset, embeddings, totals=totals).write_parquet(...)
    print(totals.report())
    ```

    If a worker is killed before it finishes a block, the block counts once, when it is repeated. If
    the worker had finished the block but not handed it over, the block counts twice. With a journal
    it is not paid for twice.
    """

    def __init__(self) -> None:
        actor: Any = ray.remote(num_cpus=0)(_Sum)
        self._sum = actor.remote()

    def add(self, report: Report) -> None:
        """Add the report of a call that has just ended."""
        self._sum.add.remote(report, time.time())

    def report(self) -> Report:
        """Return the sum so far; `seconds` is the time from the first start to the last end."""
        summed: Report = ray.get(self._sum.report.remote())
        return summed
