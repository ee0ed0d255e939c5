"""Token-aware, parallel embedding of large corpora for any LangChain vector store."""

from langchain_batch_embed.calls.plan import Plan
from langchain_batch_embed.embeddings import BatchEmbeddings
from langchain_batch_embed.errors import (
    BatchEmbeddingsError,
    DeadlineError,
    DimensionsError,
    Failure,
    IngestError,
    InputError,
    InputTypeError,
    JournalError,
    ModelError,
    NotSentError,
    OptionError,
    PartialEmbeddingsError,
    ResponseError,
    UnknownOptionError,
)
from langchain_batch_embed.limits import Limits
from langchain_batch_embed.report import Report
from langchain_batch_embed.stores.ingest import IngestFailure, IngestReport

__all__ = [
    "BatchEmbeddings",
    "BatchEmbeddingsError",
    "DeadlineError",
    "DimensionsError",
    "Failure",
    "IngestError",
    "IngestFailure",
    "IngestReport",
    "InputError",
    "InputTypeError",
    "JournalError",
    "Limits",
    "ModelError",
    "NotSentError",
    "OptionError",
    "PartialEmbeddingsError",
    "Plan",
    "Report",
    "ResponseError",
    "UnknownOptionError",
]
__version__ = "0.1.0"
