"""All libraries side by side on the simulator, as Markdown tables for the README.

    pip install "langchain-batch-embed[bench]"
    python -m tests.benchmarks.compare                            # everything: some 20 minutes
    python -m tests.benchmarks.compare --scenario far --rounds 1
    python -m tests.benchmarks.compare --tune --contenders rust   # tries all its settings
    python -m tests.benchmarks.compare --scenario quota --settings-for far

All contenders embed the same sections of Python's standard library, about 125 tokens each, and each
run is a process of its own (see `contenders`). They take turns, round by round, so that a machine
that is busy for a while is so for all of them. In one round the n-th request has the same luck for
all, in the next round other luck; the tables show medians.

All but ours have the settings that were best for each scenario. A user that does not know the quota
beforehand has those of "far": `--settings-for far` shows what these do under a quota.

The scenarios:

- far: OpenAI's latency as recorded in public, and the quota of its highest tier, which is in the
  headers of its answers and is not reached here.
- next-door: no latency. What remains is the client's own work, and the server's to send 157 MB.
- quota: 20M tokens a minute, of which the bucket holds three seconds' worth; three times as many
  texts, so that the quota takes the time, not the last answer.
- quota-no-headers: the same with a hidden quota: the server sends bare 429s.
- faults: 8 % are throttled, 6 % are 5xx, 3 % are reset, 2 % are cut off within their answer.

The ideal time of a quota is the bound that no client can beat. The bucket is full at the start, so
all but its content has to flow in first, (charge - bucket) / rate; then the last request still has
to be answered, for which the latency of a small one counts (`LATENCY_FLOOR`).

The server has computed all vectors before, in a round that does not count: a provider computes them
on other machines, here it would use the clients' processor.

"Rust client" is baseten-performance-client. It requests numbers, 33 KB a vector. It can request
base64 too, 8 KB a vector as all others have it, but returns that undecoded: the code that an expert
would write around it has rows of its own, "by hand".
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median

from langchain_batch_embed.commands.corpus import sections, standard_library
from langchain_batch_embed.simulator import Scenario, Simulator
from tests.benchmarks.contenders import CONTENDERS, Job, Measures, Settings

__all__ = ["LATENCY_FLOOR", "SCENARIOS", "ideal_seconds", "main"]

QUOTA = {"tokens_per_minute": 20_000_000, "bucket_seconds": 3.0}
SILENT = {"rate_limit_headers": False, "refusal_hint": "none", "error_details": False}
FAULTS = {
    "429": 0.08,
    "500": 0.02,
    "502_html": 0.02,
    "503": 0.02,
    "reset": 0.03,
    "truncated": 0.02,
}

SCENARIOS: Mapping[str, Scenario] = {
    "far": Scenario(tier=5),
    # A stall of 8 times the usual latency for 0.7 % of the requests, as often as in public samples.
    "far-heavy-tail": Scenario(
        stall_probability=0.007, stall_factor=8.0, rate_limit_headers=False, tier=5
    ),
    "far-heavy-tail-headers": Scenario(stall_probability=0.007, stall_factor=8.0, tier=5),
    "next-door": Scenario(latency=0),
    "quota": Scenario(**QUOTA),  # type: ignore[arg-type]
    "quota-no-headers": Scenario(**QUOTA, **SILENT),  # type: ignore[arg-type]
    "faults": Scenario(faults=FAULTS),
}
SCENARIOS = {name: replace(scenario, vector_cache=True) for name, scenario in SCENARIOS.items()}

COPIES = {"quota": 3, "quota-no-headers": 3}
"""How often each text is embedded in a scenario, each time with another number before it.

The default is once.
"""

LATENCY_FLOOR = 0.080 + 0.095
"""Seconds for a small request: the simulator's median time in the server plus the network."""

OURS = "ours"
SECTIONS = 19_207
TIME_LIMIT = 900.0  # seconds for one run, after which it counts as failed


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run of a contender: its own measurements and the server's counts."""

    measures: Measures
    requests: int
    throttled: int
    server_seconds: float


