"""Token-aware, parallel embedding of large corpora for any LangChain vector store."""

from typing import TYPE_CHECKING, Never

from langchain_batch_embed.batch_api import Job, JobReport, JobStatus
from langchain_batch_embed.calls.estimate import AccountQuota
from langchain_batch_embed.calls.fleet_plan import FleetPlan
from langchain_batch_embed.calls.plan import Plan
from langchain_batch_embed.calls.prefetch import Prefetch
from langchain_batch_embed.embeddings import BatchEmbeddings
from langchain_batch_embed.errors import (
    BatchEmbeddingsError,
    BudgetError,
    DeadlineError,
    DimensionsError,
    Failure,
    FixedOptionError,
    IngestError,
    InputError,
    InputTypeError,
    JobError,
    JobTimeoutError,
    JournalError,
    ModelError,
    NotKeptError,
    NotSentError,
    OptionError,
    PartialEmbeddingsError,
    ResponseError,
    SpaceError,
    UnknownOptionError,
)
from langchain_batch_embed.journal import (
    ByteStoreJournal,
    Journal,
    JournalStats,
    MemoryJournal,
    RedisStore,
    Space,
    SQLiteJournal,
)
from langchain_batch_embed.limits import Limits
from langchain_batch_embed.report import (
    DeploymentReport,
    IngestFailure,
    IngestReport,
    Report,
    Usage,
)
from langchain_batch_embed.shared.quota import SharedQuota

__all__ = [
    "AccountQuota",
    "BatchEmbeddings",
    "BatchEmbeddingsError",
    "BudgetError",
    "ByteStoreJournal",
    "DeadlineError",
    "DeploymentReport",
    "DimensionsError",
    "Failure",
    "FixedOptionError",
    "FleetPlan",
    "IngestError",
    "IngestFailure",
    "IngestReport",
    "InputError",
    "InputTypeError",
    "Job",
    "JobError",
    "JobReport",
    "JobStatus",
    "JobTimeoutError",
    "Journal",
    "JournalError",
    "JournalStats",
    "Limits",
    "MemoryJournal",
    "ModelError",
    "NotKeptError",
    "NotSentError",
    "OptionError",
    "PartialEmbeddingsError",
    "Plan",
    "Prefetch",
    "RedisStore",
    "Report",
    "ResponseError",
    "SQLiteJournal",
    "SharedQuota",
    "Space",
    "SpaceError",
    "UnknownOptionError",
    "Usage",
]
__version__ = "0.1.0"

if not TYPE_CHECKING:  # with a `__getattr__`, type checkers would accept any name

    def __getattr__(name: str) -> Never:
        """Raise an error that explains where names such as `ingest` are found.

        Raises:
            ImportError: the name is a member of `BatchEmbeddings`. This is not an AttributeError,
                because `from ... import` would replace its message.
            AttributeError: the name does not exist.
        """
        if not name.startswith("_") and hasattr(BatchEmbeddings, name):
            kind = "a method" if callable(getattr(BatchEmbeddings, name)) else "an attribute"
            raise ImportError(
                f"{name} is {kind} of BatchEmbeddings: embeddings = BatchEmbeddings(...), then "
                f"embeddings.{name}",
                name=name,
            )
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
