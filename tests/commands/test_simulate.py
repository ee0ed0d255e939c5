"""The command `simulate` starts the server as requested and prints how to use it."""

import errno
from collections.abc import Callable
from typing import Any

import pytest
from pytest_mock import MockerFixture

from langchain_batch_embed.commands import simulate
from langchain_batch_embed.commands.main import main
from langchain_batch_embed.simulator import Scenario
from tests.support import LocalServer


class TestSimulate:
    """The command `python -m langchain_batch_embed simulate`."""

    @pytest.fixture
    def serve(self, mocker: MockerFixture) -> Any:
        """Replace the server and report that it is ready on port 4321."""

        def serve(*_: Any, on_ready: Callable[[int], None]) -> None:
            on_ready(4321)

        return mocker.patch.object(simulate, "serve", side_effect=serve)

    def test_the_scenario_is_what_was_asked_for(self, serve: Any) -> None:
        """Options on the command line take precedence over those of the scenario."""
        scenario = '{"faults": {"429": 0.1}, "latency": 3}'

        options = ["--port", "0", "--host", "::1", "--tier", "2", "--latency", "0"]

        main(["simulate", *options, "--scenario", scenario])

        expected = Scenario(tier=2, latency=0, faults={"429": 0.1})
        assert serve.call_args.args == (expected, "::1", 0)

    def test_it_says_how_to_use_it(self, serve: Any, capsys: pytest.CaptureFixture[str]) -> None:
        """The printed variables can be copied into a shell."""
        main(["simulate"])

        assert serve.call_args.args == (Scenario(), "127.0.0.1", 8000)
        assert (
            "export OPENAI_BASE_URL=http://127.0.0.1:4321/v1 OPENAI_API_KEY=any"
            in capsys.readouterr().out
        )

    def test_a_port_that_is_taken_is_no_obstacle(self, serve: Any) -> None:
        """If the default port is taken a free one is used, unless the user chose the port."""
        taken = OSError(errno.EADDRINUSE, "Address already in use")
        serve.side_effect = [taken, None]
        main(["simulate"])
        assert [call.args[2] for call in serve.call_args_list] == [8000, 0]

        serve.side_effect = taken
        with pytest.raises(SystemExit, match=r"port 8000 of .* is taken; choose another one"):
            main(["simulate", "--port", "8000"])

    def test_the_key_that_it_takes_is_told(
        self, serve: Any, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """The key of the scenario is printed, because the server refuses any other."""
        main(["simulate", "--scenario", '{"api_key": "right"}'])
        assert serve.call_count == 1
        assert "OPENAI_API_KEY=right" in capsys.readouterr().out

    def test_an_impossible_value_is_explained(self, capsys: pytest.CaptureFixture[str]) -> None:
        """An impossible value is a wrong argument, in an option and in the scenario."""
        for options in (["--latency", "-1"], ["--scenario", '{"latency": -1}']):
            with pytest.raises(SystemExit, match="2"):
                main(["simulate", *options])
            assert "must be a" in capsys.readouterr().err

    def test_a_port_that_is_taken_is_explained(self, server: LocalServer) -> None:
        """If the port is taken, the message names it."""
        port = server.url.removesuffix("/v1").rpartition(":")[2]

        with pytest.raises(SystemExit, match=f"port {port} of 127.0.0.1 is taken"):
            main(["simulate", "--port", port])
