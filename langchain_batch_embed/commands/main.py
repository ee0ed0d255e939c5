"""The command line, `langchain-batch-embed` or `python -m langchain_batch_embed`."""

import argparse
import dataclasses
import errno
import importlib.metadata
import io
import logging
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import get_args

import openai

from langchain_batch_embed.calls import logbook
from langchain_batch_embed.calls.explanation import explain
from langchain_batch_embed.commands import batch_api, corpus, demo
from langchain_batch_embed.commands.account import (
    add_model,
    add_server,
    batched,
    model_name,
    unasked,
    wrapped_of,
)
from langchain_batch_embed.commands.arguments import positive
from langchain_batch_embed.commands.demo import say
from langchain_batch_embed.commands.embed import (
    Contents,
    StoppedError,
    embed,
    list_failures,
    survey,
)
from langchain_batch_embed.commands.records import Reading, read
from langchain_batch_embed.commands.sources import (
    DATA_SUFFIXES,
    STDIN,
    Format,
    Skipped,
    Source,
    SourceError,
    find,
)
from langchain_batch_embed.commands.writing import SUFFIXES, OutputError, open_output
from langchain_batch_embed.embeddings import BatchEmbeddings
from langchain_batch_embed.errors import BatchEmbeddingsError
from langchain_batch_embed.providers.urls import address_of
from langchain_batch_embed.report import dollars, money, plural
from langchain_batch_embed.simulator import TIERS, Scenario, serve

__all__ = ["main"]

_PORT = 8000
"""The simulator's port if it is free, so that its address is the same next time."""

_WRONG = 2
"""The exit status after arguments or files that cannot be used, as argparse has it."""

_PARTIAL = 3
"""The exit status where some texts have a vector and others have none."""

_INTERRUPTED = 130
"""The exit status of a program that Ctrl-C ended: 128 + SIGINT."""

_CLOSED = 141
"""The exit status of a program whose output nobody reads any more: 128 + SIGPIPE."""

_FAILURES_SHOWN = 20

_STATUSES = f"""exit status:
  0    all texts have a vector
  1    nothing could be embedded, or not any more; the journal has what is paid for
  {_WRONG}    wrong arguments, or a file that cannot be read
  {_PARTIAL}    some texts have no vector: they are listed
  {_INTERRUPTED}  ended with Ctrl-C; the same command goes on from there
  {_CLOSED}  nobody reads what it says any more, as after | head"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command; `arguments` are the command line's.

    Raises:
        SystemExit: a wrong argument or file (status 2), the command cannot run (status 1), some
            texts have no vector (status 3), Ctrl-C (status 130), or nobody reads what it says
            (status 141).
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names of files may have any character
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except (SourceError, OutputError) as error:
        _tell(f"{options.prog}: error: {error}")
        sys.exit(_WRONG)
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(_CLOSED)
    except (BatchEmbeddingsError, ImportError, OSError) as error:
        sys.exit(f"{error}")
    except openai.OpenAIError as error:
        # Not its message: some servers repeat the key in it.
        sys.exit(f"the endpoint failed: {explain(error, address='the endpoint')}")
    except KeyboardInterrupt:
        sys.exit(_INTERRUPTED)


def _demo(options: argparse.Namespace) -> None:
    demo.run(
        sections=options.sections,
        path=options.path,
        query=options.query,
        live=options.live,
        yes=options.yes,
    )


def _embed(options: argparse.Namespace) -> None:
    out: Path = options.out
    journal: Path = options.journal or out.with_suffix(".journal.db")
    if journal.resolve() == out.resolve():
        raise OutputError("--journal and --out are the same file: name another one")
    model = model_name(options)
    output = open_output(out, model=model)
    failures = out.with_suffix(".failed.jsonl")
    wrapped = wrapped_of(options)  # before long files are read
    how = _reading(options)
    with find(options.paths, format=options.format) as (sources, skipped):
        contents = survey(sources, how, skipped)
        _check_found(contents.records - contents.blank, skipped)
        _check_kept(sources, [*output.replaced(), failures])
        cost = dollars(model, contents.tokens)
        price = "" if cost is None else f", {money(cost)}"
        say(f"{plural(len(sources), 'file')}: {contents}{price}, for {model}")
        embeddings = batched(
            wrapped,
            options,
            journal=journal,
            max_dollars=options.max_dollars,
            hedge=False,  # who embeds files can wait for the last answer, and pays for each once
        )
        shown = sys.stderr.isatty() and not options.quiet
        _log(logging.WARNING if shown or options.quiet else logging.INFO)
        records = (record for source in sources for record in read(source, how))
        try:
            outcome = embed(embeddings, records, output, total=contents.records, shown=shown)
            output.finish()
        except KeyboardInterrupt:
            _tell(f"interrupted: what is paid for is in {journal}, and the same command goes on")
            raise
        except StoppedError as error:
            why = explain(error.cause, address=address_of(wrapped), model=model)
            _tell(f"stopped: {why}; what is paid for is in {journal}")
            sys.exit(1)
        finally:
            output.abandon()  # nothing is left of it once it is finished
            embeddings.journal.close()
    list_failures(outcome.failed, failures)
    say(f"{out}: {plural(contents.records, 'row')}, {outcome.written:,} with a vector")
    say(embeddings.last_report)
    if outcome.failed:
        failed = plural(len(outcome.failed), "text has", "texts have")
        _tell(f"{failed} no vector; all of them are in {failures}:")
        for each in outcome.failed[:_FAILURES_SHOWN]:
            _tell(f"  {each}")
        sys.exit(_PARTIAL)


def _plan(options: argparse.Namespace) -> None:
    sources, contents, texts = _read_all(options)
    plan = BatchEmbeddings(unasked(options.model)).plan(
        texts, tier=options.tier, price=options.price
    )
    is_cut = not options.whole and any(source.format == "text" for source in sources)
    cut = ", cut into sections" if is_cut else ""
    say(f"{plural(len(sources), 'file')}{cut}, for {model_name(options)}")
    if contents.blank:
        say(f"{plural(contents.blank, 'record has', 'records have')} no text")
    say(plan)


def _texts_to_submit(options: argparse.Namespace) -> list[str]:
    """Read the files that the command line names, and say what is in them."""
    sources, contents, texts = _read_all(options)
    say(f"{plural(len(sources), 'file')}: {contents}, for {model_name(options)}")
    return texts


def _read_all(options: argparse.Namespace) -> tuple[list[Source], Contents, list[str]]:
    """Return the files that the command line names, what is in them, and all their texts."""
    how = _reading(options)
    with find(options.paths, format=options.format) as (sources, skipped):
        contents = survey(sources, how, skipped)
        _check_found(contents.records - contents.blank, skipped)
        texts = [record.text for source in sources for record in read(source, how) if record.text]
    return sources, contents, texts


def _reading(options: argparse.Namespace) -> Reading:
    return Reading(field=options.field, column=options.column, id=options.id, whole=options.whole)


def _check_found(texts: int, skipped: Skipped) -> None:
    """Say what is left out, and end where nothing is left."""
    if line := str(skipped):
        _tell(line)
    if not texts:
        suffixes = " ".join(sorted(corpus.SUFFIXES | DATA_SUFFIXES.keys()))
        sys.exit(f"no text found: give files that are not empty, or folders of {suffixes} files")


def _check_kept(sources: Sequence[Source], replaced: Sequence[Path]) -> None:
    """Refuse to write over the texts."""
    for path in replaced:
        if path.exists() and any(path.samefile(source.path) for source in sources):
            raise OutputError(f"{path} has the texts and would be replaced: name another --out")


def _log(level: int) -> None:
    """Write this package's log to standard error."""
    logger = logging.getLogger("langchain_batch_embed")
    if not logger.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(message)s"))
        logger.addHandler(handler)
    logger.setLevel(level)
    # The first and the last line are printed anyway.
    logging.getLogger(logbook.__name__).setLevel(max(level, logging.WARNING))


