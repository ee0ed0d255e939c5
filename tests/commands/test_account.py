"""The options `--model`, `--base-url` and `--dimensions` choose the model and the server."""

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
    """Another provider's class, which has no model name and ignores options."""

    size: int = 3


@pytest.fixture
def run(server: LocalServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Return a function that embeds five texts in its own folder and returns the output path."""
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
    """Replace LangChain's `init_embeddings` and return the list of its calls."""
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
    """An OpenAI model is the same with and without the provider's name, even in the journal."""
    plain = np.load(run("--model", "text-embedding-3-large", "--dimensions", "8"))
    named = np.load(run("--model", "openai:text-embedding-3-large", "--dimensions", "8"))
    assert_right(plain, TEXTS)
    assert np.array_equal(plain, named)
    assert server.stats()["inputs_billed"] == len(TEXTS)


def test_other_providers_models_are_langchains(
    run: Run, asked: list[Any], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other providers' models come from LangChain, even if the name contains a colon.

    The name is used in the journal if the class has none.
    """
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
    """`plan` and `submit` accept such models too, without a price and without a Batch API."""
    run("--model", "theirs:tiny", command="plan")
    assert "price not known" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="the Batch API exists only at OpenAI"):
        run("--model", "theirs:tiny", command="submit")
    assert len(asked) == 2


def test_the_server_can_be_named(
    run: Run, server: LocalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--base-url` takes precedence over `OPENAI_BASE_URL`."""
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    assert_right(np.load(run("--base-url", server.url)), TEXTS)


@pytest.mark.parametrize("option", [("--dimensions", "8"), ("--base-url", "http://127.0.0.1:9")])
def test_an_option_that_a_class_ignores_is_an_error(
    run: Run, asked: list[Any], option: tuple[str, str]
) -> None:
    """An option that the class would ignore is an error before anything is sent.

    Otherwise the vectors would not be as requested.
    """
    with pytest.raises(
        SystemExit, match=f"Theirs of provider 'theirs' does not support {option[0]}"
    ):
        run("--model", "theirs:tiny", *option)
    assert asked


def test_a_provider_that_does_not_exist_is_told(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An unknown provider is an error that says what to write for a model with a colon."""
    pytest.importorskip("langchain_classic")
    with pytest.raises(SystemExit, match="2"):
        run("--model", "bge:latest")
    said = capsys.readouterr().err
    assert "does not know provider 'bge'" in said
    assert "'openai:bge:...'" in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["texts.jsonl"]
