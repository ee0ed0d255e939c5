"""The command line, and all forms of the demo."""

import base64
import contextlib
import hashlib
import io
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiktoken
import tiktoken.load
import tiktoken.registry
import toktok
from hypothesis import given
from hypothesis import strategies as st
from pytest_mock import MockerFixture

from langchain_batch_embed.commands import demo
from langchain_batch_embed.commands import main as __main__
from langchain_batch_embed.commands.corpus import standard_library
from langchain_batch_embed.commands.demo_table import Way, table
from langchain_batch_embed.commands.offline import use_offline_tiktoken
from langchain_batch_embed.simulator import Scenario
from tests.support import LocalServer

WAYS = ["one request a section", "OpenAIEmbeddings alone", "BatchEmbeddings"]
HIT = re.compile(r"(?P<rank>[123])\. (?P<file>\S+):(?P<line>\d+)  (?P<text>\S.*)")


def run(**options: Any) -> str:
    """Run the demo against a simulator without latency and return its output."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        demo.run(**{"sections": 200, "scenario": Scenario(latency=0), **options})
    return printed.getvalue()


def run_package(**options: Any) -> str:
    """Run the demo on this package's source, which is read faster than a whole library."""
    return run(**{"path": Path(demo.__file__).parent.parent, **options})


def rows(printed: str) -> list[tuple[str, int, int, float, float]]:
    """Return the rows of the table as way, requests, tokens, seconds and times faster."""
    found = []
    for line in printed.partition("times faster\n")[2].partition("\n\n")[0].splitlines():
        way, *cells = re.split(r"\s{2,}", line)
        requests, tokens, seconds, faster = [cell.replace(",", "") for cell in cells]
        found.append((way, int(requests), int(tokens), float(seconds), float(faster)))
    return found


def hits(printed: str) -> list[re.Match[str]]:
    """Return the hits of the search."""
    return [hit for line in printed.splitlines() if (hit := HIT.fullmatch(line))]


@pytest.fixture(scope="module")
def printed() -> str:
    """Return the demo's output for 200 sections of the standard library."""
    return run()


class TestTable:
    """`table` prints the comparison."""

    def test_every_way_is_compared_with_the_first(self) -> None:
        """Each way has its own line of at most 80 characters and is compared with the first."""
        ways = [
            Way(name="one request a section*", requests=19_207, tokens=2_381_517, seconds=4712.3),
            Way(name="BatchEmbeddings", requests=32, tokens=2_381_517, seconds=1.5),
        ]

        lines = table(ways).splitlines()

        assert [re.split(r"\s{2,}", line) for line in lines] == [
            ["way", "requests", "tokens", "seconds", "times faster"],
            ["one request a section*", "19,207", "2,381,517", "4,712", "1.00"],
            ["BatchEmbeddings", "32", "2,381,517", "1.50", "3,142"],
        ]
        assert {len(line) for line in lines} == {78}


