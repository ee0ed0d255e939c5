"""The commands `submit`, `collect` and `jobs`, as a user runs them."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from langchain_openai import OpenAIEmbeddings
from pytest_mock import MockerFixture

from langchain_batch_embed import BatchEmbeddings, Job
from langchain_batch_embed.commands.main import main
from langchain_batch_embed.simulator import BatchApi
from tests.support import LocalServer, assert_right

Run = Callable[..., str]

BODIES = [f"The first line of file {i}.\nAnd more of it." for i in range(6)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with six text files."""
    made = tmp_path / "texts"
    made.mkdir()
    for number, body in enumerate(BODIES):
        (made / f"{number}.md").write_text(body)
    return made


@pytest.fixture
def run(
    server: LocalServer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> Run:
    """Return a function that runs a command in a folder of its own and returns its output."""
    server.configure(dimensions=8, batch_api=BatchApi())
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> str:
        main([str(argument) for argument in arguments])
        return capsys.readouterr().out

    return call


def test_what_is_submitted_is_collected(
    run: Run, server: LocalServer, folder: Path, tmp_path: Path
) -> None:
    """Submitted texts can be collected into the journal, and `jobs` lists their states."""
    assert "6 texts: 6 running\nnext: run collect" in run("submit", folder, "--whole")
    assert "6 texts: 6 running" in run("jobs")
    out = run("collect")
    assert re.search(r": 1 batch with \d+ tokens at half price \(<\$0\.0001\)\n", out)
    assert "request" not in out
    assert "6 finished; 6 texts (6 unique)" in run("jobs")
    assert run("collect") == "vectors.db has no unfinished job\n"
    assert "next: " not in run("submit", folder, "--whole")
    wrapped = OpenAIEmbeddings(model="text-embedding-3-small")
    embeddings = BatchEmbeddings(wrapped, journal=tmp_path / "vectors.db")
    assert_right(embeddings.embed_numpy(BODIES), BODIES)
    assert server.stats()["requests"] == 0


def test_the_same_command_sends_nothing_twice(run: Run, server: LocalServer, folder: Path) -> None:
    """The same command sends no text twice, either before or after the collection."""
    for _ in range(2):
        run("submit", folder)
    run("collect")
    run("submit", folder)
    run("collect")
    assert server.stats()["inputs_billed"] == 6


def test_a_journal_a_model_and_dimensions_can_be_named(
    run: Run, server: LocalServer, folder: Path, tmp_path: Path
) -> None:
    """A job with another model or width is left alone, and the output names it."""
    ours = ("--journal", tmp_path / "mine.db", "--model", "text-embedding-3-large")
    run("submit", folder, *ours, "--dimensions", 4)
    with pytest.raises(SystemExit):
        run("collect", *ours)
    run("collect", *ours, "--dimensions", 4)
    assert server.stats()["inputs_billed"] == 6
    assert "6 finished" in run("jobs", "--journal", tmp_path / "mine.db")


def test_refused_texts_are_named(
    run: Run, server: LocalServer, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Refused texts are listed by number, not by their words, and the exit status is 3."""
    server.configure(dimensions=8, refuse_marker="file 3", batch_api=BatchApi())
    run("submit", folder, "--whole")
    with pytest.raises(SystemExit) as ended:
        run("collect")
    assert ended.value.code == 3
    told = capsys.readouterr().err
    assert "text 3: " in told
    assert "line of file" not in told


def test_a_price_that_is_too_high_is_told(run: Run, server: LocalServer, folder: Path) -> None:
    """A cost above `--max-dollars` is refused before anything is uploaded."""
    with pytest.raises(SystemExit, match="nothing was uploaded"):
        run("submit", folder, "--max-dollars", 1e-9)
    assert server.stats()["files"]["uploaded"] == 0


def test_what_is_late_is_sent_by_ordinary_requests(
    run: Run, server: LocalServer, folder: Path
) -> None:
    """Late texts are sent by ordinary requests after `--finish-by`, which is in hours."""
    server.configure(dimensions=8, batch_api=BatchApi(fates=("stuck",), cancelling=0.0))
    run("submit", folder, "--finish-by", 1 / 3600)
    assert re.search(r" 1 request with \d+ tokens at full price", run("collect"))


def test_a_wait_has_an_end(run: Run, server: LocalServer, folder: Path) -> None:
    """`collect --timeout` ends the wait, while the job goes on."""
    server.configure(dimensions=8, batch_api=BatchApi(fates=("stuck",)))
    run("submit", folder)
    with pytest.raises(SystemExit, match=r"has not ended after 0\.1 s"):
        run("collect", "--timeout", 0.1, "--quiet")


def test_ctrl_c_ends_a_wait_and_not_the_job(
    run: Run, server: LocalServer, folder: Path, mocker: MockerFixture, capsys: Any
) -> None:
    """Ctrl-C ends the wait with status 130 but not the job, so `collect` can be run again."""
    run("submit", folder)
    mocker.patch.object(Job, "wait", side_effect=KeyboardInterrupt)
    with pytest.raises(SystemExit) as ended:
        run("collect")
    assert ended.value.code == 130
    assert "stopped waiting: the job continues" in capsys.readouterr().err
    mocker.stopall()
    assert "1 batch with" in run("collect")
    assert server.stats()["inputs_billed"] == 6


def test_a_server_that_refuses_is_named(run: Run, server: LocalServer, folder: Path) -> None:
    """A refusal by the server is shown with its status and address, without its own message.

    The server's message may contain the key.
    """
    server.configure(api_key="another", batch_api=BatchApi())
    with pytest.raises(SystemExit) as ended:
        run("submit", folder)
    said = f"the endpoint failed: 401 invalid_api_key at {server.url}/batches: the key is wrong"
    assert str(ended.value.code).startswith(said)
