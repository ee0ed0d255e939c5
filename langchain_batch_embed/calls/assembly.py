"""Assembles the parts of one `BatchEmbeddings`, and assembles them again in a forked process."""

import logging
import os
import secrets
import threading
from collections.abc import Sequence
from dataclasses import replace

from langchain_core.embeddings import Embeddings

from langchain_batch_embed.calls.dimensions import same_model
from langchain_batch_embed.calls.fetcher import Fetcher
from langchain_batch_embed.calls.pipeline import Pipeline
from langchain_batch_embed.calls.recovery import NoteMissing, Recovery
from langchain_batch_embed.calls.same_space import SameSpace
from langchain_batch_embed.errors import OptionError
from langchain_batch_embed.journal import open_journal
from langchain_batch_embed.limits import FIRST_REQUESTS, attribute, model_of
from langchain_batch_embed.options import Options
from langchain_batch_embed.pacing.pacer import Pacer
from langchain_batch_embed.providers import Connections, Provider, provider_for
from langchain_batch_embed.providers.copies import sdk_address
from langchain_batch_embed.providers.identity import (
    account_of,
    dimensions_of,
    is_openai,
    told_model,
)
from langchain_batch_embed.report import DOLLARS_PER_MILLION_TOKENS, dollars
from langchain_batch_embed.sending.deployment import Deployment
from langchain_batch_embed.sending.dispatcher import Dispatcher
from langchain_batch_embed.sending.sender import Sender
from langchain_batch_embed.shared import Lease, Leaser, open_ledger
from langchain_batch_embed.texts.tokens import counter_for

__all__ = ["Assembly"]

logger = logging.getLogger(__name__)

_assembling = threading.Lock()
"""Held while a pipeline is rebuilt after a fork, so that all threads get the same one."""


def _after_fork() -> None:
    global _assembling  # noqa: PLW0603  # a thread that the fork lost may hold it
    _assembling = threading.Lock()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_after_fork)


class Assembly:
    """The parts of one `BatchEmbeddings`.

    Args:
        deployments: the wrapped objects, all of one model; an account given twice counts once.
        options: the user's options.
        note_missing: see `Recovery`.

    Attributes:
        deployments: the wrapped objects that are used.
        limits: the provider's limits, or those that the user sets.
        journal: where finished vectors are kept.
        shows_progress: whether calls show a progress bar.

    Raises:
        OptionError: an option cannot work.
        JournalError: the journal cannot be opened.
    """

    def __init__(
        self, deployments: Sequence[Embeddings], options: Options, *, note_missing: NoteMissing
    ) -> None:
        self.deployments = different_accounts(deployments)
        check_one_model(self.deployments, is_told=options.model is not None)
        self.limits = options.limits_for_all(self.deployments)
        self.journal = open_journal(options.journal)
        self.shows_progress = any(map(options.shows_progress, self.deployments))
        self._options = options
        self._note_missing = note_missing
        self._process = os.getpid()
        self._parent_has_sent = False
        self._pipeline = self._assemble("ours")

    @property
    def pipeline(self) -> Pipeline:
        """The pipeline of this process.

        A forked process gets a new pipeline: it has none of its parent's threads, and must not
        read answers from its parent's connections.
        """
        if self._process != os.getpid():
            with _assembling:
                if self._process != os.getpid():
                    sender = self._pipeline.dispatcher.sender
                    self._parent_has_sent |= any(
                        each.pacer.has_started for each in sender.deployments
                    )
                    if self._options.journal is None:
                        self.journal = open_journal(None)  # a lost thread may hold its lock
                    self._pipeline = self._assemble(
                        "theirs" if self._parent_has_sent else "perhaps theirs"
                    )
                    self._process = os.getpid()
        return self._pipeline

    def close(self) -> None:
        """Close all open prefetches, and the journal unless the user opened it."""
        for prefetch in self.pipeline.prefetches.opened:
            prefetch.close()
        if self.journal is not self._options.journal:  # a journal object is the user's to close
            self.journal.close()

    def _assemble(self, connections: Connections) -> Pipeline:
        """Build a pipeline for this process; see `provider_for` for `connections`."""
        options = self._options
        providers = [self._provider(each, connections) for each in self.deployments]
        provider = providers[0]
        if self.journal.persistent and not provider.space.model:
            raise OptionError(
                f"{type(self.deployments[0]).__name__} does not say which model it uses, and a "
                "journal must not mix models; pass the model's name as model="
            )
        if options.max_dollars is not None and dollars(provider.model, 1) is None:
            raise OptionError(
                "max_dollars needs the model's price, which is known only for "
                f"{', '.join(DOLLARS_PER_MILLION_TOKENS)}, not for {provider.model!r}; leave "
                "max_dollars out, and add up the tokens that on_usage reports"
            )
        leasers: list[Leaser] = []
        deployments = [
            self._deployment(number, each, leasers) for number, each in enumerate(providers)
        ]
        same_space = None
        if len(providers) > 1:
            same_space = SameSpace(
                self.journal,
                [each.space for each in providers],
                [each.address for each in providers],
                is_model_told=options.model is not None,
            )
        fetcher = Fetcher(
            limits=self.limits,
            providers=providers,
            counter=counter_for(provider.encoding),
            dispatcher=Dispatcher(
                Sender(deployments, hedge=options.hedges(self.limits)),
                max_workers=sum(each.pacer.concurrency.most for each in deployments),
                rate_limiter=options.rate_limiter,
                clock=options.clock,
                leasers=leasers,
                check=None if same_space is None else same_space.check,
            ),
            recovery=Recovery(
                self.journal,
                provider.space,
                others=None if same_space is None else same_space.spaces,
                note_missing=self._note_missing,
            ),
            same_space=same_space,
            long_inputs=options.long_inputs,
            on_usage=options.on_usage,
            max_dollars=options.max_dollars,
        )
        return Pipeline(
            fetcher,
            deadline=options.deadline,
            show_progress=self.shows_progress,
            query_cache_size=options.query_cache_size,
        )

    def _provider(self, embeddings: Embeddings, connections: Connections) -> Provider:
        options = self._options
        return provider_for(
            embeddings,
            limits=options.limits_for(embeddings),
            model=options.model,
            timeout=options.timeout,
            connections=connections,
            replaces_empty=options.replaces_empty(embeddings),
        )

    def _deployment(self, number: int, provider: Provider, leasers: list[Leaser]) -> Deployment:
        """Return the `Deployment` that holds the sending state of one server.

        The user's quota is that of all servers together, so each gets an equal share.

        Args:
            number: the position of the deployment.
            provider: sends to the server.
            leasers: the list to which a `Leaser` is added if the quota is shared with other
                processes.
        """
        options, embeddings = self._options, self.deployments[number]
        limits = options.limits_for(embeddings)
        first_requests = limits.first_requests if provider.is_known else FIRST_REQUESTS
        requests, tokens = (
            None if total is None else total / len(self.deployments)
            for total in (options.requests_a_minute(), options.tokens_per_minute)
        )
        lease = None
        if options.quota is not None:
            lease = Lease(
                secrets.token_hex(8),
                draw=options.draw,
                tokens_per_minute=tokens,
                requests_per_minute=requests,
                first_requests=first_requests,
                workers=options.quota.workers,
            )
        pacer = Pacer(
            max_workers=limits.max_workers,
            first_requests=first_requests,
            is_known=provider.is_known,
            requests_per_minute=requests,
            tokens_per_minute=tokens,
            meters=None if lease is None else lease.meters,
            max_outage=options.max_outage,
            draw=options.draw,
        )
        if lease is not None and options.quota is not None:
            quota, address = options.quota, provider.address
            if quota.account is not None and len(self.deployments) > 1:
                # Keys of one account share the quota of one server, but servers do not share it.
                quota = replace(quota, account=f"{quota.account} {address}")
            account = account_of(embeddings, address=address, model=provider.space.model)
            leasers.append(Leaser(lease, open_ledger(quota, account), pacer.amounts_in_flight))
        return Deployment(
            pacer,
            max_retries=options.max_retries,
            timeout=options.timeout_for(provider.timeout),
            server=provider.address,
            number=number,
            is_alone=len(self.deployments) == 1,
            draw=options.draw,
        )


