"""Arguments that cannot be used end a command with status 2, in the words of the shell."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

import langchain_batch_embed
from langchain_batch_embed.commands.shell_words import PHRASES, shell_words
from langchain_batch_embed.simulator import BatchApi
from tests.support import LocalServer

Command = Callable[..., int]
Captured = pytest.CaptureFixture[str]


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """A file with a text."""
    path = tmp_path / "a.md"
    path.write_text("a text")
    return path


class TestNumbers:
    """Numbers are checked before anything is read or sent."""

    @pytest.mark.parametrize(
        ("arguments", "advice"),
        [
            ("embed a.md --out a.npy --max-dollars -1", "--max-dollars: must be more than 0"),
            ("embed a.md --out a.npy --max-dollars nan", "--max-dollars: must be more than 0"),
            ("submit a.md --max-dollars 0", "--max-dollars: must be more than 0"),
            ("embed a.md --out a.npy --max-dollars inf", "must be more than 0 and finite, not inf"),
            ("embed a.md --out a.npy --dimensions x", "--dimensions: must be a number, not 'x'"),
            ("submit a.md --finish-by -1", "--finish-by: must be more than 0"),
            ("plan a.md --price inf", "--price: must be more than 0"),
            ("plan a.md --price -1", "--price: must be more than 0"),
            ("collect --timeout -1", "--timeout: must be at least 0"),
            ("simulate --latency -1", "--latency: must be at least 0"),
            ("simulate --port 99999", "--port: must be from 0 to 65535"),
            ("simulate --port -1", "--port: must be from 0 to 65535"),
        ],
    )
    def test_one_that_cannot_be_used_is_refused(
        self, command: Command, texts: Path, capsys: Captured, arguments: str, advice: str
    ) -> None:
        """A wrong value ends the command with status 2, and the message names the option."""
        assert command(*arguments.split()) == 2
        assert advice in capsys.readouterr().err
        assert list(texts.parent.iterdir()) == [texts]

    @pytest.mark.parametrize("start", ["embed a.md --out a.npy", "submit a.md"])
    def test_dollars_need_a_price(
        self, command: Command, texts: Path, server: LocalServer, capsys: Captured, start: str
    ) -> None:
        """For a model whose price is not known, `--max-dollars` is refused."""
        assert texts.exists()
        assert command(*start.split(), "--model", "foo", "--max-dollars", 1) == 2
        said = capsys.readouterr().err
        assert "--max-dollars needs the model's price" in said
        assert server.stats()["requests"] == 0


class TestModels:
    """A model that cannot be made is a wrong argument."""

    @pytest.mark.parametrize("start", ["embed a.md --out a.npy", "submit a.md", "plan a.md"])
    @pytest.mark.parametrize("name", ["nope:x", "openai:"])
    def test_an_unknown_one_is_refused(
        self, command: Command, texts: Path, capsys: Captured, start: str, name: str
    ) -> None:
        """Each command that needs a provider ends with status 2 if it does not exist."""
        assert texts.exists()
        assert command(*start.split(), "--model", name) == 2
        assert "error: " in capsys.readouterr().err


class TestWords:
    """Advice of the library names options of Python, which the shell does not have."""

    def test_a_price_is_given_with_an_option(
        self, command: Command, texts: Path, capsys: Captured
    ) -> None:
        """For a model without a list price, `plan` names `--price`."""
        assert command("plan", texts, "--model", "foo") == 0
        assert "--price" in capsys.readouterr().out

    def test_a_budget_is_named_like_its_option(
        self, command: Command, texts: Path, server: LocalServer, capsys: Captured
    ) -> None:
        """`embed` stops at `--max-dollars`, and `submit` uploads nothing."""
        server.configure(dimensions=8, batch_api=BatchApi())
        assert command("embed", texts, "--out", "a.npy", "--max-dollars", 1e-12) == 1
        assert command("submit", texts, "--max-dollars", 1e-12) == 1
        said = capsys.readouterr().err
        assert said.count("--max-dollars") >= 2
        assert "max_dollars" not in said

    def test_a_wait_that_is_over_names_the_command(
        self, command: Command, texts: Path, server: LocalServer, capsys: Captured
    ) -> None:
        """When `--timeout` is over, the message names the command, and not the method `wait()`."""
        server.configure(dimensions=8, batch_api=BatchApi(fates=("stuck",)))
        assert command("submit", texts) == 0
        assert command("collect", "--timeout", 0, "--quiet") == 1
        said = capsys.readouterr().err
        assert "run the same command again" in said
        assert "wait()" not in said

    def test_a_wrong_address_names_its_option(
        self, command: Command, texts: Path, server: LocalServer, capsys: Captured
    ) -> None:
        """The message names `--base-url`, and not `base_url`."""
        url = f"{server.url}/nowhere"
        assert command("embed", texts, "--out", "a.npy", "--base-url", url, "--quiet") == 1
        said = capsys.readouterr().err.splitlines()[-1]
        assert "--base-url" in said
        assert "base_url" not in said

    @pytest.mark.parametrize("phrase", PHRASES)
    def test_each_phrase_is_still_in_the_library(self, phrase: str) -> None:
        """A message that is reworded takes its translation along."""
        package = Path(langchain_batch_embed.__file__).parent
        files = (path for path in package.rglob("*.py") if path.name != "shell_words.py")
        # Long messages are split into several literals.
        assert any(phrase in re.sub(r'"\s*\n\s*f?"', "", file.read_text()) for file in files)

    def test_other_words_stay(self) -> None:
        """A file name that holds the name of an option stays as it is."""
        assert shell_words("my-max_dollars is full") == "my-max_dollars is full"
        assert shell_words("set max_dollars=3") == "set --max-dollars 3"


class TestDemo:
    """`demo --path` may name a file."""

    def test_an_empty_file_is_named(
        self, command: Command, tmp_path: Path, capsys: Captured
    ) -> None:
        """An empty file is named, and not its folder; the advice speaks of files too."""
        (tmp_path / "empty.txt").touch()
        assert command("demo", "--path", "empty.txt") == 1
        said = capsys.readouterr().err
        assert "no text found in empty.txt" in said
        assert "takes a text file, or a folder" in said
