"""Which deployment may be sent a batch that was sent before. Pure decisions.

A batch that one deployment has refused is offered to the others, and given up once all of them have
refused it. A batch that tests a size limit stays with the deployment whose limit it is.
"""

from collections.abc import Iterable, Sequence
from typing import Literal

from langchain_batch_embed.sending.cutter import still_fits
from langchain_batch_embed.sending.deployment import Deployment
from langchain_batch_embed.sending.work import Batch

__all__ = ["Route", "Routing"]

Route = Literal["here", "later", "nowhere"]
"""Whether a deployment may be sent a batch now, or later or by another one, or none may be."""


class Routing:
    """Decides about the batches of one call.

    Args:
        deployments: the state of each server.
    """

    def __init__(self, deployments: Sequence[Deployment]) -> None:
        self._deployments = deployments

    def route(self, batch: Batch, at: Deployment) -> Route:
        """Return whether a deployment may be sent a batch that is ready.

        If it is the last one that could answer, but may just refuse everything, it is in doubt.
        """
        owner = self.owner(batch)
        has_owner = owner is not None and owner.is_answering and not owner.is_late
        if has_owner and owner is not at:
            return "later"  # its owner tests a size limit with it
        if at.number not in batch.barred:
            return "later" if at.is_late and not batch.barred else "here"
        if self.has_others(batch):
            return "later"
        if at.confirmed_at < batch.barred[at.number]:
            at.is_in_doubt = True
            return "later"
        return "nowhere"

    def untried(self, delayed: Iterable[Batch], at: Deployment) -> Batch | None:
        """Return a delayed batch that this deployment has not tried, and may be sent at once."""
        untried = (
            batch
            for batch in delayed
            if at.number not in batch.tried
            and at.number not in batch.barred
            and still_fits(batch, at)
        )
        return next(untried, None)

    def has_others(self, batch: Batch) -> bool:
        """Return whether a working deployment has not refused this batch yet."""
        return any(
            each.is_proven and each.is_answering and each.number not in batch.barred
            for each in self._deployments
        )

    def owner(self, batch: Batch) -> Deployment | None:
        """Return the deployment whose size limit a batch tests, or `None`."""
        if batch.trial is None:
            return None
        owners = (each for each in self._deployments if each.limits.owns(batch.trial))
        return next(owners, None)
