"""The input files of `embed`, `plan` and `submit`: their options, and how they are read."""

import argparse
import sys
from typing import get_args

from langchain_batch_embed.commands import corpus
from langchain_batch_embed.commands.account import add_model
from langchain_batch_embed.commands.arguments import existing
from langchain_batch_embed.commands.embed import Contents, survey
from langchain_batch_embed.commands.messages import tell
from langchain_batch_embed.commands.records import Reading, read
from langchain_batch_embed.commands.sources import DATA_SUFFIXES, Format, Skipped, Source, find

__all__ = ["add_files", "check_found", "read_all", "reading_of"]


def add_files(parser: argparse.ArgumentParser) -> None:
    """Add the options that say which files are read, how, and for which model."""
    suffixes = " ".join(sorted(corpus.SUFFIXES | DATA_SUFFIXES.keys()))
    parser.add_argument(
        "paths",
        nargs="+",
        type=existing,
        metavar="PATH",
        help=f"files; folders, in which all files that end in {suffixes} are read; or - for "
        "standard input",
    )
    parser.add_argument(
        "--field",
        default="text",
        metavar="NAME",
        help="field of JSON Lines files that holds the text (default: %(default)s)",
    )
    parser.add_argument(
        "--column",
        default="text",
        metavar="NAME",
        help="column of CSV, TSV and Parquet files that holds the text (default: %(default)s)",
    )
    parser.add_argument(
        "--id",
        metavar="NAME",
        help="field or column that holds the ids (default: id; where there is none, an id is the "
        "file name and the line)",
    )
    parser.add_argument(
        "--format",
        choices=get_args(Format),
        help="format of the files that are named (default: judged by suffix, or else by content)",
    )
    parser.add_argument(
        "--whole",
        action="store_true",
        help="embed each text file as one text (default: in sections of about 125 tokens)",
    )
    add_model(parser)


def read_all(options: argparse.Namespace) -> tuple[list[Source], Contents, list[str]]:
    """Read all files of the command line.

    Returns:
        The files, counts of what they contain, and all their texts in order.

    Raises:
        SourceError: a file that the user named cannot be read.
        SystemExit: there is no text in any file.
    """
    how = reading_of(options)
    with find(options.paths, format=options.format) as (sources, skipped):
        contents = survey(sources, how, skipped)
        check_found(contents.records - contents.blank, skipped)
        texts = [record.text for source in sources for record in read(source, how) if record.text]
    return sources, contents, texts


def reading_of(options: argparse.Namespace) -> Reading:
    """Return how to read the files, according to the command line."""
    return Reading(field=options.field, column=options.column, id=options.id, whole=options.whole)


def check_found(texts: int, skipped: Skipped) -> None:
    """Print which files are skipped, and exit if the others contain no text."""
    if line := str(skipped):
        tell(line)
    if not texts:
        suffixes = " ".join(sorted(corpus.SUFFIXES | DATA_SUFFIXES.keys()))
        sys.exit(f"no text found: give files that are not empty, or folders of {suffixes} files")
