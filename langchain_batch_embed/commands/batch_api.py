"""The commands `submit`, `collect` and `jobs`, which use OpenAI's Batch API from the shell."""

import argparse
import sys
from pathlib import Path

from langchain_batch_embed.commands.account import (
    MODEL,
    add_model,
    add_server,
    batched,
    model_name,
    unasked,
    wrapped_of,
)
from langchain_batch_embed.commands.files import add_files, read_all
from langchain_batch_embed.commands.messages import FAILURES_SHOWN, PARTIAL, say, tell
from langchain_batch_embed.embeddings import BatchEmbeddings
from langchain_batch_embed.errors import OptionError
from langchain_batch_embed.report import plural

__all__ = ["add_collect", "add_jobs", "add_submit"]


def add_submit(parser: argparse.ArgumentParser) -> None:
    """Add the options of `submit`."""
    parser.description = (
        "Sends the texts of files through OpenAI's Batch API, at half the price, and returns when "
        "they are uploaded. collect gets the vectors into the journal, where BatchEmbeddings with "
        "the same model finds them. The same command again sends nothing twice. OPENAI_API_KEY and "
        "OPENAI_BASE_URL say where."
    )
    add_files(parser)
    _add_account(parser)
    parser.add_argument(
        "--finish-by",
        type=float,
        metavar="HOURS",
        help="from now; collect then sends what is late by ordinary requests, at full price",
    )
    parser.add_argument(
        "--max-dollars", type=float, metavar="X", help="send nothing if it costs more"
    )
    parser.set_defaults(run=_submit)


def add_collect(parser: argparse.ArgumentParser) -> None:
    """Add the options of `collect`."""
    parser.description = (
        "Waits until all jobs of a journal are done, and reads their vectors into it. What expired "
        "or failed is sent again. It may be stopped and started at any time."
    )
    _add_account(parser)
    add_model(parser)
    parser.add_argument(
        "--timeout", type=float, metavar="SECONDS", help="wait no longer (default: until the end)"
    )
    parser.add_argument("--quiet", action="store_true", help="no bar")
    parser.set_defaults(run=_collect)


def add_jobs(parser: argparse.ArgumentParser) -> None:
    """Add the options of `jobs`."""
    parser.description = "Lists the jobs of a journal, as it knows them. It needs no key."
    _add_journal(parser)
    parser.set_defaults(run=_jobs)


def _submit(options: argparse.Namespace) -> None:
    sources, contents, texts = read_all(options)
    say(f"{plural(len(sources), 'file')}: {contents}, for {model_name(options)}")
    hours: float | None = options.finish_by
    job = _embeddings(options).submit(
        texts,
        finish_by=None if hours is None else hours * 3600,
        max_dollars=options.max_dollars,
    )
    say(job)
    if not job.status.has_ended:
        say(f"next: collect gets the vectors into {options.journal}, when they are there")


def _collect(options: argparse.Namespace) -> None:
    failed = 0
    jobs = [job for job in _embeddings(options).jobs() if not job.status.has_ended]
    if not jobs:
        say(f"{options.journal} has no job that has not ended")
    for job in jobs:
        say(job)
        try:
            shown = sys.stderr.isatty() and not options.quiet
            report = job.wait(options.timeout, show_progress=shown)
        except OptionError as error:  # the job is of another model
            say(error)
            continue
        except KeyboardInterrupt:
            tell("stopped waiting: the job goes on, and so does the same command")
            raise
        say(report)
        failed += len(report.failures)
        for failure in report.failures[:FAILURES_SHOWN]:
            tell(f"  text {failure.index}: {failure.error}")
    if failed:
        sys.exit(PARTIAL)


def _jobs(options: argparse.Namespace) -> None:
    jobs = BatchEmbeddings(unasked(MODEL), journal=options.journal).jobs()
    for job in jobs:
        say(f"{job}; {job.report}" if job.status.has_ended else job)
    if not jobs:
        say(f"{options.journal} has no jobs")


def _embeddings(options: argparse.Namespace) -> BatchEmbeddings:
    return batched(wrapped_of(options), options, journal=options.journal)


def _add_journal(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--journal",
        type=Path,
        default=Path("vectors.db"),
        metavar="FILE",
        help="where jobs and vectors are kept (default: %(default)s)",
    )


def _add_account(parser: argparse.ArgumentParser) -> None:
    _add_journal(parser)
    add_server(parser)
