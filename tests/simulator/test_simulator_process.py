"""The simulator's process starts, counts and ends."""

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from pytest_mock import MockerFixture

from langchain_batch_embed.simulator import Scenario, Simulator, process
from tests.support import wait_until

Ask = Callable[..., httpx.Response]
Configure = Callable[..., None]
RawRequest = Callable[..., socket.socket]


def eventually(simulator: Simulator, name: str, value: Any) -> dict[str, Any]:
    """Return the stats once one of them has this value."""
    found: list[dict[str, Any]] = []

    def is_there() -> bool:
        found.append(simulator.stats())
        return bool(found[-1][name] == value)

    wait_until(is_there)
    return found[-1]


class TestStats:
    """The server's counters."""

    def test_answers_and_refusals_are_counted_apart(
        self, ask: Ask, simulator: Simulator, configure: Configure
    ) -> None:
        """Statuses, faults, inputs, tokens and charges are counted for each request."""
        configure(script=("ok", "500", "ok"), max_inputs=3)
        ask(["Hello world", "same"])
        ask(["lost"])
        ask(["same"])
        ask(["a", "b", "c", "d"])

        stats = simulator.stats()

        log = stats.pop("log")
        assert stats.pop("processor_seconds") >= 0
        assert stats == {
            "requests": 4,
            "by_status": {"200": 2, "500": 1, "400": 1},
            "faults": {"500": 1},
            "in_flight": 0,
            "max_in_flight": 1,
            "inputs_computed": 3,
            "inputs_billed": 3,
            "texts_seen_distinct": 7,
            "texts_billed_distinct": 2,
            "tokens_billed": 4,
            "charged": 5,
            "batch_inputs_billed": 0,
            "batch_tokens_billed": 0,
            "batch_calls": {},
            "batches": [],
            "files": {"uploaded": 0, "deleted": 0, "kept": 0},
            "max_inputs_seen": 4,
            "max_tokens_seen": 4,
            "max_charge_seen": 4,
            "connections": 1,
        }
        assert [row[2:] for row in log] == [
            [2, 3, 4, 200, None],
            [1, 1, 1, 500, "500"],
            [1, 1, 1, 200, None],
            [4, 4, 1, 400, None],
        ]
        starts, ends = [row[0] for row in log], [row[1] for row in log]
        assert starts[0] == 0
        assert starts == sorted(starts)
        assert all(start <= end for start, end in zip(starts, ends, strict=True))

    def test_a_reset_forgets(self, ask: Ask, simulator: Simulator, configure: Configure) -> None:
        """A reset sets the counters to zero, and a connection is counted again when it is used."""
        configure()
        ask("x")
        simulator.reset()
        before = simulator.stats()["connections"]
        ask("x")

        assert before == 0
        assert simulator.stats()["requests"] == 1
        assert simulator.stats()["connections"] == 1

    def test_64_requests_can_be_in_flight(
        self, simulator: Simulator, configure: Configure, raw_request: RawRequest
    ) -> None:
        """64 requests can wait at the same time, and are gone when their clients are."""
        configure(faults={"hang": 1.0})
        clients = [raw_request() for _ in range(64)]
        try:
            eventually(simulator, "in_flight", 64)
        finally:
            for client in clients:
                client.close()

        stats = eventually(simulator, "in_flight", 0)
        assert stats["max_in_flight"] == 64
        assert stats["connections"] == 64
        assert stats["by_status"] == {"0": 64}

    def test_a_client_that_goes_early_is_billed_all_the_same(
        self, simulator: Simulator, configure: Configure, raw_request: RawRequest
    ) -> None:
        """A client that leaves early is billed, because the answer is computed anyway."""
        configure(latency=0.001)
        raw_request().close()

        stats = eventually(simulator, "inputs_billed", 1)
        assert stats["tokens_billed"] == 2

    def test_an_answer_that_is_replaced_was_computed_and_is_not_billed(
        self, ask: Ask, simulator: Simulator, configure: Configure
    ) -> None:
        """A replaced answer counts as computed, but is not billed."""
        configure(script=("html",))
        ask(["a", "b"])

        stats = simulator.stats()
        assert (stats["inputs_computed"], stats["inputs_billed"]) == (2, 0)
        assert (stats["texts_seen_distinct"], stats["texts_billed_distinct"]) == (2, 0)

    def test_a_client_that_goes_before_its_body_is_not_billed(
        self, simulator: Simulator, configure: Configure, raw_request: RawRequest
    ) -> None:
        """A client that leaves before its body is complete is not billed."""
        configure()
        raw_request(cut=5).close()

        stats = eventually(simulator, "by_status", {"0": 1})
        assert stats["inputs_billed"] == 0

    def test_a_dripping_answer_ends_with_its_client(
        self, simulator: Simulator, configure: Configure, raw_request: RawRequest
    ) -> None:
        """A dripping answer ends when its client leaves."""
        configure(script=("drip",), drip_seconds=3600)
        with raw_request() as client:
            assert client.recv(15) == b"HTTP/1.1 200 OK"

        assert eventually(simulator, "in_flight", 0)["faults"] == {"drip": 1}

    def test_latency_is_told_and_kept(
        self, ask: Ask, simulator: Simulator, configure: Configure
    ) -> None:
        """A request takes at least the announced server time and the network's."""
        configure(latency=0.1)

        response = ask("x")

        start, end = simulator.stats()["log"][0][:2]
        assert end - start > int(response.headers["openai-processing-ms"]) / 1000

    def test_processor_time_is_counted(
        self, ask: Ask, simulator: Simulator, configure: Configure
    ) -> None:
        """Work costs processor time, which a reset sets back."""
        configure()
        ask([f"text {i}" for i in range(2000)], dimensions=1536)
        worked = simulator.stats()["processor_seconds"]
        simulator.reset()

        assert worked > simulator.stats()["processor_seconds"] > 0


