"""Kinds of arguments that several commands take."""

import argparse
from pathlib import Path

from langchain_batch_embed.commands.sources import STDIN

__all__ = ["existing", "positive"]


def existing(text: str) -> Path:
    """Return the path of a file or folder, or of standard input.

    Raises:
        ArgumentTypeError: there is none.
    """
    path = Path(text)
    if path != STDIN and not path.exists():
        raise argparse.ArgumentTypeError(f"there is no {text}")
    return path


def positive(text: str) -> int:
    """Return a whole number of at least 1.

    Raises:
        ArgumentTypeError: it is smaller.
        ValueError: it is no whole number.
    """
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number