def ideal_seconds(charge: float, scenario: Scenario) -> float | None:
    """Return the least seconds in which a quota lets this many charged tokens through.

    Return `None` if the scenario has no quota of tokens, or if its bucket holds all of them.
    """
    _, per_minute = scenario.quotas
    if per_minute is None:
        return None
    rate = per_minute / 60
    missing = charge - rate * scenario.bucket_seconds
    return missing / rate + LATENCY_FLOOR if missing > 0 else None


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the comparison; `arguments` are those of the command line."""
    options = _parser().parse_args(arguments)
    names = list(SCENARIOS) if options.scenario == "all" else [options.scenario]
    once = [section.text for section in sections(standard_library()[1], options.sections)]
    for name in names:
        texts = [*once, *(f"{n}. {text}" for n in range(1, COPIES.get(name, 1)) for text in once)]
        with _as_file(texts) as file:
            _say(f"\n## {name}\n")
            if options.tune:
                _tune(name, options.contenders, file, rounds=options.rounds)
            else:
                settings = {
                    key: CONTENDERS[key].settings(options.settings_for or name)
                    for key in options.contenders
                }
                runs = _compare(name, settings, file, rounds=options.rounds)
                _say(_table(runs, count=len(texts)))
                _say(_notes(runs, texts, SCENARIOS[name], settings))


# ---- running ----


def _compare(
    name: str, settings: Mapping[str, Settings], file: str, *, rounds: int
) -> Mapping[str, list[Run]]:
    """Let the contenders take turns with their settings, and return the runs of each."""
    runs: dict[str, list[Run]] = defaultdict(list)
    with Simulator(SCENARIOS[name]) as simulator:
        for key, own in settings.items():
            _run(simulator, name, key, own, file)  # the server computes its vectors
        for seed in range(rounds):
            for key, own in settings.items():
                runs[key].append(_run(simulator, name, key, own, file, seed=seed))
    return runs


def _tune(name: str, contenders: Sequence[str], file: str, *, rounds: int) -> None:
    """Try every combination of each contender's settings and print them, the best first."""
    with Simulator(SCENARIOS[name]) as simulator:
        for key in contenders:
            tried: list[tuple[float, str]] = []
            _run(simulator, name, key, CONTENDERS[key].settings(name), file)
            for settings in CONTENDERS[key].all_settings():
                runs = [
                    _run(simulator, name, key, settings, file, seed=seed) for seed in range(rounds)
                ]
                failed = [run.measures.error for run in runs if run.measures.error]
                wall = math.inf if failed else _wall(runs)
                processor = median(run.measures.processor for run in runs)
                shown = ", ".join(f"{option}={value}" for option, value in settings.items())
                cells = [
                    shown,
                    str(failed[0]) if failed else _short(wall),
                    _short(processor),
                    _requests(runs),
                ]
                tried.append((wall, f"| {' | '.join(cells)} |"))
            _say(f"\n### {key}\n\n| settings | wall s | processor s | requests | 429s |")
            _say("|---|--:|--:|--:|--:|")
            _say("\n".join(line for _, line in sorted(tried)))


def _run(
    simulator: Simulator, scenario: str, key: str, settings: Settings, file: str, *, seed: int = 0
) -> Run:
    """Run one contender in a fresh process, against a fresh run of the scenario."""
    simulator.configure(replace(SCENARIOS[scenario], seed=seed))
    job = Job(contender=key, settings=settings, url=simulator.url, texts=file)
    command = [sys.executable, "-m", "tests.benchmarks.contenders", json.dumps(asdict(job))]
    try:
        process = subprocess.run(  # noqa: S603 - our own code and interpreter
            command, stdout=subprocess.PIPE, timeout=TIME_LIMIT, check=False
        )
        failed = process.returncode != 0
        measures = (
            Measures(error=f"exit code {process.returncode}")
            if failed
            else Measures(**json.loads(process.stdout))
        )
    except subprocess.TimeoutExpired:
        measures = Measures(error=f"no end in {TIME_LIMIT:g} s")
    stats = simulator.stats()
    run = Run(
        measures=measures,
        requests=stats["requests"],
        throttled=stats["by_status"].get("429", 0),
        server_seconds=stats["processor_seconds"],
    )
    shown = measures.error or f"{measures.wall:.2f} s"
    sys.stderr.write(f"{scenario}: {key} {json.dumps(settings)}: {shown}\n")
    return run


@contextmanager
def _as_file(texts: Sequence[str]) -> Iterator[str]:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "texts.json"
        file.write_text(json.dumps(texts))
        yield str(file)


# ---- showing ----