def different_accounts(deployments: Sequence[Embeddings]) -> tuple[Embeddings, ...]:
    """Return the deployments, leaving out any that use the same account as an earlier one.

    Two objects with the same server, model and key have one quota, which must not count twice.

    Raises:
        OptionError: two of them ask for vectors of different dimensions.
    """
    kept: list[Embeddings] = []
    accounts: dict[object, int | None] = {}
    for each in deployments:
        account: object = id(each)
        address = sdk_address(each) if is_openai(each) else None
        if address is not None and not callable(attribute(each, "openai_api_key")):
            names = ("openai_organization", "default_headers", "default_query")
            account = (
                account_of(each, address=address, model=model_of(each)),
                repr([attribute(each, name) for name in names]),
            )
        if account not in accounts:
            kept.append(each)
        dimensions = dimensions_of(each)
        if (earlier := accounts.setdefault(account, dimensions)) != dimensions:
            raise OptionError(
                "two deployments with the same server, model and key have "
                f"dimensions={earlier} and dimensions={dimensions}; give both the same"
            )
    if left_out := len(deployments) - len(kept):
        logger.warning(
            "%d of %d deployments %s the server, model and key of another one and so %s its quota",
            left_out,
            len(deployments),
            "is left out, because it has" if left_out == 1 else "are left out, because they have",
            "shares" if left_out == 1 else "share",
        )
    return tuple(kept)


def check_one_model(deployments: Sequence[Embeddings], *, is_told: bool) -> None:
    """Raise `OptionError` if the deployments are configured for different models or dimensions.

    Args:
        deployments: the wrapped objects.
        is_told: the user passed `model=` for all of them, so the names on the objects are names of
            deployments and are not compared.
    """
    first: dict[str, str | int] = {}
    for each in deployments:
        for name, value in (("model", told_model(each)), ("dimensions", dimensions_of(each))):
            if value is None or (name == "model" and is_told):
                continue
            earlier = first.setdefault(name, value)
            if earlier == value or (name == "model" and same_model(str(earlier), str(value))):
                continue
            hint = (
                "; if these are names of deployments of one model, pass the model's name as model="
            )
            raise OptionError(
                f"the deployments have {name}={earlier!r} and {name}={value!r}, and a store cannot "
                f"mix their vectors{hint if name == 'model' else ''}"
            )