def _tell(message: str) -> None:
    sys.stderr.write(f"{message}\n")
    sys.stderr.flush()


def _simulate(options: argparse.Namespace) -> None:
    given = {"tier": options.tier, "latency": options.latency}
    chosen = {name: value for name, value in given.items() if value is not None}
    try:
        scenario = dataclasses.replace(options.scenario, **chosen)
    except ValueError as error:
        sys.exit(f"{error}")
    on_ready = partial(_tell_how, options.host, scenario.api_key or "any")
    if options.port is not None:
        try:
            serve(scenario, options.host, options.port, on_ready=on_ready)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            sys.exit(
                f"port {options.port} of {options.host} is taken: give another one, or leave "
                "--port out"
            )
        return
    try:
        serve(scenario, options.host, _PORT, on_ready=on_ready)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        serve(scenario, options.host, 0, on_ready=on_ready)


def _tell_how(host: str, key: str, port: int) -> None:
    url = f"http://{host}:{port}/v1"
    say(f"OpenAI's embeddings endpoint, simulated: {url} (Ctrl-C ends it)")
    say("Your program needs no change, only these variables:")
    say(f"  export OPENAI_BASE_URL={url} OPENAI_API_KEY={key}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=_program(),
        description="Token-aware, parallel embedding for any LangChain vector store.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {_version()}")
    parser.set_defaults(prog=parser.prog)
    commands = parser.add_subparsers(metavar="command", required=True)
    _add_embed(
        commands.add_parser(
            "embed",
            help="embed the texts of files into one file of vectors",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            epilog=_STATUSES,
        )
    )
    _add_plan(
        commands.add_parser("plan", help="show the price and the time of embedding your files")
    )
    _add_submit(commands.add_parser("submit", help="send your files at half the price"))
    batch_api.add_collect(commands.add_parser("collect", help="wait for what was submitted"))
    batch_api.add_jobs(commands.add_parser("jobs", help="list what was submitted"))
    _add_demo(commands.add_parser("demo", help="embed real text in three ways, and compare"))
    _add_simulate(commands.add_parser("simulate", help="run a local server to rehearse against"))
    return parser


