"""The command line of `python -m langchain_batch_embed`."""

import argparse
import dataclasses
import errno
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import openai
from langchain_openai import OpenAIEmbeddings
from pydantic import SecretStr

from langchain_batch_embed.commands import batch_api, corpus, demo
from langchain_batch_embed.commands.demo import say
from langchain_batch_embed.embeddings import BatchEmbeddings
from langchain_batch_embed.errors import BatchEmbeddingsError
from langchain_batch_embed.simulator import TIERS, Scenario, serve

__all__ = ["main"]

_PORT = 8000
"""The simulator's port if it is free, so that its address is the same next time."""

_INTERRUPTED = 130
"""The exit status of a program that Ctrl-C ended: 128 + SIGINT."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command; `arguments` are the command line's.

    Raises:
        SystemExit: a wrong argument (status 2), or the command cannot run (status 1).
    """
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except (BatchEmbeddingsError, ImportError, OSError) as error:
        sys.exit(f"{error}")
    except openai.OpenAIError as error:
        # Not its message: some servers repeat the key in it.
        status = f" ({error.status_code})" if isinstance(error, openai.APIStatusError) else ""
        sys.exit(f"the endpoint failed: {type(error).__name__}{status}")
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


def _plan(options: argparse.Namespace) -> None:
    files, texts = _files(options), _texts(options)
    # Nothing is sent, so any key works, and the user's variables must not interfere.
    wrapped = OpenAIEmbeddings(
        model=options.model,
        api_key=SecretStr("never sent"),
        openai_api_type=None,
        openai_proxy="",
    )
    plan = BatchEmbeddings(wrapped).plan(texts, tier=options.tier, price=options.price)
    cut = "" if options.whole else ", cut into sections"
    say(f"{len(files):,} {'file' if len(files) == 1 else 'files'}{cut}, for {options.model}")
    say(plan)


def _files(options: argparse.Namespace) -> list[Path]:
    return [
        file
        for path in options.paths
        for file in ([path] if path.is_file() else corpus.text_files(path))
    ]


def _texts(options: argparse.Namespace) -> list[str]:
    """Return the texts of the files that the command line names."""
    files = _files(options)
    if options.whole:
        read = (file.read_text(encoding="utf-8", errors="replace") for file in files)
        texts = [text for text in read if text.strip()]
    else:
        texts = [section.text for section in corpus.sections(files)]
    if not texts:
        suffixes = " ".join(sorted(corpus.SUFFIXES))
        sys.exit(f"no text found: give files that are not empty, or folders of {suffixes} files")
    return texts


def _simulate(options: argparse.Namespace) -> None:
    given = {"tier": options.tier, "latency": options.latency}
    chosen = {name: value for name, value in given.items() if value is not None}
    try:
        scenario = dataclasses.replace(options.scenario, **chosen)
    except ValueError as error:
        sys.exit(f"{error}")
    on_ready = partial(_tell_how, options.host, scenario.api_key or "any")
    if options.port is not None:
        serve(scenario, options.host, options.port, on_ready=on_ready)
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
        prog="python -m langchain_batch_embed",
        description="Token-aware, parallel embedding for any LangChain vector store.",
    )
    commands = parser.add_subparsers(metavar="command", required=True)
    _add_demo(commands.add_parser("demo", help="embed real text in three ways, and compare"))
    _add_plan(
        commands.add_parser("plan", help="show the price and the time of embedding your files")
    )
    _add_submit(commands.add_parser("submit", help="send your files at half the price"))
    batch_api.add_collect(commands.add_parser("collect", help="wait for what was submitted"))
    batch_api.add_jobs(commands.add_parser("jobs", help="list what was submitted"))
    _add_simulate(commands.add_parser("simulate", help="run a local server to rehearse against"))
    return parser


def _add_demo(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Embeds sections of real text one by one, with OpenAIEmbeddings alone and with "
        "BatchEmbeddings into a SQLiteVec store, and compares them. It needs no key and no "
        "network, as OpenAI's endpoint is simulated unless --live is given."
    )
    parser.add_argument(
        "--sections",
        type=_positive,
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
    batch_api.add_submit(parser, _texts)


def _add_inputs(parser: argparse.ArgumentParser) -> None:
    """Add what `plan` and `submit` have in common."""
    suffixes = " ".join(sorted(corpus.SUFFIXES))
    parser.add_argument(
        "paths",
        nargs="+",
        type=_existing,
        metavar="PATH",
        help=f"files, or folders, of which all {suffixes} files are taken",
    )
    parser.add_argument(
        "--model", metavar="NAME", default="text-embedding-3-small", help="default: %(default)s"
    )
    parser.add_argument(
        "--whole",
        action="store_true",
        help="each file is one text (default: sections of some 125 tokens, as the demo cuts them)",
    )


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


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def _existing(text: str) -> Path:
    path = Path(text)
    if not path.exists():
        raise argparse.ArgumentTypeError(f"there is no {text}")
    return path


def _scenario(text: str) -> Scenario:
    try:
        return Scenario.from_json(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
