"""Types of arguments that several commands share."""

import argparse
import math
from pathlib import Path

from langchain_batch_embed.commands.sources import STDIN

__all__ = ["ArgumentsError", "above_zero", "at_least_zero", "existing", "port", "positive"]

_LAST_PORT = 65_535


class ArgumentsError(Exception):
    """The arguments cannot be used, which only shows once they are combined or looked up."""


def existing(text: str) -> Path:
    """Return the path of a file or folder, or of standard input.

    Raises:
        ArgumentTypeError: it does not exist, or its folder cannot be read.
    """
    if not text:
        raise argparse.ArgumentTypeError("the path is empty; use . for the current folder")
    path = Path(text)
    try:
        if path != STDIN:
            path.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise argparse.ArgumentTypeError(f"{text} does not exist") from None
    except (OSError, ValueError) as error:  # ValueError for a name with a zero byte
        reason = getattr(error, "strerror", None) or "not a file name"
        raise argparse.ArgumentTypeError(f"{text} cannot be read: {reason}") from None
    return path


def above_zero(text: str) -> float:
    """Return a finite number above 0.

    Raises:
        ArgumentTypeError: the text is not a finite number above 0.
    """
    number = _number(text)
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"must be more than 0 and finite, not {text}")
    return number


def at_least_zero(text: str) -> float:
    """Return a finite number that is not negative.

    Raises:
        ArgumentTypeError: the text is not a finite number of at least 0.
    """
    number = _number(text)
    if not 0 <= number < math.inf:
        raise argparse.ArgumentTypeError(f"must be at least 0 and finite, not {text}")
    return number


def port(text: str) -> int:
    """Return the number of a port, or 0.

    Raises:
        ArgumentTypeError: no port has this number.
    """
    number = _number(text)
    if not (number.is_integer() and 0 <= number <= _LAST_PORT):
        raise argparse.ArgumentTypeError(f"must be from 0 to {_LAST_PORT}, not {text}")
    return int(number)


def positive(text: str) -> int:
    """Return a whole number of at least 1.

    Raises:
        ArgumentTypeError: the text is not such a number.
    """
    number = _number(text)
    if not (number.is_integer() and number >= 1):
        raise argparse.ArgumentTypeError(f"must be at least 1 and whole, not {text}")
    return int(number)


def _number(text: str) -> float:
    """Return a number, which may not be finite.

    Raises:
        ArgumentTypeError: the text is no number.
    """
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a number, not {text!r}") from None
