"""The command `simulate`, which runs a local server to rehearse against."""

import argparse
import dataclasses
import errno
import sys
from functools import partial

from langchain_batch_embed.commands.arguments import ArgumentsError, at_least_zero, port
from langchain_batch_embed.commands.messages import say
from langchain_batch_embed.simulator import TIERS, Scenario, serve

__all__ = ["add_simulate"]

_PORT = 8000
"""The simulator's port if it is free, so that the address is usually the same."""


def add_simulate(parser: argparse.ArgumentParser) -> None:
    """Add the options of `simulate`."""
    parser.description = (
        "Serves a simulation of OpenAI's embeddings endpoint on this machine, with its limits, "
        "errors, headers and latency, and with faults on request. It costs nothing."
    )
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default: %(default)s)"
    )
    parser.add_argument(
        "--port",
        type=port,
        help=f"port to listen on (default: {_PORT}, or a free one if it is taken; 0: always a "
        "free one)",
    )
    parser.add_argument(
        "--tier",
        type=int,
        choices=list(TIERS),
        help="usage tier whose quotas to simulate (default: no quota)",
    )
    parser.add_argument(
        "--latency",
        type=at_least_zero,
        metavar="SCALE",
        help="factor for OpenAI's latency; 0 answers at once (default: 1)",
    )
    parser.add_argument(
        "--scenario",
        type=_scenario,
        default="{}",
        metavar="JSON",
        help='all other options, such as {"faults": {"429": 0.08, "reset": 0.03}}',
    )
    parser.set_defaults(run=_simulate)


def _simulate(options: argparse.Namespace) -> None:
    given = {"tier": options.tier, "latency": options.latency}
    chosen = {name: value for name, value in given.items() if value is not None}
    try:
        scenario = dataclasses.replace(options.scenario, **chosen)
    except ValueError as error:
        raise ArgumentsError(f"{error}") from error
    on_ready = partial(_tell_how, options.host, scenario.api_key or "any")
    if options.port is not None:
        try:
            serve(scenario, options.host, options.port, on_ready=on_ready)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            sys.exit(
                f"port {options.port} of {options.host} is taken; choose another one, or leave "
                "--port out"
            )
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


def _scenario(text: str) -> Scenario:
    try:
        return Scenario.from_json(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
