"""Puts the parts of one `BatchEmbeddings` together, and again in each forked process."""

import os
import secrets
import threading

from langchain_core.embeddings import Embeddings

from langchain_batch_embed.calls.fetcher import Fetcher
from langchain_batch_embed.calls.pipeline import Pipeline
from langchain_batch_embed.calls.recovery import Recovery
from langchain_batch_embed.errors import OptionError
from langchain_batch_embed.journal import open_journal
from langchain_batch_embed.limits import FIRST_REQUESTS
from langchain_batch_embed.options import Options
from langchain_batch_embed.pacing.pacer import Pacer
from langchain_batch_embed.providers import Connections, provider_for
from langchain_batch_embed.providers.identity import account_of
from langchain_batch_embed.report import DOLLARS_PER_MILLION_TOKENS, dollars
from langchain_batch_embed.sending.dispatcher import Dispatcher
from langchain_batch_embed.sending.sender import Sender
from langchain_batch_embed.shared import Lease, Leaser, open_ledger
from langchain_batch_embed.texts.tokens import counter_for

__all__ = ["Assembly"]

_assembling = threading.Lock()
"""Held while a pipeline is made again after a fork, so that all threads get the same one."""


def _after_fork() -> None:
    global _assembling  # noqa: PLW0603  # a thread that is not in the child may hold it
    _assembling = threading.Lock()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_after_fork)


class Assembly:
    """The parts of one `BatchEmbeddings`.

    Args:
        embeddings: the wrapped object.
        options: how it is to be used.

    Attributes:
        limits: of the provider, or those that the user sets.
        journal: where finished vectors are kept.
        shows_progress: whether calls show a bar.

    Raises:
        OptionError: an option cannot work.
        JournalError: the journal cannot be opened.
    """

    def __init__(self, embeddings: Embeddings, options: Options) -> None:
        self.limits = options.limits_for(embeddings)
        self.journal = open_journal(options.journal)
        self.shows_progress = options.shows_progress(embeddings)
        self._embeddings = embeddings
        self._options = options
        self._process = os.getpid()
        self._parent_has_sent = False
        self._pipeline = self._assemble("ours")

    @property
    def pipeline(self) -> Pipeline:
        """The pipeline of this process.

        A forked process has none of its parent's threads, and must not read its answers.
        """
        if self._process != os.getpid():
            with _assembling:
                if self._process != os.getpid():
                    self._parent_has_sent |= self._pipeline.dispatcher.sender.pacer.has_started
                    if self._options.journal is None:
                        self.journal = open_journal(None)  # a lost thread may hold its lock
                    self._pipeline = self._assemble(
                        "theirs" if self._parent_has_sent else "perhaps theirs"
                    )
                    self._process = os.getpid()
        return self._pipeline

    def close(self) -> None:
        """End the prefetches that are open, and release the files that were opened here."""
        for prefetch in self.pipeline.prefetches.opened:
            prefetch.close()
        if self.journal is not self._options.journal:  # else it is the user's, like a client
            self.journal.close()

    def _assemble(self, connections: Connections) -> Pipeline:
        """Make a pipeline for this process; see `provider_for` for `connections`."""
        limits, options = self.limits, self._options
        provider = provider_for(
            self._embeddings,
            limits=limits,
            model=options.model,
            timeout=options.timeout,
            connections=connections,
            replaces_empty=options.replaces_empty(self._embeddings),
        )
        if self.journal.persistent and not provider.space.model:
            raise OptionError(
                f"{type(self._embeddings).__name__} does not say which model it uses, and a "
                "journal must not mix models: pass model= with its name"
            )
        if options.max_dollars is not None and dollars(provider.model, 1) is None:
            raise OptionError(
                f"max_dollars needs the model's price, which is known for "
                f"{', '.join(DOLLARS_PER_MILLION_TOKENS)}, and this is {provider.model!r}: leave "
                "it out, and count what on_usage tells"
            )
        first_requests = limits.first_requests if provider.is_known else FIRST_REQUESTS
        lease = self._lease(first_requests)
        pacer = Pacer(
            max_workers=limits.max_workers,
            first_requests=first_requests,
            is_known=provider.is_known,
            requests_per_minute=options.requests_a_minute(),
            tokens_per_minute=options.tokens_per_minute,
            meters=None if lease is None else lease.meters,
            max_outage=options.max_outage,
            draw=options.draw,
        )
        leaser = None
        if lease is not None and options.quota is not None:
            account = account_of(
                self._embeddings, address=provider.address, model=provider.space.model
            )
            leaser = Leaser(lease, open_ledger(options.quota, account), pacer.amounts_in_flight)
        sender = Sender(
            pacer,
            max_retries=options.max_retries,
            timeout=options.timeout_for(provider.timeout),
            hedge=options.hedges(limits),
            server=provider.address,
            draw=options.draw,
        )
        fetcher = Fetcher(
            limits=limits,
            provider=provider,
            counter=counter_for(provider.encoding),
            dispatcher=Dispatcher(
                sender,
                max_workers=limits.max_workers,
                rate_limiter=options.rate_limiter,
                clock=options.clock,
                leaser=leaser,
            ),
            recovery=Recovery(self.journal, provider.space),
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

    def _lease(self, first_requests: int) -> Lease | None:
        """Return what a shared quota leases to this process; `None`: the quota is not shared."""
        options = self._options
        if options.quota is None:
            return None
        return Lease(
            secrets.token_hex(8),
            draw=options.draw,
            tokens_per_minute=options.tokens_per_minute,
            requests_per_minute=options.requests_a_minute(),
            first_requests=first_requests,
            workers=options.quota.workers,
        )
