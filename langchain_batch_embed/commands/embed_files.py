"""The command `embed`: its options, messages and exit statuses."""

import argparse
import logging
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from langchain_batch_embed.calls import logbook
from langchain_batch_embed.calls.explanation import explain
from langchain_batch_embed.commands.account import (
    add_server,
    batched,
    check_priced,
    model_name,
    wrapped_of,
)
from langchain_batch_embed.commands.arguments import above_zero
from langchain_batch_embed.commands.embed import StoppedError, embed, list_failures, survey
from langchain_batch_embed.commands.files import add_files, check_found, reading_of
from langchain_batch_embed.commands.messages import (
    CLOSED,
    FAILURES_SHOWN,
    INTERRUPTED,
    PARTIAL,
    WRONG,
    say,
    tell,
)
from langchain_batch_embed.commands.output_errors import OutputError, output_errors
from langchain_batch_embed.commands.output_formats import SUFFIXES, open_output
from langchain_batch_embed.commands.output_lock import lock_of
from langchain_batch_embed.commands.records import read
from langchain_batch_embed.commands.replaceable import check_replaceable, lists_failures
from langchain_batch_embed.commands.shell_words import shell_words
from langchain_batch_embed.commands.sources import Source, find
from langchain_batch_embed.providers.urls import address_of
from langchain_batch_embed.report import dollars, money, plural

__all__ = ["add_embed"]

_STATUSES = f"""exit status:
  0    all texts have a vector
  1    nothing could be embedded, or the run was stopped; the journal has what is paid for
  {WRONG}    wrong arguments, or a file that cannot be read or written
  {PARTIAL}    some texts have no vector; they are listed
  {INTERRUPTED}  interrupted with Ctrl-C; the same command continues from there
  {CLOSED}  the reader of its output is gone, as after | head"""


def add_embed(parser: argparse.ArgumentParser) -> None:
    """Add the options of `embed`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _STATUSES
    parser.description = """\
Embeds the texts of files, and writes one row for each record. A record is a section of a text
file, a line of a JSON Lines file or a row of a table. Finished vectors are kept in a journal, so
that nothing is paid for twice: if the command is killed, the same command continues from there.
The key comes from where the provider's class looks for it, such as OPENAI_API_KEY.

  .npy      float32, shape (n, d), NaN where there is no vector; ids in NAME.ids.jsonl
  .parquet  columns id and vector
  .db       SQLite: vectors (row INTEGER PRIMARY KEY, id TEXT, vector BLOB of float32)"""
    add_files(parser)
    kinds = ", ".join(SUFFIXES)
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="FILE",
        help=f"file for the vectors; its suffix is one of {kinds}",
    )
    parser.add_argument(
        "--journal",
        type=Path,
        metavar="FILE",
        help="file in which finished vectors are kept (default: beside --out, ending in "
        ".journal.db)",
    )
    add_server(parser)
    parser.add_argument(
        "--max-dollars",
        type=above_zero,
        metavar="X",
        help="most dollars to spend; embedding stops before it costs more",
    )
    parser.add_argument(
        "--quiet", action="store_true", help="show no progress bar, and log only warnings"
    )
    parser.set_defaults(run=_embed)


def _embed(options: argparse.Namespace) -> None:
    out: Path = options.out
    journal: Path = options.journal or out.with_suffix(".journal.db")
    check_priced(options)
    model = model_name(options)
    output = open_output(out, model=model)
    failures = out.with_suffix(".failed.jsonl")
    _check_journal(journal, out, [*output.replaced(), failures, lock_of(out)])
    wrapped = wrapped_of(options)  # errors come before long files are read
    how = reading_of(options)
    with ExitStack() as stack:
        sources, skipped = stack.enter_context(find(options.paths, format=options.format))
        contents = survey(sources, how, skipped)
        check_found(contents.records - contents.blank, skipped)
        _check_kept(sources, [*output.replaced(), failures])
        stack.enter_context(output.opened())  # before anything is paid for
        _check_failures(failures)
        cost = dollars(model, contents.tokens)
        price = "" if cost is None else f", {money(cost)}"
        say(f"{plural(len(sources), 'file')}: {contents}{price}, for {model}")
        embeddings = batched(
            wrapped,
            options,
            journal=journal,
            max_dollars=options.max_dollars,
            hedge=False,  # this can wait for the last answer, and nothing is billed twice
        )
        shown = sys.stderr.isatty() and not options.quiet
        _log(logging.WARNING if shown or options.quiet else logging.INFO)
        records = (record for source in sources for record in read(source, how))
        try:
            outcome = embed(embeddings, records, output, total=contents.records, shown=shown)
            output.finish()
            with output_errors(failures):
                list_failures(outcome.failed, failures)
        except OutputError as error:
            raise OutputError(f"{error}; what is in {journal} is not paid for again") from error
        except KeyboardInterrupt:
            tell(
                f"interrupted: what is paid for is in {journal}; run the same command again to "
                "continue"
            )
            raise
        except StoppedError as error:
            method = f"{type(wrapped).__name__}.embed_documents"
            why = explain(error.cause, address=address_of(wrapped), model=model, method=method)
            tell(f"stopped: {shell_words(why)}; what is paid for is in {journal}")
            sys.exit(1)
        finally:
            embeddings.journal.close()
    say(f"{out}: {plural(contents.records, 'row')}, {outcome.written:,} with a vector")
    say(embeddings.last_report)
    if outcome.failed:
        failed = plural(len(outcome.failed), "text has", "texts have")
        tell(f"{failed} no vector; all of them are listed in {failures}:")
        for each in outcome.failed[:FAILURES_SHOWN]:
            tell(f"  {each}")
        sys.exit(PARTIAL)


def _check_journal(journal: Path, out: Path, replaced: Sequence[Path]) -> None:
    """Raise `OutputError` if the journal is a file that the output or a part of it replaces."""
    if journal.resolve() == out.resolve():
        raise OutputError("--journal and --out are the same file; name two different files")
    for path in replaced:
        is_there = journal.exists() and path.exists()
        if journal.resolve() == path.resolve() or (is_there and journal.samefile(path)):
            raise OutputError(
                f"--journal names {path}, which is written or deleted with --out; name another "
                "file with --journal"
            )


def _check_failures(path: Path) -> None:
    """Raise `OutputError` if the failures cannot be written, or would replace a foreign file."""
    check_replaceable(path, lists_failures)
    with output_errors(path):
        if path.exists():
            path.open("ab").close()


def _check_kept(sources: Sequence[Source], replaced: Sequence[Path]) -> None:
    """Raise `OutputError` if an output file would replace a file of texts."""
    for path in replaced:
        if path.exists() and any(path.samefile(source.path) for source in sources):
            raise OutputError(
                f"{path} has the texts and would be replaced; name another file with --out"
            )


def _log(level: int) -> None:
    """Write this package's log messages of this level and above to standard error."""
    logger = logging.getLogger("langchain_batch_embed")
    if not logger.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(message)s"))
        logger.addHandler(handler)
    logger.setLevel(level)
    # The command itself prints what the first and the last log line of a call say.
    logging.getLogger(logbook.__name__).setLevel(max(level, logging.WARNING))
