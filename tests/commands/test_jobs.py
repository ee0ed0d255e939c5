"""`collect` and `jobs` where the journal or its jobs are not those that the options name."""

from collections.abc import Callable
from pathlib import Path

import pytest

from langchain_batch_embed import SQLiteJournal
from langchain_batch_embed.simulator import BatchApi
from tests.support import LocalServer

Command = Callable[..., int]
Captured = pytest.CaptureFixture[str]


@pytest.fixture
def texts(tmp_path: Path, server: LocalServer, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file with a text, and a server with a Batch API that ends a batch at once."""
    monkeypatch.setattr("langchain_batch_embed.batch_api.decisions._FIRST_POLL", 0.01)
    server.configure(dimensions=8, batch_api=BatchApi(validating=0, running=0, finalizing=0))
    path = tmp_path / "a.md"
    path.write_text("a text")
    return path


class TestOtherJobs:
    """A job of another model, width or server is not collected, and `collect` does not hide it."""

    def test_another_width_is_an_error(
        self, command: Command, texts: Path, capsys: Captured
    ) -> None:
        """Standard error says which options to repeat, and with them it is collected."""
        assert command("submit", texts, "--dimensions", 4) == 0
        assert "next: run collect with --dimensions 4, which" in capsys.readouterr().out
        assert command("collect") == 2
        said = capsys.readouterr().err
        assert "is not collected, because it was submitted with other options" in said
        assert "repeat --dimensions and --base-url (or OPENAI_BASE_URL)" in said
        assert command("collect", "--dimensions", 4) == 0

    def test_another_model_is_named(self, command: Command, texts: Path, capsys: Captured) -> None:
        """The message names the job's model, which the journal knows."""
        assert command("submit", texts, "--model", "text-embedding-3-large") == 0
        assert command("collect") == 2
        assert "repeat --model text-embedding-3-large, --dimensions" in capsys.readouterr().err

    def test_another_server_is_an_error(
        self, command: Command, texts: Path, server: LocalServer, capsys: Captured
    ) -> None:
        """A job of another server is not collected, as the address is part of its space."""
        assert command("submit", texts) == 0
        elsewhere = server.url.replace("127.0.0.1", "localhost")
        assert command("collect", "--base-url", elsewhere) == 2
        assert "another server" in capsys.readouterr().err

    def test_our_own_are_collected_all_the_same(
        self, command: Command, texts: Path, capsys: Captured
    ) -> None:
        """The status shows that another job is left."""
        assert command("submit", texts, "--dimensions", 4) == 0
        assert command("submit", texts) == 0
        assert command("collect") == 2
        capsys.readouterr()
        assert command("jobs") == 0
        assert capsys.readouterr().out.count("1 finished") == 1


class TestTheJournal:
    """Only `submit` and `embed` make one."""

    @pytest.mark.parametrize("name", ["jobs", "collect"])
    def test_one_that_does_not_exist_is_not_made(
        self, command: Command, tmp_path: Path, capsys: Captured, name: str
    ) -> None:
        """A mistyped name of a journal is an error, and no file is made."""
        assert command(name, "--journal", "typo.db") == 2
        assert "the journal typo.db does not exist" in capsys.readouterr().err
        assert not list(tmp_path.iterdir())

    def test_one_without_jobs_says_so(
        self, command: Command, tmp_path: Path, capsys: Captured
    ) -> None:
        """A journal without jobs is no error."""
        SQLiteJournal(tmp_path / "vectors.db").close()
        assert command("jobs") == 0
        assert "vectors.db has no jobs" in capsys.readouterr().out
