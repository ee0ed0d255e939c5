"""A user's script with every public name, which mypy (strict) and pyright accept."""
# ruff: noqa: D103, T201  # as users write

from collections.abc import Iterator
from typing import assert_type

import numpy as np
from langchain_core.documents import Document
from langchain_core.stores import InMemoryByteStore
from langchain_core.vectorstores import InMemoryVectorStore
from langchain_openai import OpenAIEmbeddings
from numpy.typing import NDArray

import langchain_batch_embed as lbe

ANY_JOURNAL: list[lbe.Journal] = [lbe.MemoryJournal(), lbe.ByteStoreJournal(InMemoryByteStore())]
ENDS = (lbe.DeadlineError, lbe.BudgetError, lbe.ResponseError, lbe.ModelError, lbe.DimensionsError)
OTHERS = (lbe.JobTimeoutError, lbe.JobError, lbe.JournalError, lbe.SpaceError)
MISTAKES = (lbe.UnknownOptionError, lbe.FixedOptionError, lbe.InputError, lbe.InputTypeError)


def shared(url: str) -> lbe.BatchEmbeddings:
    limits = lbe.Limits(provider="mine", max_batch_size=10)
    quota, journal = lbe.SharedQuota(url, workers=4), lbe.RedisStore(url)
    return lbe.BatchEmbeddings("openai:m", limits=limits, quota=quota, journal=journal)


def failures(error: lbe.BatchEmbeddingsError) -> Iterator[lbe.Failure | lbe.IngestFailure]:
    if isinstance(error, lbe.PartialEmbeddingsError):
        yield from (f for f in error.failures if not isinstance(f.error, (*ENDS, lbe.NotSentError)))
    elif isinstance(error, lbe.IngestError):
        yield from (f for f in error.report.failures if not isinstance(f.error, lbe.NotKeptError))


def main(url: str, texts: list[str]) -> lbe.JobStatus | None:
    bills = list[lbe.Usage]()
    one = OpenAIEmbeddings(base_url=url, model="text-embedding-3-small")
    with lbe.BatchEmbeddings(one, journal="vectors.db", on_usage=bills.append) as embeddings:
        try:
            plan = embeddings.plan(texts, tier=1)
            account = lbe.AccountQuota(requests_per_minute=3_000, tokens_per_minute=1_000_000)
            fleet = embeddings.plan(count=10**9, tokens_each=120, workers=16, quota=account)
            print(assert_type(plan, lbe.Plan).seconds, assert_type(fleet, lbe.FleetPlan))
            job: lbe.Job = embeddings.submit(texts[:10], finish_by=3600)
            print(assert_type(job.wait(timeout=60), lbe.JobReport).dollars, job.refresh().finished)
            assert_type(embeddings.embed_documents(texts, chunk_size=100), list[list[float]])
            matrix = assert_type(embeddings.embed_numpy(texts), NDArray[np.float32])
            with assert_type(embeddings.prefetch(texts), lbe.Prefetch):
                embeddings.embed_documents(texts[:10])
            documents = (Document(page_content=text) for text in texts)
            report = embeddings.ingest(InMemoryVectorStore(embeddings), documents, ids="content")
            print(assert_type(report, lbe.IngestReport).failures, matrix.shape, sum_of(bills))
            if isinstance(embeddings.journal, lbe.SQLiteJournal):
                stats = assert_type(embeddings.journal.stats(), lbe.JournalStats)
                print(stats.vectors, lbe.Space(provider="openai", model="m").endpoint, ANY_JOURNAL)
            last = assert_type(embeddings.last_report, lbe.Report | None)
            parts: tuple[lbe.DeploymentReport, ...] = () if last is None else last.deployments
            print(last, embeddings.max_workers, *(part.server for part in parts))
            return assert_type(job.status, lbe.JobStatus)
        except (*MISTAKES, *OTHERS) as error:
            print(type(error) in MISTAKES, isinstance(error, lbe.OptionError), *failures(error))
            return None


def sum_of(bills: list[lbe.Usage]) -> float:
    return sum(bill.dollars or 0.0 for bill in bills)
