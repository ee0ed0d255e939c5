"""Types of arguments that several commands share."""

import argparse
from pathlib import Path

from langchain_batch_embed.commands.sources import STDIN

__all__ = ["existing", "positive"]


def existing(text: str) -> Path:
    """Return the path of a file or folder, or of standard input.

    Raises:
        ArgumentTypeError: it does not exist.
    """
    path = Path(text)
    if path != STDIN and not path.exists():
        raise argparse.ArgumentTypeError(f"there is no {text}")
    return path


def positive(text: str) -> int:
    """Return a whole number of at least 1.

    Raises:
        ArgumentTypeError: the number is less than 1.
        ValueError: the text is not a whole number.
    """
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number