def _table(runs: Mapping[str, list[Run]], *, count: int) -> str:
    """Return the Markdown table with medians over the rounds."""
    lines = [
        "| way | wall s | worst s | times ours | processor s | peak MB | requests | 429s | wrong |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    ours = _wall(runs.get(OURS, []))
    for key, tried in runs.items():
        label = CONTENDERS[key].label
        good = [run for run in tried if run.measures.error is None]
        if not good:
            errors = ", ".join(sorted({str(run.measures.error) for run in tried}))
            lines.append(f"| {label} | failed: {errors} | | | | | {_requests(tried)} | |")
            continue
        failed = "" if len(good) == len(tried) else f", failed {len(tried) - len(good)} times"
        sample = CONTENDERS[key].sample
        scale = max(1.0, count / sample) if sample else 1.0
        wall = _wall(good) * scale
        measures = [run.measures for run in good]
        cells = [
            f"{label}{'*' if scale > 1 else ''}{failed}",
            _short(wall),
            _short(max(measure.wall for measure in measures) * scale),
            _short(wall / ours) if ours else "",
            _short(median(measure.processor for measure in measures) * scale),
            f"{median(measure.peak_mb for measure in measures):,.0f}" if scale == 1 else "",
            f"{count:,} | " if scale > 1 else _requests(good),
            f"{max(measure.wrong for measure in measures):,}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _notes(
    runs: Mapping[str, list[Run]],
    texts: Sequence[str],
    scenario: Scenario,
    settings: Mapping[str, Settings],
) -> str:
    """Return the notes to the table as a Markdown list."""
    everything = [run for tried in runs.values() for run in tried]
    rounds = max(map(len, runs.values()))
    servers = [median(run.server_seconds for run in tried) for tried in runs.values()]
    notes = [
        f"{len(texts):,} texts, medians of {rounds} rounds. Server and clients share the "
        f"{os.cpu_count()} processor cores of one machine: the server took {min(servers):.1f} to "
        f"{max(servers):.1f} processor seconds a run, which are not in the table.",
    ]
    notes += [
        f"* measured on {CONTENDERS[key].sample} texts over an open connection, extrapolated."
        for key in runs
        if CONTENDERS[key].sample
    ]
    given = [
        f"{CONTENDERS[key].label} {', '.join(f'{option}={value}' for option, value in own.items())}"
        for key, own in settings.items()
        if own
    ]
    if given:
        notes.append(f"Settings: {'; '.join(given)}.")
    before = [run.measures.before_mb for run in everything if not run.measures.error]
    if before:
        notes.append(
            f"Of the peak, {min(before):,.0f} to {max(before):,.0f} MB were there before the call: "
            f"Python, libraries, texts. {_memory(runs)}"
        )
    ideal = ideal_seconds(sum(len(text.encode()) for text in texts) / 4, scenario)
    ours = [run for run in runs.get(OURS, []) if not run.measures.error]
    if ideal is not None and ours:
        share = median(run.throttled / run.requests for run in ours)
        notes.append(
            f"The ideal time is {ideal:.2f} s: `BatchEmbeddings` took {_wall(ours) / ideal:.2f} "
            f"times that, with {share:.1%} of its requests throttled."
        )
    return "\n" + "\n".join(f"- {note}" if note[0] != "*" else f"- \\{note}" for note in notes)


def _memory(runs: Mapping[str, list[Run]]) -> str:
    """Return how the memory that a call took compares with the size of its result."""
    told = []
    for key, tried in runs.items():
        good = [run.measures for run in tried if not run.measures.error]
        if good and not CONTENDERS[key].sample:
            rise = median(measure.peak_mb - measure.before_mb for measure in good)
            told.append(f"{CONTENDERS[key].label} {rise / good[0].result_mb:.2f}")
    return f"The rise during the call, in sizes of the result itself: {', '.join(told)}."


def _requests(runs: Sequence[Run]) -> str:
    requests = median(run.requests for run in runs)
    return f"{requests:,.0f} | {median(run.throttled for run in runs):,.0f}"


def _wall(runs: Sequence[Run]) -> float:
    walls = [run.measures.wall for run in runs if not run.measures.error]
    return median(walls) if walls else 0.0


def _short(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.2f}"


def _say(text: str) -> None:
    print(text, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.compare",
        description="Everybody's way to embed many texts, side by side on a local server.",
    )
    parser.add_argument("--scenario", choices=[*SCENARIOS, "all"], default="all")
    parser.add_argument("--sections", type=int, default=SECTIONS, help="how many texts")
    parser.add_argument(
        "--contenders", nargs="+", choices=list(CONTENDERS), default=list(CONTENDERS)
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--settings-for",
        choices=list(SCENARIOS),
        help="give everybody the settings that are best for this scenario, in each of them",
    )
    parser.add_argument("--tune", action="store_true", help="try all of each contender's settings")
    return parser


if __name__ == "__main__":
    main()
