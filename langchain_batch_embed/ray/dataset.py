"""Embeds a Ray Data dataset with actors that can share one account's quota and one journal."""

from typing import Any, get_args

import pyarrow as pa
import ray.data

from langchain_batch_embed.embeddings import BatchEmbeddings
from langchain_batch_embed.errors import OptionError
from langchain_batch_embed.limits import positive
from langchain_batch_embed.ray.block import (
    Embedder,
    OnFailure,
    existing_column,
    missing_column,
)
from langchain_batch_embed.ray.totals import Totals
from langchain_batch_embed.report import Report

__all__ = ["embed_dataset"]


class _Worker:
    """One actor, which embeds block after block with its own `BatchEmbeddings` object.

    All blocks of the actor share that object's connections and quota.
    """

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

    Each actor has a copy of `embeddings` with all its options. Give `embeddings` a `SharedQuota`;
    without one, each actor uses the account's whole quota. Also give it a journal that all actors
    can reach, such as a `RedisStore`, so that the blocks of a worker that dies are not paid for
    twice.

    Args:
        dataset: the Ray Data dataset; its other columns are kept.
        embeddings: computes the vectors; it must be possible to pickle it.
        text_column: name of the column with the texts.
        vector_column: name of the new column, of type `fixed_size_list<float>[d]`.
        concurrency: number of actors. If the quota is the bottleneck, more actors are no faster.
        batch_size: number of rows that an actor embeds at a time and holds in memory.
        on_failure: `"raise"` ends the dataset at the first text without a vector. `"null"` makes
            its vector null and puts the error's class into `<vector_column>_error`. If a batch has
            several texts and all of them fail, the error is raised in this mode as well.
        totals: adds up the reports of all actors.
        num_cpus: CPUs that Ray reserves for each actor. Actors mostly wait for the network.

    Returns:
        The dataset with the new column, and with the error column if `on_failure` is `"null"`.

    Raises:
        OptionError: an option has a value that cannot work.
    """
    if not isinstance(embeddings, BatchEmbeddings):
        raise OptionError(
            f"embed_dataset needs BatchEmbeddings(...), not {type(embeddings).__name__}"
        )
    if not hasattr(dataset, "map_batches"):
        raise OptionError(
            f"embed_dataset needs a Ray Data dataset, not {type(dataset).__name__}; make one with "
            "ray.data.from_items or ray.data.from_pandas"
        )
    _check_columns(dataset, text_column, vector_column)
    if on_failure not in get_args(OnFailure):
        raise OptionError('on_failure must be "raise" or "null"')
    concurrency = positive("concurrency", concurrency)
    batch_size = positive("batch_size", batch_size)
    error_column = f"{vector_column}_error" if on_failure == "null" else None
    options: dict[str, Any] = {
        "fn_constructor_args": (embeddings, text_column, vector_column, error_column, totals),
        "batch_format": "pyarrow",
        "batch_size": batch_size,
        "compute": ray.data.ActorPoolStrategy(size=concurrency),
        "num_cpus": num_cpus,
    }
    return dataset.map_batches(_Worker, **options)


def _check_columns(dataset: "ray.data.Dataset", text_column: str, vector_column: str) -> None:
    """Raise `OptionError` if the columns cannot be right, as far as that is known without a run."""
    for name, value in (("text_column", text_column), ("vector_column", vector_column)):
        if not isinstance(value, str) or not value:
            raise OptionError(f"{name} must be the name of a column, not {value!r}")
    if text_column == vector_column:
        raise OptionError("vector_column must be another column than text_column")
    schema = dataset.schema(fetch_if_missing=False)
    if schema is None:
        return
    if text_column not in schema.names:
        raise OptionError(missing_column(text_column, schema.names))
    if vector_column in schema.names:
        raise OptionError(existing_column(vector_column))
