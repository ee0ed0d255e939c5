"""Writes to the log when a call starts and when it ends."""

import logging

import numpy as np
from numpy.typing import NDArray

from langchain_batch_embed.calls.estimate import (
    OPENAIS_MODELS,
    AccountQuota,
    known_quota,
    rehearse_quota,
    set_by_user,
)
from langchain_batch_embed.limits import Limits
from langchain_batch_embed.report import Report, dollars, duration, money, plural
from langchain_batch_embed.sending.sender import Sender
from langchain_batch_embed.sending.work import Work

__all__ = ["Logbook"]

logger = logging.getLogger(__name__)

_UNKNOWN = "quota not known yet"


class Logbook:
    """Writes the first and the last line of each call.

    Args:
        limits: the provider's limits.
        model: the model's name, for the price; `None` if it is not known.
        sender: knows the quota.
        max_workers: maximum number of requests in flight, at all deployments together.
    """

    def __init__(
        self, limits: Limits, *, model: str | None, sender: Sender, max_workers: int
    ) -> None:
        self._limits = limits
        self._model = model
        self._sender = sender
        self._max_workers = max_workers

    def started(self, texts: int, work: Work, *, tokens: NDArray[np.int64], level: int) -> None:
        """Log what a call will send and cost, and how long that will take.

        Args:
            texts: number of the caller's texts.
            work: what is sent.
            tokens: tokens billed for each input; `work` holds those of the stricter count.
            level: the log level.
        """
        if not len(work.rows) or not logger.isEnabledFor(level):
            return
        pacers = self._sender.pacers
        quota = known_quota(pacers)
        is_known = quota != AccountQuota()
        requests, seconds = rehearse_quota(
            work,
            quota=quota,
            max_workers=self._max_workers,
            first_requests=self._limits.first_requests * len(pacers),
            user_quota=set_by_user(pacers),
            runs=1,
        )
        billed = int(tokens[work.rows].sum())
        price = dollars(self._model, billed)
        parts = [
            f"about {plural(requests, 'request')}",
            f"{plural(billed, 'token')}",
            *([] if price is None else [money(price)]),
            str(quota) if is_known else _UNKNOWN,
        ]
        if is_known:
            parts.append(f"about {duration(seconds)}")
        elif self._limits.provider in OPENAIS_MODELS:
            parts.append(f"about {duration(seconds)} if no quota binds")
        logger.log(level, "Embedding %s: %s", plural(texts, "text"), ", ".join(parts))

    def announced(self, what: str) -> None:
        """Log the start of an operation whose requests and tokens have not been counted.

        Args:
            what: names the operation.
        """
        quota = known_quota(self._sender.pacers)
        logger.info("%s: %s", what, quota if quota != AccountQuota() else _UNKNOWN)

    @staticmethod
    def ended(report: Report, *, level: int = logging.INFO) -> None:
        """Log what a call did and cost."""
        logger.log(level, "%s", report)