def _program() -> str:
    name = Path(sys.argv[0]).stem
    return name if name == "langchain-batch-embed" else "python -m langchain_batch_embed"


def _add_embed(parser: argparse.ArgumentParser) -> None:
    parser.description = """\
Embeds the texts of files, and writes one row a record: a section of a text file, a line of JSON
lines, a row of a table. Vectors are kept in a journal, so that nothing is paid for twice: killed,
the same command goes on from there. The key is where the provider's class looks for it, such as in
OPENAI_API_KEY.

  .npy      float32, shape (n, d), NaN where there is no vector; ids in NAME.ids.jsonl
  .parquet  columns id and vector
  .db       SQLite: vectors (row INTEGER PRIMARY KEY, id TEXT, vector BLOB of float32)"""
    _add_inputs(parser)
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


def _add_inputs(parser: argparse.ArgumentParser) -> None:
    """Add what `embed`, `plan` and `submit` have in common."""
    suffixes = " ".join(sorted(corpus.SUFFIXES | DATA_SUFFIXES.keys()))
    parser.add_argument(
        "paths",
        nargs="+",
        type=_existing,
        metavar="PATH",
        help=f"files, folders, of which all {suffixes} files are taken, or - for standard input",
    )
    parser.add_argument(
        "--field", default="text", metavar="NAME", help="of JSON lines (default: %(default)s)"
    )
    parser.add_argument(
        "--column",
        default="text",
        metavar="NAME",
        help="of CSV, TSV and Parquet files (default: %(default)s)",
    )
    parser.add_argument(
        "--id",
        default="id",
        metavar="NAME",
        help="the field or column of the ids (default: %(default)s; without one, file and line)",
    )
    parser.add_argument(
        "--format",
        choices=get_args(Format),
        help="of the files that are named (default: by suffix, or else by content)",
    )
    parser.add_argument(
        "--whole",
        action="store_true",
        help="each text file is one text (default: sections of some 125 tokens)",
    )
    add_model(parser)


def _add_demo(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Embeds sections of real text one by one, with OpenAIEmbeddings alone and with "
        "BatchEmbeddings into a SQLiteVec store, and compares them. It needs no key and no "
        "network, as OpenAI's endpoint is simulated unless --live is given."
    )
    parser.add_argument(
        "--sections",
        type=positive,
        metavar="N",
        help=f"how many at most (default: {demo.SECTIONS:,}, live {demo.LIVE_SECTIONS:,})",
    )
    parser.add_argument(
        "--path",
        type=_existing,
        help="your own text: a file or a folder (default: Python's standard library)",
    )
    parser.add_argument("--query", metavar="TEXT", help="what to search for at the end")
    parser.add_argument(
        "--live",
        action="store_true",
        help="use the real endpoint and OPENAI_API_KEY; shows the price and asks",
    )
    parser.add_argument("--yes", action="store_true", help="with --live: do not ask")
    parser.set_defaults(run=_demo)


def _add_plan(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Shows requests, tokens, dollars and seconds for your files, at OpenAI's prices and under "
        "its quotas. It needs no key, sends nothing and costs nothing."
    )
    _add_inputs(parser)
    parser.add_argument(
        "--tier", type=int, choices=list(TIERS), help="your usage tier (default: show all of them)"
    )
    parser.add_argument(
        "--price",
        type=float,
        metavar="DOLLARS",
        help="for a million tokens (default: OpenAI's list price)",
    )
    parser.set_defaults(run=_plan)


def _add_submit(parser: argparse.ArgumentParser) -> None:
    _add_inputs(parser)
    batch_api.add_submit(parser, _texts_to_submit)


def _add_simulate(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Serves OpenAI's embeddings endpoint on this machine, with its limits, errors, headers "
        "and latency, and with faults on request. It costs nothing."
    )
    parser.add_argument("--host", default="127.0.0.1", help="default: %(default)s")
    parser.add_argument(
        "--port",
        type=int,
        help=f"default: {_PORT}, or a free one if it is taken; 0: always a free one",
    )
    parser.add_argument(
        "--tier", type=int, choices=list(TIERS), help="OpenAI's quotas (default: no quota)"
    )
    parser.add_argument(
        "--latency", type=float, metavar="SCALE", help="1 is OpenAI's (default), 0 is none"
    )
    parser.add_argument(
        "--scenario",
        type=_scenario,
        default="{}",
        metavar="JSON",
        help='all else, as {"faults": {"429": 0.08, "reset": 0.03}}',
    )
    parser.set_defaults(run=_simulate)


def _version() -> str:
    try:
        return importlib.metadata.version("langchain-batch-embed")
    except importlib.metadata.PackageNotFoundError:
        return "(not installed)"


def _existing(text: str) -> Path:
    path = Path(text)
    if path != STDIN and not path.exists():
        raise argparse.ArgumentTypeError(f"there is no {text}")
    return path


def _scenario(text: str) -> Scenario:
    try:
        return Scenario.from_json(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
