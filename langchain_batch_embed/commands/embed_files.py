"""The command `embed`: its options, messages and exit statuses."""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from langchain_batch_embed.calls import logbook
from langchain_batch_embed.calls.explanation import explain
from langchain_batch_embed.commands.account import add_server, batched, model_name, wrapped_of
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
from langchain_batch_embed.commands.records import read
from langchain_batch_embed.commands.sources import Source, find
from langchain_batch_embed.commands.writing import SUFFIXES, OutputError, open_output
from langchain_batch_embed.providers.urls import address_of
from langchain_batch_embed.report import dollars, money, plural

__all__ = ["add_embed"]

_STATUSES = f"""exit status:
  0    all texts have a vector
  1    nothing could be embedded, or not any more; the journal has what is paid for
  {WRONG}    wrong arguments, or a file that cannot be read
  {PARTIAL}    some texts have no vector: they are listed
  {INTERRUPTED}  ended with Ctrl-C; the same command goes on from there
  {CLOSED}  nobody reads what it says any more, as after | head"""


def add_embed(parser: argparse.ArgumentParser) -> None:
    """Add the options of `embed`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _STATUSES
    parser.description = """\
Embeds the texts of files, and writes one row a record: a section of a text file, a line of JSON
lines, a row of a table. Vectors are kept in a journal, so that nothing is paid for twice: killed,
the same command goes on from there. The key is where the provider's class looks for it, such as in
OPENAI_API_KEY.

  .npy      float32, shape (n, d), NaN where there is no vector; ids in NAME.ids.jsonl
  .parquet  columns id and vector
  .db       SQLite: vectors (row INTEGER PRIMARY KEY, id TEXT, vector BLOB of float32)"""
    add_files(parser)
    kinds = ", ".join(SUFFIXES)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help=f"ends in {kinds}")
    parser.add_argument(
        "--journal",
        type=Path,
        metavar="FILE",
        help="where finished vectors are kept (default: beside --out, ending in .journal.db)",
    )
    add_server(parser)
    parser.add_argument("--max-dollars", type=float, metavar="X", help="stop before it costs more")
    parser.add_argument("--quiet", action="store_true", help="no bar, and no log but warnings")
    parser.set_defaults(run=_embed)


def _embed(options: argparse.Namespace) -> None:
    out: Path = options.out
    journal: Path = options.journal or out.with_suffix(".journal.db")
    if journal.resolve() == out.resolve():
        raise OutputError("--journal and --out are the same file: name another one")
    model = model_name(options)
    output = open_output(out, model=model)
    failures = out.with_suffix(".failed.jsonl")
    wrapped = wrapped_of(options)  # errors come before long files are read
    how = reading_of(options)
    with find(options.paths, format=options.format) as (sources, skipped):
        contents = survey(sources, how, skipped)
        check_found(contents.records - contents.blank, skipped)
        _check_kept(sources, [*output.replaced(), failures])
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
        except KeyboardInterrupt:
            tell(f"interrupted: what is paid for is in {journal}, and the same command goes on")
            raise
        except StoppedError as error:
            why = explain(error.cause, address=address_of(wrapped), model=model)
            tell(f"stopped: {why}; what is paid for is in {journal}")
            sys.exit(1)
        finally:
            output.abandon()  # has no effect on a finished file
            embeddings.journal.close()
    list_failures(outcome.failed, failures)
    say(f"{out}: {plural(contents.records, 'row')}, {outcome.written:,} with a vector")
    say(embeddings.last_report)
    if outcome.failed:
        failed = plural(len(outcome.failed), "text has", "texts have")
        tell(f"{failed} no vector; all of them are in {failures}:")
        for each in outcome.failed[:FAILURES_SHOWN]:
            tell(f"  {each}")
        sys.exit(PARTIAL)


def _check_kept(sources: Sequence[Source], replaced: Sequence[Path]) -> None:
    """Raise `OutputError` if an output file would replace a file of texts."""
    for path in replaced:
        if path.exists() and any(path.samefile(source.path) for source in sources):
            raise OutputError(f"{path} has the texts and would be replaced: name another --out")


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