class TestDemo:
    """The demo prints a table and search results."""

    def test_all_three_ways_are_in_the_table(self, printed: str) -> None:
        """The table has all three ways with the requests for 200 sections."""
        found = rows(printed)

        assert [way for way, *_ in found] == [WAYS[0] + "*", *WAYS[1:]]
        assert [requests for _, requests, *_ in found[:2]] == [200, 1]
        assert 1 <= found[2][1] <= 200
        assert found[0][4] == 1

    def test_all_three_ways_embed_the_same_tokens(self, printed: str) -> None:
        """All three ways embed the same tokens, as many as were counted before."""
        counted = re.search(r"^200 sections, ([\d,]+) tokens$", printed, re.MULTILINE)

        assert counted is not None
        assert {tokens for _, _, tokens, *_ in rows(printed)} == {
            int(counted.group(1).replace(",", ""))
        }

    def test_the_extrapolation_is_labelled(self, printed: str) -> None:
        """The line that was extrapolated from a sample says so."""
        assert "* measured on 20 sections and extrapolated to all\n" in printed

    def test_nothing_is_extrapolated_from_all(self) -> None:
        """A sample of all sections is not labelled as extrapolated."""
        printed = run_package(sections=10)

        assert rows(printed)[0][:2] == (WAYS[0], 10)
        assert "extrapolated" not in printed

    def test_the_search_finds_files_of_the_library(self, printed: str) -> None:
        """The search prints three hits, each with a file, a line number and its text."""
        folder, _ = standard_library()
        found = hits(printed)

        assert [hit["rank"] for hit in found] == ["1", "2", "3"]
        for hit in found:
            lines = (folder / hit["file"]).read_text(errors="replace").split("\n")
            assert lines[int(hit["line"]) - 1].strip().startswith(hit["text"])

    def test_the_vectors_in_the_store_are_checked(self, printed: str) -> None:
        """Sections embedded one by one find themselves among those embedded in batches."""
        assert "20 of 20 sections of the sample are found by their own vectors.\n" in printed

    def test_the_store_and_the_requests_at_once_are_told(self, printed: str) -> None:
        """The output has the time to write, apart from embedding, and the concurrent requests."""
        assert re.search(r"(?m)^Writing the vectors into SQLiteVec took .* s more\.$", printed)
        assert re.search(r"(?m)^Most requests that the server saw at once: [1-9]", printed)

    def test_80_columns_are_enough(self, printed: str) -> None:
        """No line of the output is longer than 80 columns."""
        assert max(map(len, printed.splitlines())) <= 80

    def test_the_users_own_files_are_embedded(self, tmp_path: Path) -> None:
        """With a path, the sections and the hits come from the user's files."""
        (tmp_path / "notes").mkdir()
        for animal in ("aardvark", "buffalo", "chameleon", "dromedary"):
            (tmp_path / "notes" / f"{animal}.md").write_text(f"All about the {animal}.")

        printed = run(path=tmp_path, query="chameleon")

        assert "4 sections" in printed
        assert (hits(printed)[0]["file"], hits(printed)[0]["text"]) == (
            "notes/chameleon.md",
            "All about the chameleon.",
        )

    def test_a_query_is_found_in_the_users_own_files(self, tmp_path: Path) -> None:
        """Without a query, the demo searches for words from the user's file."""
        path = tmp_path / "single.txt"
        path.write_text("The quick brown fox")

        printed = run(path=path)

        assert 'Search: "The quick brown fox"\n1. single.txt:1  The quick brown fox\n' in printed

    def test_a_folder_without_text_is_refused(self, tmp_path: Path) -> None:
        """A folder without text is refused with a message that names the accepted files."""
        with pytest.raises(
            SystemExit, match=r"no text found in .*; --path takes .* a folder of .*\.md"
        ):
            run(path=tmp_path)

    @pytest.mark.parametrize("missing", ["sqlite_vec", "langchain_community.vectorstores"])
    def test_another_store_stands_in_for_sqlite_vec(
        self, missing: str, mocker: MockerFixture
    ) -> None:
        """Without SQLiteVec the demo says so and uses another store."""
        mocker.patch.dict(sys.modules, {missing: None})

        printed = run_package(sections=30)

        assert re.search(
            r"(?m)^SQLiteVec is not available \(.+\): using InMemoryVectorStore\.$", printed
        )
        assert "through InMemoryVectorStore.add_texts" in printed
        assert len(hits(printed)) == 3

    def test_variables_of_a_real_endpoint_are_ignored(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Environment variables for a real endpoint are ignored, so a rehearsal stays local."""
        nowhere = "http://127.0.0.1:9"
        for name in ("OPENAI_BASE_URL", "OPENAI_API_BASE", "OPENAI_PROXY", "HTTP_PROXY"):
            monkeypatch.setenv(name, nowhere)
        monkeypatch.setenv("OPENAI_API_TYPE", "azure")

        assert len(rows(run_package(sections=5))) == 3


class TestLive:
    """The live demo, which costs money; here the local server replaces the real endpoint."""

    @pytest.fixture(autouse=True)
    def endpoint(self, server: LocalServer, monkeypatch: pytest.MonkeyPatch) -> None:
        """Set the environment variables that a user would set."""
        monkeypatch.delenv("OPENAI_API_BASE", raising=False)
        monkeypatch.delenv("OPENAI_PROXY", raising=False)
        monkeypatch.delenv("OPENAI_API_TYPE", raising=False)
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")

    def test_a_missing_key_is_told_before_anything_else(
        self, monkeypatch: pytest.MonkeyPatch, mocker: MockerFixture
    ) -> None:
        """A missing key is reported first, by its variable, before anything is read or asked."""
        monkeypatch.delenv("OPENAI_API_KEY")
        ask = mocker.patch("builtins.input")

        with pytest.raises(SystemExit, match="set OPENAI_API_KEY"):
            run_package(live=True)

        ask.assert_not_called()

    @pytest.mark.parametrize("answer", ["", "n", "no", "what?", EOFError])
    def test_nothing_is_sent_without_a_yes(
        self, answer: Any, server: LocalServer, mocker: MockerFixture
    ) -> None:
        """Any answer but yes, or no terminal to answer, ends the demo before anything is sent."""
        ask = mocker.patch("builtins.input", side_effect=[answer])

        printed = run_package(live=True)

        ask.assert_called_once_with("Go on? [y/N] ")
        assert printed.endswith("Nothing was sent, nothing was spent.\n")
        assert server.stats()["requests"] == 0

    def test_the_price_is_told_before_it_asks(
        self, server: LocalServer, mocker: MockerFixture
    ) -> None:
        """The announced price matches the tokens billed, and comes before the question."""
        said: list[str] = []
        mocker.patch.object(demo, "say", side_effect=lambda text="": said.append(text))

        def agree(question: str) -> str:
            said.append(question)
            return "y"

        mocker.patch("builtins.input", side_effect=agree)

        run_package(live=True)

        cost = next(line for line in said if "cost" in line)
        match = re.fullmatch(r"([\d,]+) tokens, which cost \$(\d\.\d{4}) at .*", cost)
        assert match is not None
        announced, billed = int(match[1].replace(",", "")), server.stats()["tokens_billed"]
        assert said.index(cost) < said.index("Go on? [y/N] ")
        # The warm-up's tokens, and at most 5 % for requests that are sent twice.
        assert 0.999 * announced <= billed <= 1.051 * announced
        assert match[2] == f"{announced * 0.02 / 1e6:.4f}"

    def test_yes_goes_on_without_asking(self, server: LocalServer, mocker: MockerFixture) -> None:
        """With `--yes` nothing is asked, but the price is still printed."""
        ask = mocker.patch("builtins.input")

        printed = run_package(live=True, yes=True)

        ask.assert_not_called()
        assert "at OpenAI's list price.\n" in printed
        assert [row[1] for row in rows(printed)[:2]] == [200, 1]
        assert server.stats()["tokens_billed"] > 0

    def test_fewer_sections_are_the_default(self, mocker: MockerFixture) -> None:
        """The live demo embeds 500 sections by default, to keep its cost low."""
        mocker.patch("builtins.input", return_value="n")

        assert "500 sections, " in run(live=True, sections=None)

    def test_a_refusal_is_told_without_the_key(
        self, server: LocalServer, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """A wrong key ends the command with one line that does not contain the key."""
        server.configure(api_key="another")

        with pytest.raises(SystemExit) as ended:
            __main__.main(["demo", "--live", "--yes", "--sections", "5"])

        said = str(ended.value.code)
        assert said.startswith("the endpoint failed: 401 invalid_api_key at http")
        assert said.endswith("the key is wrong or missing")
        assert "sk-secret" not in capsys.readouterr().out


class TestCommandLine:
    """The command `python -m langchain_batch_embed`."""

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ([], "the following arguments are required: command"),
            (["dmeo"], "invalid choice: 'dmeo'"),
            (["demo", "--sections", "0"], "--sections: must be at least 1"),
            (["demo", "--sections", "many"], "--sections: must be a number, not 'many'"),
            (["demo", "--path", "no/such/folder"], "--path: no/such/folder does not exist"),
            (["simulate", "--tier", "6"], "invalid choice: 6"),
            (["simulate", "--scenario", '{"lateness": 1}'], "unknown options ['lateness']"),
            (["simulate", "--scenario", "{"], "--scenario: Expecting property name"),
        ],
    )
    def test_wrong_arguments_are_explained(
        self, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Wrong arguments end with status 2, and the last line says what is wrong."""
        with pytest.raises(SystemExit) as ended:
            __main__.main(arguments)

        assert ended.value.code == 2
        assert message in capsys.readouterr().err.splitlines()[-1]

    def test_the_demo_gets_its_options(self, mocker: MockerFixture, tmp_path: Path) -> None:
        """The options of the command line reach the demo."""
        demo_run = mocker.patch.object(demo, "run")

        __main__.main(
            ["demo", "--sections", "7", "--path", str(tmp_path), "--query", "q", "--live", "--yes"]
        )

        demo_run.assert_called_once_with(sections=7, path=tmp_path, query="q", live=True, yes=True)

    @pytest.mark.parametrize("command", ["demo", "simulate"])
    def test_a_missing_extra_is_named(self, command: str, mocker: MockerFixture) -> None:
        """Without the simulator's packages, one line says how to install them."""
        mocker.patch(
            "langchain_batch_embed.simulator.process.importlib.util.find_spec", return_value=None
        )

        with pytest.raises(SystemExit) as ended:
            __main__.main([command])

        # `SystemExit` prints a string to standard error and sets the status to 1.
        assert str(ended.value.code).endswith('pip install "langchain-batch-embed[demo]"')

    def test_ctrl_c_ends_without_a_traceback(self, mocker: MockerFixture) -> None:
        """Ctrl-C ends the demo with status 130, as shells expect, and without a traceback."""
        mocker.patch.object(demo, "run", side_effect=KeyboardInterrupt)

        with pytest.raises(SystemExit) as ended:
            __main__.main(["demo"])

        assert ended.value.code == 130


class TestOfflineTiktoken:
    """tiktoken's encoding can be made from the vocabulary in toktok-rs."""

    @pytest.fixture(autouse=True)
    def read_file(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, mocker: MockerFixture
    ) -> Any:
        """Empty tiktoken's memory and cache and replace its downloads."""
        monkeypatch.setattr(tiktoken.registry, "ENCODINGS", {})
        monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
        return mocker.patch.object(tiktoken.load, "read_file")

    @pytest.fixture(scope="class")
    @staticmethod
    def encoding(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tiktoken.Encoding]:
        """Make tiktoken's encoding from toktok-rs's vocabulary, once for all texts."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(tiktoken.registry, "ENCODINGS", {})
            patch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path_factory.mktemp("empty")))
            use_offline_tiktoken()
            yield tiktoken.encoding_for_model("text-embedding-3-small")

    @given(text=st.text())
    def test_ids_are_those_of_toktok(self, encoding: tiktoken.Encoding, text: str) -> None:
        """Any text has the same tokens in tiktoken and in toktok."""
        assert encoding.encode_ordinary(text) == toktok._encoding("cl100k_base").encode(text)

    @pytest.mark.parametrize(
        "text",
        [
            "Hello world, it's 12345.678 o'clock!\r\n\r\n\tindented   ",
            "def f(x: int) -> str:\n    return f'{x!r:>{10}}'  # comment\n\n\n",
            "Grüße aus Köln, 你好世界, مرحبا, नमस्ते, 👩‍👩‍👧‍👦 e\u0301",
            "a" * 5_000 + " " * 500 + "\n" * 50,
            Path(contextlib.__file__).read_text(encoding="utf-8"),
        ],
        ids=["english", "code", "scripts", "runs", "file"],
    )
    def test_varied_text_has_the_same_ids(self, encoding: tiktoken.Encoding, text: str) -> None:
        """Prose, code, other scripts, long runs and a whole file have the same tokens in both."""
        assert encoding.encode_ordinary(text) == toktok._encoding("cl100k_base").encode(text)
        assert encoding.decode(encoding.encode_ordinary(text)) == text

    def test_special_tokens_are_tiktokens(self, encoding: tiktoken.Encoding) -> None:
        """The encoding is complete, with the special tokens and the size of the original."""
        assert encoding.encode("<|endoftext|>", allowed_special="all") == [100257]
        assert (encoding.name, encoding.n_vocab) == ("cl100k_base", 100277)

    def test_nothing_of_tiktoken_stays_replaced(self, read_file: Any) -> None:
        """The functions of tiktoken that load encodings are restored."""
        loads = tiktoken.load.load_tiktoken_bpe

        use_offline_tiktoken()

        read_file.assert_not_called()
        assert tiktoken.load.read_file is read_file
        assert sys.modules["tiktoken_ext.openai_public"].load_tiktoken_bpe is loads

    def test_tiktokens_own_vocabulary_goes_first(
        self, tmp_path: Path, mocker: MockerFixture
    ) -> None:
        """A vocabulary in tiktoken's cache takes precedence.

        tiktoken's checksum proves that ours is the same.
        """
        vocabulary = toktok._encoding("cl100k_base").token_byte_values()
        data = b"".join(b"%s %d\n" % (base64.b64encode(t), i) for i, t in enumerate(vocabulary))
        url = "https://openaipublic.blob.core.windows.net/encodings/cl100k_base.tiktoken"
        (tmp_path / hashlib.sha1(url.encode()).hexdigest()).write_bytes(data)  # noqa: S324
        carried = mocker.patch.object(toktok, "_encoding")

        use_offline_tiktoken()

        carried.assert_not_called()
        assert tiktoken.get_encoding("cl100k_base").encode_ordinary("Hello world") == [9906, 1917]

    def test_a_loaded_encoding_stays(self) -> None:
        """An encoding that tiktoken has loaded already is not made again."""
        use_offline_tiktoken()
        encoding = tiktoken.get_encoding("cl100k_base")

        use_offline_tiktoken()

        assert tiktoken.get_encoding("cl100k_base") is encoding
