"""How the commands speak: lines of output, lines about what went wrong, and exit statuses."""

import sys
from functools import partial

__all__ = ["CLOSED", "FAILURES_SHOWN", "INTERRUPTED", "PARTIAL", "WRONG", "say", "tell"]

WRONG = 2
"""The exit status after arguments or files that cannot be used, as argparse has it."""

PARTIAL = 3
"""The exit status where some texts have a vector and others have none."""

INTERRUPTED = 130
"""The exit status of a program that Ctrl-C ended: 128 + SIGINT."""

CLOSED = 141
"""The exit status of a program whose output nobody reads any more: 128 + SIGPIPE."""

FAILURES_SHOWN = 20
"""This many texts without a vector are named one by one."""

say = partial(print, flush=True)  # the user waits for each line


def tell(message: str) -> None:
    """Write a line to standard error."""
    sys.stderr.write(f"{message}\n")
    sys.stderr.flush()
