"""Without a wheel of toktok-rs the package installs, counts in another way and warns once."""

import logging
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiktoken
import tiktoken.registry
from packaging.requirements import Requirement
from pytest_mock import MockerFixture

from langchain_batch_embed.simulator import Simulator
from langchain_batch_embed.texts import tokens
from langchain_batch_embed.texts.tokens import (
    ByteCounter,
    TiktokenCounter,
    ToktokCounter,
    counter_for,
)
from tests.support import LocalServer

MODEL = "text-embedding-3-small"
PROJECT = Path(__file__).parents[2] / "pyproject.toml"

BLOCKED = """
import logging, sys
sys.modules["toktok"] = None  # as where it is not installed
logging.basicConfig(stream=sys.stdout, format="%(levelname)s %(message)s")
"""


@pytest.fixture(autouse=True)
def _nothing_was_said() -> Iterator[None]:
    """Begin as in a new process, and leave no trace."""
    tokens._log_once.cache_clear()
    yield
    tokens._log_once.cache_clear()


@pytest.fixture
def blocked(mocker: MockerFixture) -> None:
    """Make toktok-rs unavailable."""
    mocker.patch.object(tokens, "toktok", None)
    mocker.patch.dict(tiktoken.registry.ENCODINGS, clear=True)


def run(code: str, *arguments: str) -> list[str]:
    """Run code in a process without toktok-rs and return its printed lines."""
    done = subprocess.run(  # noqa: S603  # our own code
        [sys.executable, "-c", BLOCKED + code, *arguments],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()


class TestInstalling:
    """toktok-rs is a dependency only where it has a wheel, so pip need not compile it."""

    @pytest.mark.parametrize(
        ("system", "machine", "expected"),
        [
            ("linux", "x86_64", True),
            ("linux", "aarch64", True),
            ("darwin", "arm64", True),
            ("darwin", "x86_64", True),
            ("win32", "AMD64", True),
            ("win32", "ARM64", False),
            ("win32", "x86", False),
            ("linux", "armv7l", False),
            ("linux", "riscv64", False),
            ("freebsd14", "amd64", False),
        ],
    )
    def test_it_is_installed_where_it_has_a_wheel(
        self, system: str, machine: str, *, expected: bool
    ) -> None:
        """toktok-rs is required on the common processors of Linux, macOS and Windows."""
        project = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]
        [needed] = [
            needed
            for needed in map(Requirement, project["dependencies"])
            if needed.name == "toktok-rs"
        ]
        assert needed.marker is not None
        environment = {"sys_platform": system, "platform_machine": machine}
        assert needed.marker.evaluate(environment) is expected


class TestCounting:
    """Other counters replace toktok-rs."""

    @pytest.mark.usefixtures("blocked")
    @pytest.mark.parametrize("model", [MODEL, "gpt-4o", "nomic-embed-text"])
    def test_bytes_are_counted_and_one_warning_says_so(
        self, model: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Bytes are counted and one warning for all objects names both remedies."""
        counters = [counter_for(model) for _ in range(3)]
        assert {type(counter) for counter in counters} == {ByteCounter}
        [record] = caplog.records
        assert record.levelno == logging.WARNING
        for words in ("counting UTF-8 bytes", "install toktok-rs", "tiktoken.get_encoding("):
            assert words in record.getMessage()

    @pytest.mark.usefixtures("blocked")
    def test_tiktoken_counts_where_it_has_the_vocabulary(
        self, mocker: MockerFixture, caplog: pytest.LogCaptureFixture
    ) -> None:
        """If tiktoken has the vocabulary it counts exactly, with one line at INFO, no warning."""
        tiny = tiktoken.Encoding(
            "cl100k_base",
            pat_str=".",
            mergeable_ranks={bytes([i]): i for i in range(256)},
            special_tokens={},
        )
        mocker.patch.dict(tiktoken.registry.ENCODINGS, {"cl100k_base": tiny})
        caplog.set_level(logging.INFO, "langchain_batch_embed")
        counters = [counter_for(MODEL) for _ in range(3)]
        assert {type(counter) for counter in counters} == {TiktokenCounter}
        [record] = caplog.records
        assert record.levelno == logging.INFO
        assert "toktok-rs is not installed" in record.getMessage()

    @pytest.mark.usefixtures("blocked")
    def test_what_it_never_counted_is_counted_as_before(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        """For encodings that toktok-rs lacks, nobody is advised to install it."""
        assert isinstance(counter_for("p50k_base"), ByteCounter)
        assert "toktok" not in caplog.text
        assert isinstance(counter_for(None), ByteCounter)
        assert len(caplog.records) == 1

    def test_with_it_nothing_changes(self, caplog: pytest.LogCaptureFixture) -> None:
        """With toktok-rs installed it counts, and nothing is logged."""
        assert isinstance(counter_for(MODEL), ToktokCounter)
        assert caplog.records == []


@pytest.fixture(scope="module")
def ran(running_simulator: Simulator) -> tuple[list[str], dict[str, Any]]:
    """Return what one process printed, which takes seconds to start, and the server's counts."""
    server = LocalServer(running_simulator)
    server.configure()
    lines = run(
        """
from langchain_batch_embed import BatchEmbeddings
from langchain_openai import OpenAIEmbeddings
for _ in range(2):
    embeddings = BatchEmbeddings(OpenAIEmbeddings(base_url=sys.argv[1], api_key="x"))
vectors = embeddings.embed_numpy(["a", "\\u00e9" * 100, "word " * 2000])
print(vectors.shape)
import langchain_batch_embed.__main__, langchain_batch_embed.commands.demo
from langchain_batch_embed.simulator import Simulator
try:
    Simulator()
except ImportError as error:
    print(error)
""",
        server.url,
    )
    return lines, server.stats()


class TestWithoutTheModule:
    """A process that cannot import toktok-rs."""

    def test_texts_are_embedded(self, ran: tuple[list[str], dict[str, Any]]) -> None:
        """Texts are embedded, long ones in more windows, and two objects give one warning."""
        (*said, result, _), stats = ran
        assert result == "(3, 1536)"
        [line] = said
        assert line.startswith("WARNING no vocabulary available for the encoding cl100k_base")
        assert stats["by_status"] == {"200": stats["requests"]}
        assert stats["inputs_billed"] == 2 + 2  # 10,000 bytes are two windows of 8,191

    def test_the_simulator_says_what_it_needs(self, ran: tuple[list[str], dict[str, Any]]) -> None:
        """Everything can be imported, and only the simulator, which bills tokens, fails."""
        said = ran[0][-1]
        assert said == 'the simulator needs toktok: pip install "langchain-batch-embed[demo]"'
