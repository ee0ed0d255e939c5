"""Runs the command line: `python -m langchain_batch_embed --help`."""

import gc

from langchain_batch_embed.commands.main import main

__all__ = ["main", "run"]


def run() -> None:
    """Run one command, as the console script does, and give the prompt back at once.

    Raises:
        SystemExit: see `main`.
    """
    try:
        main()
    finally:
        # Else Python looks for cycles in all modules at its end, half a second or more.
        gc.freeze()


if __name__ == "__main__":
    run()