class TestProcess:
    """The process starts and ends properly."""

    def test_it_ends_with_the_block(self) -> None:
        """After the block nobody listens on the port."""
        with Simulator(Scenario(latency=0)) as simulator:
            port = httpx.URL(simulator.url).port
            assert simulator.pid != os.getpid()

        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))

    def test_it_ends_when_its_parent_is_killed(self) -> None:
        """If the parent is killed with SIGKILL, the server ends too."""
        code = (
            "from langchain_batch_embed.simulator import Simulator\n"
            "with Simulator() as simulator: print(simulator.url, flush=True); input()"
        )
        with subprocess.Popen(  # noqa: S603
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as parent:
            assert parent.stdout is not None
            url = httpx.URL(parent.stdout.readline().decode().strip())
            connection = http.client.HTTPConnection("127.0.0.1", url.port, timeout=60)
            connection.connect()
            os.kill(parent.pid, signal.SIGKILL)

            # Without a server the connection ends; with one it stays open.
            with contextlib.suppress(ConnectionResetError):  # a reset is an end, too
                assert connection.sock.recv(1) == b""
        connection.close()

    def test_the_server_does_not_import_the_rest(self) -> None:
        """The server's process imports neither LangChain nor the rest of this package."""
        code = process.boot_code().replace("main()", "") + (
            "import langchain_batch_embed.simulator.app\n"
            "print(*(name for name in sys.modules if name.startswith('langchain')))"
        )

        names = subprocess.run(  # noqa: S603
            [sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True
        ).stdout.split()

        assert "langchain_batch_embed.simulator.app" in names
        package = "langchain_batch_embed"
        assert [n for n in names if not n.startswith(f"{package}.simulator")] == [package]

    def test_a_wrong_scenario_is_refused_by_the_server_too(
        self, simulator: Simulator, client: httpx.Client, configure: Configure
    ) -> None:
        """A wrong scenario from another client is a 400 with a reason, and changes nothing."""
        configure(models=("mine",))

        response = client.post(
            f"{simulator.azure_endpoint}/simulator/scenario", content=b'{"tier": 9}'
        )

        assert response.status_code == 400
        assert "tier must be one of" in response.json()["error"]
        assert client.get(f"{simulator.url}/models").json()["data"][0]["id"] == "mine"

    def test_it_must_run_before_it_is_asked(self) -> None:
        """A simulator outside its block raises an error that says what to do."""
        with pytest.raises(RuntimeError, match="use it in a `with` block"):
            Simulator().stats()

    def test_it_cannot_run_twice(self, simulator: Simulator) -> None:
        """Starting a running simulator is an error."""
        with pytest.raises(RuntimeError, match="running already"):
            simulator.start()

    def test_a_port_in_use_is_an_error(self, capfd: pytest.CaptureFixture[str]) -> None:
        """A port in use is an error whose reason is on standard error."""
        with socket.create_server(("127.0.0.1", 0)) as taken:
            simulator = Simulator(port=taken.getsockname()[1])
            with pytest.raises(RuntimeError, match="did not start"):
                simulator.start()

        assert "in use" in capfd.readouterr().err

    def test_a_missing_extra_is_named(self, mocker: MockerFixture) -> None:
        """A missing extra is an error that gives the command to install it."""
        mocker.patch("importlib.util.find_spec", return_value=None)

        with pytest.raises(ImportError, match=r'pip install "langchain-batch-embed\[demo\]"'):
            Simulator()

    def test_the_command_line_serves(self) -> None:
        """`python -m langchain_batch_embed.simulator` prints its address and takes options."""
        command = [sys.executable, "-m", "langchain_batch_embed.simulator", "--port", "0"]
        command += ["--tier", "1", "--latency", "0", "--scenario", '{"models": ["mine"]}']
        command += ["--workers", "1", "--seconds-per-text", "0.01", "--max-in-flight", "2"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:  # noqa: S603
            try:
                assert server.stdout is not None
                url = server.stdout.readline().split()[2]
                body = {"model": "mine", "input": "x"}
                response = httpx.post(f"{url}/embeddings", json=body, trust_env=False)
            finally:
                server.terminate()

        assert response.status_code == 200
        assert response.headers["x-ratelimit-limit-tokens"] == "1000000"
        assert response.headers["openai-processing-ms"] == "10"

    def test_a_wrong_option_on_the_command_line_is_one_line(self) -> None:
        """A wrong option on the command line gives one line and a status other than 0."""
        command = [sys.executable, "-m", "langchain_batch_embed.simulator"]

        done = subprocess.run(  # noqa: S603
            [*command, "--scenario", '{"teir": 1}'], capture_output=True, text=True, check=False
        )

        assert done.returncode == 1
        assert done.stderr.startswith("simulator: unknown options ['teir']")
        assert len(done.stderr.splitlines()) == 1
