"""Which model a command uses, and at whose server: `--model`, `--base-url`, `--dimensions`."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from langchain_core.embeddings import DeterministicFakeEmbedding

from langchain_batch_embed.commands.main import main
from tests.support import LocalServer, assert_right

TEXTS = [f"text {n}" for n in range(5)]

Run = Callable[..., Path]


class Theirs(DeterministicFakeEmbedding):
    """A class of another provider, which has no name of a model, and ignores what it is told."""

    size: int = 3


@pytest.fixture
def run(server: LocalServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Embed five texts in a folder of its own; return where the vectors are."""
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    monkeypatch.chdir(tmp_path)
    Path("texts.jsonl").write_text("".join(f"{json.dumps({'text': t})}\n" for t in TEXTS))

    def call(*arguments: str, command: str = "embed") -> Path:
        out = ["--out", "out.npy"] if command == "embed" else []
        main([command, "texts.jsonl", *out, *arguments])
        return tmp_path / "out.npy"

    return call


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, Any]]]:
    """Put a function in place of LangChain's `init_embeddings`; return what it is asked for."""
    questions: list[tuple[str, dict[str, Any]]] = []
    embeddings = ModuleType("langchain.embeddings")

    def init_embeddings(name: str, **options: Any) -> Theirs:
        questions.append((name, options))
        return Theirs()

    vars(embeddings)["init_embeddings"] = init_embeddings
    monkeypatch.setitem(sys.modules, "langchain", ModuleType("langchain"))
    monkeypatch.setitem(sys.modules, "langchain.embeddings", embeddings)
    return questions


def test_openais_models_need_no_provider(run: Run, server: LocalServer) -> None:
    """With it and without it, they are the same model, in the journal too."""
    plain = np.load(run("--model", "text-embedding-3-large", "--dimensions", "8"))
    named = np.load(run("--model", "openai:text-embedding-3-large", "--dimensions", "8"))
    assert_right(plain, TEXTS)
    assert np.array_equal(plain, named)
    assert server.stats()["inputs_billed"] == len(TEXTS)


def test_other_providers_models_are_langchains(
    run: Run, asked: list[Any], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name may have a colon of its own; it is in the journal where the class has none."""
    monkeypatch.delenv("OPENAI_API_KEY")
    out = np.load(run("--model", "theirs:tiny:latest"))
    assert asked == [("theirs:tiny:latest", {})]
    assert np.allclose(out, Theirs().embed_documents(TEXTS))
    assert "for tiny:latest\n" in capsys.readouterr().out
    run("--model", "theirs:tiny:latest")
    assert "5 from the journal" in capsys.readouterr().out


def test_plan_and_submit_take_them_too(
    run: Run, asked: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """As far as they can: there is no price, and no Batch API."""
    run("--model", "theirs:tiny", command="plan")
    assert "price not known" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="the Batch API is OpenAI's"):
        run("--model", "theirs:tiny", command="submit")
    assert len(asked) == 2


def test_the_server_can_be_named(
    run: Run, server: LocalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes before `OPENAI_BASE_URL`."""
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    assert_right(np.load(run("--base-url", server.url)), TEXTS)


@pytest.mark.parametrize("option", [("--dimensions", "8"), ("--base-url", "http://127.0.0.1:9")])
def test_an_option_that_a_class_ignores_is_an_error(
    run: Run, asked: list[Any], option: tuple[str, str]
) -> None:
    """Before anything is sent: else the vectors would not be as wanted."""
    with pytest.raises(SystemExit, match=f"Theirs of provider 'theirs' takes no {option[0]}"):
        run("--model", "theirs:tiny", *option)
    assert asked


def test_a_provider_that_does_not_exist_is_told(run: Run, tmp_path: Path) -> None:
    """And what to write for a model whose own name has a colon."""
    pytest.importorskip("langchain_classic")
    with pytest.raises(SystemExit, match=r"no provider 'bge'.* 'openai:bge:\.\.\.'"):
        run("--model", "bge:latest")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["texts.jsonl"]
