"""The simulator's command line: `python -m langchain_batch_embed.simulator --help`."""

import argparse
import dataclasses
import os
import sys
import threading
from collections.abc import Sequence
from functools import partial

from .process import serve
from .scenario import TIERS, Scenario


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the simulator until it is interrupted.

    Args:
        arguments: the command line without the program's name; `None` reads `sys.argv`.
    """
    options = _parser().parse_args(arguments)
    try:
        scenario = Scenario.from_json(options.scenario)
        for name in ("tier", "latency", "workers", "seconds_per_text", "max_in_flight"):
            if getattr(options, name) is not None:
                scenario = dataclasses.replace(scenario, **{name: getattr(options, name)})
    except ValueError as error:
        sys.exit(f"simulator: {error}")
    if options.child:
        threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        serve(
            scenario,
            options.host,
            options.port,
            log_requests=options.log_requests,
            on_ready=_tell_parent if options.child else partial(_tell_user, options.host),
        )
    except (ImportError, OSError) as error:
        sys.exit(f"simulator: {error}")


def _tell_user(host: str, port: int) -> None:
    print(f"Embeddings at http://{host}:{port}/v1 (Ctrl-C ends)", flush=True)  # noqa: T201 - for the user


def _tell_parent(port: int) -> None:
    """Write the port to standard output, from which the parent process reads a single line."""
    print(port, flush=True)  # noqa: T201 - for the parent
    # The parent reads no more from that pipe, so logs would fill it up. Send them to stderr.
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())


def _end_with_parent() -> None:
    """Exit as soon as the parent's end of the pipe closes, however the parent ended."""
    # Bypass sys.stdin. If this thread held its lock at a normal exit, Python would abort.
    while os.read(0, 1):
        pass
    os._exit(0)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="langchain_batch_embed.simulator",
        description="A local embeddings server with OpenAI's limits, quotas, latency and faults.",
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000, help="0 takes a free one")
    parser.add_argument("--tier", type=int, choices=list(TIERS), help="OpenAI's quotas")
    parser.add_argument("--latency", type=float, help="1 is OpenAI's, 0 answers at once")
    parser.add_argument("--workers", type=int, help="requests computed at a time")
    parser.add_argument("--seconds-per-text", type=float, help="that a worker takes")
    parser.add_argument("--max-in-flight", type=int, help="more requests get a proxy's 503")
    parser.add_argument(
        "--scenario", default="{}", metavar="JSON", help='options, as {"faults": {"429": 0.1}}'
    )
    parser.add_argument("--log-requests", action="store_true")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    main()
