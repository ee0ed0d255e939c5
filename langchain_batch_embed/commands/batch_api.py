"""The commands `submit`, `collect` and `jobs`, which use OpenAI's Batch API from the shell."""

import argparse
import shlex
import sys
from pathlib import Path

from langchain_batch_embed.batch_api import Job
from langchain_batch_embed.commands.account import (
    MODEL,
    add_model,
    add_server,
    batched,
    check_priced,
    model_name,
    unasked,
    wrapped_of,
)
from langchain_batch_embed.commands.arguments import above_zero, at_least_zero
from langchain_batch_embed.commands.files import add_files, read_all
from langchain_batch_embed.commands.messages import FAILURES_SHOWN, PARTIAL, WRONG, say, tell
from langchain_batch_embed.commands.shell_words import shell_words
from langchain_batch_embed.commands.sources import SourceError
from langchain_batch_embed.embeddings import BatchEmbeddings
from langchain_batch_embed.errors import OptionError
from langchain_batch_embed.report import plural

__all__ = ["add_collect", "add_jobs", "add_submit"]


def add_submit(parser: argparse.ArgumentParser) -> None:
    """Add the options of `submit`."""
    parser.description = (
        "Sends the texts of files through OpenAI's Batch API, at half the price, and returns "
        "once they are uploaded. The command collect then reads the vectors into the journal, "
        "where BatchEmbeddings with the same model finds them. Running the same command again "
        "sends nothing twice. OPENAI_API_KEY and OPENAI_BASE_URL name the account and the "
        "server."
    )
    add_files(parser)
    _add_account(parser)
    parser.add_argument(
        "--finish-by",
        type=above_zero,
        metavar="HOURS",
        help="deadline in hours from now; collect sends texts that are late by ordinary "
        "requests, at full price",
    )
    parser.add_argument(
        "--max-dollars",
        type=above_zero,
        metavar="X",
        help="most dollars to spend; if the texts would cost more, nothing is sent",
    )
    parser.set_defaults(run=_submit)


def add_collect(parser: argparse.ArgumentParser) -> None:
    """Add the options of `collect`."""
    parser.description = (
        "Waits until all jobs of a journal have ended, and reads their vectors into it. Texts "
        "whose batch expired or failed are sent again. The command can be stopped and started "
        "again at any time."
    )
    _add_account(parser)
    add_model(parser)
    parser.add_argument(
        "--timeout",
        type=at_least_zero,
        metavar="SECONDS",
        help="longest time to wait for each job (default: until it has ended)",
    )
    parser.add_argument("--quiet", action="store_true", help="show no progress bar")
    parser.set_defaults(run=_collect)


def add_jobs(parser: argparse.ArgumentParser) -> None:
    """Add the options of `jobs`."""
    parser.description = (
        "Lists the jobs of a journal as recorded there, without asking the server. It needs no key."
    )
    _add_journal(parser)
    parser.set_defaults(run=_jobs)


def _submit(options: argparse.Namespace) -> None:
    check_priced(options)
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
        say(
            f"next: run collect{_repeated(options)}, which reads the vectors into "
            f"{options.journal} as they become ready"
        )


def _collect(options: argparse.Namespace) -> None:
    _check_exists(options.journal)
    failed = left = 0
    jobs = [job for job in _embeddings(options).jobs() if not job.status.has_ended]
    if not jobs:
        say(f"{options.journal} has no unfinished job")
    for job in jobs:
        say(job)
        try:
            shown = sys.stderr.isatty() and not options.quiet
            report = job.wait(options.timeout, show_progress=shown)
        except OptionError:  # the job is of another model
            tell(_how_to_collect(job, options))
            left += 1
            continue
        except KeyboardInterrupt:
            tell(
                "stopped waiting: the job continues at the server; run the same command again "
                "to wait for it"
            )
            raise
        say(report)
        failed += len(report.failures)
        for failure in report.failures[:FAILURES_SHOWN]:
            tell(f"  text {failure.index}: {shell_words(failure.error)}")
    if left:
        sys.exit(WRONG)
    if failed:
        sys.exit(PARTIAL)


def _how_to_collect(job: Job, options: argparse.Namespace) -> str:
    """Return which options collect a job that these options do not."""
    repeat = "--dimensions and --base-url (or OPENAI_BASE_URL) as in its submit command"
    if job.model != model_name(options):
        return (
            f"job {job.id[:8]} is not collected, because it is for {job.model}: repeat --model "
            f"{job.model}, {repeat}"
        )
    return (
        f"job {job.id[:8]} is not collected, because it was submitted with other options or to "
        f"another server: repeat {repeat}"
    )


def _repeated(options: argparse.Namespace) -> str:
    """Return the options of `submit` that `collect` needs too, or an empty string."""
    given = {
        "--model": None if options.model == MODEL else options.model,
        "--dimensions": options.dimensions,
        "--base-url": options.base_url,
    }
    words = [f"{name} {shlex.quote(str(value))}" for name, value in given.items() if value]
    return f" with {' '.join(words)}" if words else ""


def _check_exists(journal: Path) -> None:
    """Raise `SourceError` if there is no journal; opening it would make an empty one."""
    if not journal.exists():
        raise SourceError(
            f"the journal {journal} does not exist; name the one that submit used with --journal"
        )


def _jobs(options: argparse.Namespace) -> None:
    _check_exists(options.journal)
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
        help="file in which jobs and vectors are kept (default: %(default)s)",
    )


def _add_account(parser: argparse.ArgumentParser) -> None:
    _add_journal(parser)
    add_server(parser)
