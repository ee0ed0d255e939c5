"""What commands print to standard output and standard error, and their exit statuses."""

import sys
from functools import partial

__all__ = ["CLOSED", "FAILURES_SHOWN", "INTERRUPTED", "PARTIAL", "WRONG", "say", "tell"]

WRONG = 2
"""The exit status if arguments or files cannot be used; argparse uses the same."""

PARTIAL = 3
"""The exit status if some texts have a vector and others have none."""

INTERRUPTED = 130
"""The exit status of a program that Ctrl-C ended: 128 + SIGINT."""

CLOSED = 141
"""The exit status of a program whose output is no longer read: 128 + SIGPIPE."""

FAILURES_SHOWN = 20
"""At most this many texts without a vector are listed one by one."""

say = partial(print, flush=True)  # so that users see each line at once


def tell(message: str) -> None:
    """Write a line to standard error."""
    sys.stderr.write(f"{message}\n")
    sys.stderr.flush()
