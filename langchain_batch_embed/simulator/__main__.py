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
    print(f"Embeddings at http://{host}:{port}/v1 (Ctrl-C ends it)", flush=True)  # noqa: T201 - for the user


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
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default: %(default)s)"
    )
    parser.add_argument(
        "--port",
        type=int,
        default=8000,
        help="port to listen on; 0 chooses a free one (default: %(default)s)",
    )
    parser.add_argument(
        "--tier",
        type=int,
        choices=list(TIERS),
        help="usage tier whose quotas to simulate (default: no quota)",
    )
    parser.add_argument(
        "--latency", type=float, help="factor for OpenAI's latency; 0 answers at once (default: 1)"
    )
    parser.add_argument(
        "--workers", type=int, help="number of requests that are computed at a time (default: all)"
    )
    parser.add_argument(
        "--seconds-per-text",
        type=float,
        help="computing time of each text, in seconds (default: 0)",
    )
    parser.add_argument(
        "--max-in-flight",
        type=int,
        help="number of requests that are admitted at a time; others get a proxy's 503 "
        "(default: no limit)",
    )
    parser.add_argument(
        "--scenario",
        default="{}",
        metavar="JSON",
        help='all options as JSON, such as {"faults": {"429": 0.1}}',
    )
    parser.add_argument("--log-requests", action="store_true", help="log each request")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    main()
