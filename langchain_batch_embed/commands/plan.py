"""The command `plan`, which shows the price and the time of embedding files."""

import argparse

from langchain_batch_embed.commands.account import model_name, unasked
from langchain_batch_embed.commands.arguments import above_zero
from langchain_batch_embed.commands.files import add_files, read_all
from langchain_batch_embed.commands.messages import say
from langchain_batch_embed.commands.shell_words import shell_words
from langchain_batch_embed.embeddings import BatchEmbeddings
from langchain_batch_embed.report import plural
from langchain_batch_embed.simulator import TIERS

__all__ = ["add_plan"]


def add_plan(parser: argparse.ArgumentParser) -> None:
    """Add the options of `plan`."""
    parser.description = (
        "Shows requests, tokens, dollars and seconds for your files, at OpenAI's prices and under "
        "its quotas. It needs no key, sends nothing and costs nothing."
    )
    add_files(parser)
    parser.add_argument(
        "--tier", type=int, choices=list(TIERS), help="your usage tier (default: show all of them)"
    )
    parser.add_argument(
        "--price",
        type=above_zero,
        metavar="DOLLARS",
        help="price of a million tokens (default: OpenAI's list price)",
    )
    parser.set_defaults(run=_plan)


def _plan(options: argparse.Namespace) -> None:
    sources, contents, texts = read_all(options)
    plan = BatchEmbeddings(unasked(options.model)).plan(
        texts, tier=options.tier, price=options.price
    )
    is_cut = not options.whole and any(source.format == "text" for source in sources)
    cut = ", cut into sections" if is_cut else ""
    say(f"{plural(len(sources), 'file')}{cut}, for {model_name(options)}")
    if contents.blank:
        say(f"{plural(contents.blank, 'record has', 'records have')} no text")
    say(shell_words(plan))
