"""The command `langchain-batch-embed`, which is also `python -m langchain_batch_embed`."""

import argparse
import importlib.metadata
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import openai

from langchain_batch_embed.calls.explanation import explain
from langchain_batch_embed.commands import batch_api, demo
from langchain_batch_embed.commands.arguments import ArgumentsError, existing, positive
from langchain_batch_embed.commands.embed_files import add_embed
from langchain_batch_embed.commands.messages import CLOSED, INTERRUPTED, WRONG, tell
from langchain_batch_embed.commands.output_errors import OutputError
from langchain_batch_embed.commands.plan import add_plan
from langchain_batch_embed.commands.shell_words import shell_words
from langchain_batch_embed.commands.simulate import add_simulate
from langchain_batch_embed.commands.sources import SourceError
from langchain_batch_embed.errors import BatchEmbeddingsError

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command.

    Args:
        arguments: the command and its arguments. `None`: those of the command line.

    Raises:
        SystemExit: the command cannot run or was stopped by errors (status 1), an argument or file
            is wrong (status 2), some texts have no vector (status 3), Ctrl-C was pressed (status
            130), or the reader of its output is gone (status 141).
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # file names may contain any character
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except (ArgumentsError, SourceError, OutputError) as error:
        tell(f"{options.prog}: error: {error}")
        sys.exit(WRONG)
    except BrokenPipeError:  # the reader, such as `| head`, has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(CLOSED)
    except BatchEmbeddingsError as error:
        sys.exit(shell_words(error))
    except (ImportError, OSError) as error:
        sys.exit(f"{error}")
    except openai.OpenAIError as error:
        # Do not print its message, because some servers repeat the key in it.
        sys.exit(f"the endpoint failed: {shell_words(explain(error, address='the endpoint'))}")
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=_program(),
        description="Token-aware, parallel embedding for any LangChain vector store.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {_version()}")
    parser.set_defaults(prog=parser.prog)
    commands = parser.add_subparsers(metavar="command", required=True)
    add_embed(
        commands.add_parser("embed", help="embed the texts of files into one file of vectors")
    )
    add_plan(
        commands.add_parser(
            "plan", help="show what embedding your files costs and how long it takes"
        )
    )
    batch_api.add_submit(
        commands.add_parser(
            "submit", help="submit your files to OpenAI's Batch API, at half the price"
        )
    )
    batch_api.add_collect(
        commands.add_parser("collect", help="wait for submitted jobs and collect their vectors")
    )
    batch_api.add_jobs(commands.add_parser("jobs", help="list submitted jobs"))
    _add_demo(commands.add_parser("demo", help="embed real text in three ways, and compare"))
    add_simulate(commands.add_parser("simulate", help="run a local server to rehearse against"))
    return parser


def _program() -> str:
    name = Path(sys.argv[0]).stem
    return name if name == "langchain-batch-embed" else "python -m langchain_batch_embed"


def _add_demo(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Embeds sections of real text in three ways and compares them: one request a section, "
        "OpenAIEmbeddings alone, and BatchEmbeddings into a SQLiteVec store. It needs no key and "
        "no network, because OpenAI's endpoint is simulated unless --live is given."
    )
    parser.add_argument(
        "--sections",
        type=positive,
        metavar="N",
        help=f"most sections to embed (default: {demo.SECTIONS:,}, or {demo.LIVE_SECTIONS:,} with "
        "--live)",
    )
    parser.add_argument(
        "--path",
        type=existing,
        help="file or folder with your own text (default: Python's standard library)",
    )
    parser.add_argument("--query", metavar="TEXT", help="text to search for at the end")
    parser.add_argument(
        "--live",
        action="store_true",
        help="use the real endpoint and OPENAI_API_KEY, after showing the price and asking",
    )
    parser.add_argument(
        "--yes", action="store_true", help="with --live, spend the money without asking"
    )
    parser.set_defaults(run=_demo)


def _demo(options: argparse.Namespace) -> None:
    demo.run(
        sections=options.sections,
        path=options.path,
        query=options.query,
        live=options.live,
        yes=options.yes,
    )


def _version() -> str:
    try:
        return importlib.metadata.version("langchain-batch-embed")
    except importlib.metadata.PackageNotFoundError:
        return "(not installed)"
