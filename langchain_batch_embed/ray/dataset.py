"""`embed_dataset`: actors of Ray Data that share one account's quota and one journal."""

from typing import Any, get_args

import pyarrow as pa
import ray.data

from langchain_batch_embed.embeddings import BatchEmbeddings
from langchain_batch_embed.errors import OptionError
from langchain_batch_embed.ray.block import Embedder, OnFailure
from langchain_batch_embed.ray.totals import Totals
from langchain_batch_embed.report import Report

__all__ = ["embed_dataset"]


class _Worker:
    """One actor: embeds block after block with one object, its connections and its quota."""

    def __init__(
        self,
        embeddings: BatchEmbeddings,
        text_column: str,
        vector_column: str,
        error_column: str | None,
        totals: Totals | None,
    ) -> None:
        self._totals = totals
        self._embed = Embedder(
            embeddings=embeddings,
            text_column=text_column,
            vector_column=vector_column,
            error_column=error_column,
            count=self._count,
        )

    def __call__(self, table: pa.Table) -> pa.Table:
        return self._embed(table)

    def _count(self, report: Report) -> None:
        if self._totals is not None:
            self._totals.add(report)


def embed_dataset(
    dataset: "ray.data.Dataset",
    embeddings: BatchEmbeddings,
    *,
    text_column: str = "text",
    vector_column: str = "embedding",
    concurrency: int = 2,
    batch_size: int = 4096,
    on_failure: OnFailure = "raise",
    totals: Totals | None = None,
    num_cpus: float = 0.5,
) -> "ray.data.Dataset":
    """Add a column of vectors to a dataset, lazily and in bounded memory.

    Each of the actors has a copy of `embeddings` with all its options. Give it a `SharedQuota`, or
    each takes the account's quota for its own; and a journal that all of them reach, such as a
    `RedisStore`, so that the blocks of a worker that dies are not paid for twice.

    Args:
        dataset: of Ray Data; its other columns stay.
        embeddings: makes the vectors; it is pickled.
        text_column: where the texts are.
        vector_column: what the new column is called, of `fixed_size_list<float>[d]`.
        concurrency: actors. Their number decides nothing where the quota binds.
        batch_size: rows that an actor embeds at a time, and holds in memory.
        on_failure: `"raise"` ends the dataset at the first text that has no vector. `"null"` leaves
            its vector null and names the error's class in `<vector_column>_error`; only where all
            texts of a batch fail the error is raised.
        totals: adds up the reports of all actors.
        num_cpus: of each actor; most of their time they wait for the network.

    Raises:
        OptionError: an option cannot work.
    """
    if not isinstance(embeddings, BatchEmbeddings):
        raise OptionError(
            f"embed_dataset needs BatchEmbeddings(...), not {type(embeddings).__name__}"
        )
    if on_failure not in get_args(OnFailure):
        raise OptionError('on_failure must be "raise" or "null"')
    for name, value in (("concurrency", concurrency), ("batch_size", batch_size)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise OptionError(f"{name} must be a whole number of at least 1")
    error_column = f"{vector_column}_error" if on_failure == "null" else None
    options: dict[str, Any] = {
        "fn_constructor_args": (embeddings, text_column, vector_column, error_column, totals),
        "batch_format": "pyarrow",
        "batch_size": batch_size,
        "compute": ray.data.ActorPoolStrategy(size=concurrency),
        "num_cpus": num_cpus,
    }
    return dataset.map_batches(_Worker, **options)
