"""A user's script that mypy checks with the tests uses every public name, and runs."""

import ast
from pathlib import Path

import pytest

import langchain_batch_embed
from langchain_batch_embed.simulator import BatchApi
from tests import users_script
from tests.support import LocalServer

SOURCE = Path(users_script.__file__).read_text(encoding="utf-8")


def test_it_uses_every_public_name() -> None:
    """The script uses every public name, so mypy notices a name that typed code cannot use."""
    used = {
        node.attr
        for node in ast.walk(ast.parse(SOURCE))
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "lbe"
    }
    assert used == set(langchain_batch_embed.__all__)


def test_it_runs(
    server: LocalServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The script runs, and its results are as expected."""
    server.configure(dimensions=8, batch_api=BatchApi(validating=0, running=0, finalizing=0))
    monkeypatch.setattr("langchain_batch_embed.batch_api.decisions._FIRST_POLL", 0.01)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    monkeypatch.chdir(tmp_path)
    status = users_script.main(server.url, [f"text {n}" for n in range(50)])
    assert status is not None
    assert (status.finished, status.has_ended) == (10, True)
    assert "(50, 8)" in capsys.readouterr().out
    assert server.stats()["inputs_billed"] == 50


def test_its_mistakes_are_told_and_not_raised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The script handles the error of an empty text without a traceback."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    monkeypatch.chdir(tmp_path)
    assert users_script.main("http://127.0.0.1:9/v1", [""]) is None
    assert capsys.readouterr().out == "True False\n"
