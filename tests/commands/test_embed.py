"""The command `embed` turns files into vectors and pays for nothing twice."""

import errno
import io
import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Callable, Sequence
from contextlib import closing
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pytest_mock import MockerFixture

from langchain_batch_embed import SQLiteJournal, __main__, __version__
from langchain_batch_embed.commands import corpus
from langchain_batch_embed.commands.embed import AHEAD
from langchain_batch_embed.simulator import vectors
from tests.support import LocalServer, prose

MODEL = "text-embedding-3-small"
SECTIONS = 19_207
KINDS = (".npy", ".parquet", ".db")

Run = Callable[..., int]


def needs_pyarrow(kind: str) -> None:
    """Skip the test if this kind of file needs pyarrow and it is not installed."""
    if kind in {".parquet", ".csv", ".tsv"}:
        pytest.importorskip("pyarrow")


def write_lines(path: Path, texts: Sequence[str | None], **fields: Any) -> Path:
    """Write JSON lines with ids `t0`, `t1` and so on."""
    lines = ({"id": f"t{i}", "text": text, **fields} for i, text in enumerate(texts))
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return path


def read_output(path: Path) -> tuple[list[str], NDArray[np.float32]]:
    """Return the ids and the vectors of an output, with NaN where there is no vector."""
    if path.suffix == ".npy":
        ids = path.with_suffix(".ids.jsonl").read_text().splitlines()
        return [json.loads(each) for each in ids], np.load(path, mmap_mode="r")
    if path.suffix == ".parquet":
        from pyarrow import parquet  # noqa: PLC0415

        table = parquet.read_table(path).to_pydict()
        found = list(zip(table["id"], table["vector"], strict=True))
    else:
        with closing(sqlite3.connect(path)) as connection:
            rows = connection.execute("SELECT row, id, vector FROM vectors ORDER BY row").fetchall()
        assert [row for row, _, _ in rows] == list(range(len(rows)))
        found = [(i, None if v is None else np.frombuffer(v, "<f4")) for _, i, v in rows]
    width = next(len(vector) for _, vector in found if vector is not None)
    none = [np.nan] * width
    return [i for i, _ in found], np.array([none if v is None else v for _, v in found], "<f4")


def assert_embedded(path: Path, texts: Sequence[str | None]) -> None:
    """Check that each row is its text's vector, bit for bit, or NaN if it has none."""
    _, array = read_output(path)
    there = [i for i, text in enumerate(texts) if text]
    assert len(array) == len(texts)
    assert np.array_equal(array[there], vectors([texts[i] or "" for i in there], array.shape[1]))
    gone = [i for i in range(len(texts)) if i not in set(there)]
    assert np.isnan(array[gone]).all()


class TestOutputs:
    """`embed` writes outputs of several kinds."""

    @pytest.mark.parametrize("kind", KINDS)
    def test_row_n_belongs_to_record_n(self, command: Run, tmp_path: Path, kind: str) -> None:
        """Row n belongs to record n and has its id, even if the record has no text."""
        needs_pyarrow(kind)
        texts = [prose(20, n) if n % 7 else None for n in range(100)]
        file = write_lines(tmp_path / "texts.jsonl", texts)
        assert command("embed", file, "--out", f"out{kind}") == 0
        ids, _ = read_output(tmp_path / f"out{kind}")
        assert ids == [f"t{n}" for n in range(100)]
        assert_embedded(tmp_path / f"out{kind}", texts)
        assert not list(tmp_path.glob("*.part"))

    @pytest.mark.parametrize("kind", KINDS)
    def test_the_bytes_depend_on_the_records_alone(
        self, command: Run, tmp_path: Path, kind: str
    ) -> None:
        """Two runs whose answers come in a different order write the same bytes."""
        needs_pyarrow(kind)
        file = write_lines(tmp_path / "texts.jsonl", [prose(9, n) for n in range(5_000)])
        for name in ("a", "b"):
            assert command("embed", file, "--out", f"{name}{kind}", "--dimensions", 8) == 0
        assert (tmp_path / f"a{kind}").read_bytes() == (tmp_path / f"b{kind}").read_bytes()

    def test_a_npy_is_what_numpy_writes(self, command: Run, tmp_path: Path) -> None:
        """A `.npy` output equals byte for byte what numpy writes."""
        file = write_lines(tmp_path / "texts.jsonl", [f"text {n}" for n in range(50)])
        assert command("embed", file, "--out", "out.npy") == 0
        np.save(tmp_path / "again.npy", np.load(tmp_path / "out.npy"))
        assert (tmp_path / "out.npy").read_bytes() == (tmp_path / "again.npy").read_bytes()

    def test_a_database_says_what_it_holds(self, command: Run, tmp_path: Path) -> None:
        """A database contains the model, the width and an index of the ids."""
        file = write_lines(tmp_path / "texts.jsonl", ["a", "b"])
        assert command("embed", file, "--out", "out.db", "--dimensions", 16) == 0
        with closing(sqlite3.connect(tmp_path / "out.db")) as connection:
            assert connection.execute("SELECT * FROM about").fetchall() == [(MODEL, 16)]
            plan = connection.execute("EXPLAIN QUERY PLAN SELECT * FROM vectors WHERE id = 'a'")
            assert "vectors_id" in plan.fetchone()[3]

    def test_a_database_that_is_not_ours_is_not_replaced(
        self, command: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """A database of another kind, such as a journal, is not replaced; our own output is."""
        file = write_lines(tmp_path / "texts.jsonl", ["a"])
        assert command("embed", file, "--out", "out.db", "--journal", "vectors.db") == 0
        before = (tmp_path / "vectors.db").read_bytes()
        assert command("embed", file, "--out", "vectors.db") == 2
        assert "was not written by this command (it may be a journal)" in capsys.readouterr().err
        assert (tmp_path / "vectors.db").read_bytes() == before
        assert command("embed", file, "--out", "out.db", "--journal", "vectors.db") == 0

    @pytest.mark.parametrize(
        ("out", "message"),
        [
            ("out.txt", "--out must end in .npy, .parquet, .db"),
            ("nowhere/out.npy", "the folder nowhere does not exist"),
            ("folder.npy", "folder.npy is a folder"),
        ],
    )
    def test_an_impossible_output_is_told_first(
        self, command: Run, tmp_path: Path, server: LocalServer, capsys: Any, out: str, message: str
    ) -> None:
        """An impossible output is an error before anything is read or paid for."""
        file = write_lines(tmp_path / "texts.jsonl", ["a"])
        (tmp_path / "folder.npy").mkdir()
        assert command("embed", file, "--out", out) == 2
        assert message in capsys.readouterr().err
        assert server.stats()["requests"] == 0

    def test_the_journal_is_no_output(self, command: Run, tmp_path: Path, capsys: Any) -> None:
        """The journal cannot also be the output, because one would destroy the other."""
        file = write_lines(tmp_path / "texts.jsonl", ["a"])
        assert command("embed", file, "--out", "one.db", "--journal", "./one.db") == 2
        assert "the same file" in capsys.readouterr().err

    @pytest.mark.parametrize("name", ["out.parquet", "out.ids.jsonl", "out.failed.jsonl"])
    def test_nor_are_the_texts(
        self, command: Run, tmp_path: Path, server: LocalServer, capsys: Any, name: str
    ) -> None:
        """The input cannot also be an output or one of its companions, under any path."""
        needs_pyarrow(".parquet")
        path = tmp_path / name
        if path.suffix == ".parquet":
            import pyarrow as pa  # noqa: PLC0415
            from pyarrow import parquet  # noqa: PLC0415

            parquet.write_table(pa.table({"text": ["a"]}), path)
        else:
            write_lines(path, ["a"])
        before = path.read_bytes()
        out = "out.parquet" if path.suffix == ".parquet" else "out.npy"
        for given in (path, tmp_path):
            assert command("embed", given, "--out", f"./{out}") == 2
            assert "has the texts and would be replaced" in capsys.readouterr().err
        assert path.read_bytes() == before
        assert server.stats()["requests"] == 0


class TestInputs:
    """`embed` reads text files, tables, JSON lines and pipes."""

    def test_text_files_are_cut_into_sections(self, command: Run, tmp_path: Path) -> None:
        """Text files are cut into sections, whose ids are the file and the line."""
        text = "\n\n".join(prose(100, seed) for seed in range(9))
        (tmp_path / "one.md").write_text(text)
        assert command("embed", "one.md", "--out", "out.npy") == 0
        sections = list(corpus.cut(text, Path("one.md")))
        assert_embedded(tmp_path / "out.npy", [section.text for section in sections])
        ids, _ = read_output(tmp_path / "out.npy")
        assert ids == [f"one.md:{section.line}" for section in sections]

    def test_or_are_one_text_each(self, command: Run, tmp_path: Path) -> None:
        """With `--whole` each file is one text, in the order of the names."""
        folder = tmp_path / "docs"
        (folder / "deep").mkdir(parents=True)
        (folder / "b.txt").write_text("second")
        (folder / "a.md").write_text("\ufefffirst")
        (folder / "deep" / "c.rst").write_bytes("third, ünï".encode("utf-16"))
        assert command("embed", "docs", "--whole", "--out", "out.npy") == 0
        ids, _ = read_output(tmp_path / "out.npy")
        assert ids == ["docs/a.md", "docs/b.txt", "docs/deep/c.rst"]
        assert_embedded(tmp_path / "out.npy", ["first", "second", "third, ünï"])

    @pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet"])
    def test_tables_are_read_row_by_row(self, command: Run, tmp_path: Path, suffix: str) -> None:
        """Tables are read row by row, with line feeds, quotes, leading zeros and empty values."""
        needs_pyarrow(suffix)
        import pyarrow as pa  # noqa: PLC0415
        from pyarrow import csv, parquet  # noqa: PLC0415

        texts = ["one, two", 'with "quotes"', "two\nlines", "007", "", "ünï\ttab"]
        table = pa.table({"n": range(6), "body": texts, "key": [f"k{n}" for n in range(6)]})
        path = tmp_path / f"rows{suffix}"
        if suffix == ".parquet":
            parquet.write_table(table, path)
        else:
            options = csv.WriteOptions(delimiter="," if suffix == ".csv" else "\t")
            csv.write_csv(table, path, options)
        assert command("embed", path, "--column", "body", "--id", "key", "--out", "out.npy") == 0
        assert_embedded(tmp_path / "out.npy", texts)
        assert read_output(tmp_path / "out.npy")[0] == [f"k{n}" for n in range(6)]

    def test_ids_of_other_types_are_kept_as_strings(self, command: Run, tmp_path: Path) -> None:
        """Numbers, dates and bytes serve as ids; only a missing one is replaced.

        pandas makes floats of whole numbers if one of them is missing.
        """
        needs_pyarrow(".parquet")
        import pyarrow as pa  # noqa: PLC0415
        from pyarrow import parquet  # noqa: PLC0415

        columns = {
            "floats": pa.array([1.0, None, 2.5]),
            "dates": pa.array([date(2026, 1, 2)] * 3),
            "bytes": pa.array([b"a", b"b", None]),
        }
        found, path = {}, tmp_path / "in.parquet"
        for name, ids in columns.items():
            parquet.write_table(pa.table({"text": list("xyz"), "id": ids}), path)
            assert command("embed", path, "--out", f"{name}.npy") == 0
            found[name] = read_output(tmp_path / f"{name}.npy")[0]
        assert found == {
            "floats": ["1", f"{path}:2", "2.5"],
            "dates": ["2026-01-02"] * 3,
            "bytes": ["a", "b", f"{path}:3"],
        }

    def test_without_pyarrow_it_says_what_to_install(
        self, command: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
    ) -> None:
        """Tables without pyarrow are an error that says what to install."""
        monkeypatch.setitem(sys.modules, "pyarrow", None)
        (tmp_path / "rows.csv").write_text("text\na\n")
        for arguments in (("rows.csv", "--out", "out.npy"), ("rows.csv", "--out", "out.parquet")):
            assert command("embed", *arguments) == 2
            assert "pip install 'langchain-batch-embed[files]'" in capsys.readouterr().err

    @pytest.mark.parametrize("by", ["content", "format"])
    def test_standard_input_is_read(
        self, command: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by: str
    ) -> None:
        """Standard input is read as JSON lines, by its content or by `--format`."""
        lines = tmp_path / "in"
        lines.write_text('{"text": "one"}\n{"text": "two", "id": 7}\n')
        options = [] if by == "content" else ["--format", "jsonl"]
        with lines.open() as stdin:
            monkeypatch.setattr("sys.stdin", stdin)
            assert command("embed", "-", "--out", "out.npy", *options) == 0
        assert_embedded(tmp_path / "out.npy", ["one", "two"])
        assert read_output(tmp_path / "out.npy")[0] == ["stdin:1", "7"]

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
    def test_so_are_other_pipes(self, command: Run, tmp_path: Path) -> None:
        """Other pipes, such as `<(zcat texts.gz)`, are read too, and only once."""
        lines = "".join(
            f'{{"text": "text {i}"}}\n' for i in range(9_000)
        )  # more than the sample for guessing the format
        os.mkfifo(tmp_path / "pipe")
        writer = threading.Thread(target=(tmp_path / "pipe").write_text, args=(lines,), daemon=True)
        writer.start()
        assert command("embed", "pipe", "--out", "out.npy", "--dimensions", 8) == 0
        writer.join()
        assert_embedded(tmp_path / "out.npy", [f"text {i}" for i in range(9_000)])
        assert read_output(tmp_path / "out.npy")[0][0] == "pipe:1"

    @pytest.mark.skipif(sys.platform != "linux", reason="elsewhere names are Unicode")
    @pytest.mark.parametrize("kind", KINDS)
    def test_a_name_may_have_any_byte(
        self, command: Run, monkeypatch: pytest.MonkeyPatch, kind: str
    ) -> None:
        """A file name of any bytes can be read, and is printed in the output's encoding."""
        needs_pyarrow(kind)
        name = os.fsdecode(b"\xfc.txt")
        Path(name).write_text("a text")
        output = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
        monkeypatch.setattr("sys.stdout", output)
        assert command("embed", name, "--out", f"{os.fsdecode(bytes([0xFC]))}{kind}") == 0
        if kind == ".npy":
            ids = Path(os.fsdecode(b"\xfc.ids.jsonl")).read_text()
            assert json.loads(ids) == "\ufffd.txt:1"
        output.seek(0)
        assert f"\\udcfc{kind}: 1 row, 1 with a vector" in output.read()

    def test_a_closed_standard_input_is_told(
        self, command: Run, monkeypatch: pytest.MonkeyPatch, capsys: Any
    ) -> None:
        """A closed standard input, as for a service, is an error."""
        monkeypatch.setattr("sys.stdin", None)
        assert command("plan", "-") == 2
        assert "standard input is closed" in capsys.readouterr().err

    def test_json_lines_may_have_any_field(self, command: Run, tmp_path: Path) -> None:
        """Any field may be used, empty lines are skipped and lone surrogates are replaced."""
        (tmp_path / "a.ndjson").write_bytes(
            b'\xef\xbb\xbf{"body": "one"}\n\n{"body": "half \\ud800"}\n{"id": ["no", "id"]}'
        )
        assert command("embed", "a.ndjson", "--field", "body", "--out", "out.npy") == 0
        assert_embedded(tmp_path / "out.npy", ["one", "half \ufffd", None])
        assert read_output(tmp_path / "out.npy")[0] == [f"a.ndjson:{n}" for n in (1, 3, 4)]

    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            ("a.bin", b"\x00\x01\x02", "a.bin is not UTF-8 text: it is binary"),
            ("a.txt", os.urandom(3_000).replace(b"\0", b"\1"), "a.txt is not UTF-8 text"),
            ("a.md", b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n" + bytes(range(256)) * 9, "a.md is not UTF-8"),
            ("a.png", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "a.png is not UTF-8 text"),
            ("a.jsonl", b'{"text": "a"}\n{"text": ', "a.jsonl, line 2 is not JSON"),
            ("a.jsonl", b'{"text": "\xff"}\n', "a.jsonl, line 1 is not JSON"),
            ("a.jsonl", b"[1, 2]\n", "a.jsonl, line 1 is not a JSON object, such as {'text': ...}"),
            (
                "a.jsonl",
                b'{"body": "a"}\n',
                "no field 'text'; it has body: choose one with --field",
            ),
            ("a.jsonl", b'{"n": ' + b"[" * 200_000, "a.jsonl, line 1 is not JSON (RecursionError)"),
            (
                "a.parquet",
                b"text",
                "a.parquet cannot be read after row 0 (ArrowInvalid): is it a c",
            ),
            ("a.jsonl", b'{"text": 5}\n', "the text in a.jsonl, line 1 must be a string, not int"),
            (
                "a.json",
                b'[{"text": "a"}]',
                "a.json is a single JSON value; convert it to JSON Lines",
            ),
        ],
    )
    def test_a_file_that_cannot_be_read_is_refused_before_it_costs(
        self,
        command: Run,
        tmp_path: Path,
        server: LocalServer,
        capsys: Any,
        name: str,
        content: bytes,
        message: str,
    ) -> None:
        """A file that cannot be read is refused by name, with advice, before any request.

        This holds for `embed` and for `plan`.
        """
        (tmp_path / name).write_bytes(content)
        for words in (("embed", "--out", "out.npy"), ("plan",)):
            assert command(*words, name) == 2
            assert message in capsys.readouterr().err
        assert server.stats()["requests"] == 0

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"body,n\na,1\n", "a.csv has no column 'text'; it has body, n: choose one with --col"),
            (b"text,n\n\xff\xfe\xfa,1\n", "a.csv cannot be read after row 0"),
            (
                b"text,n\na,1\nb,c,2\n",
                "a.csv, row 2 has 3 columns instead of 2: put texts with commas",
            ),
        ],
    )
    def test_so_is_a_table(
        self, command: Run, tmp_path: Path, capsys: Any, content: bytes, message: str
    ) -> None:
        """A table that cannot be read is refused with a message that does not quote it."""
        pytest.importorskip("pyarrow")
        (tmp_path / "a.csv").write_bytes(content)
        assert command("plan", "a.csv") == 2
        assert message in capsys.readouterr().err

    @pytest.mark.parametrize("is_named", [True, False])
    def test_a_damaged_parquet_file_is_named(
        self, command: Run, tmp_path: Path, capsys: Any, is_named: bool
    ) -> None:
        """A Parquet file with damaged pages is named; in a folder it is left out."""
        pa = pytest.importorskip("pyarrow")
        from pyarrow import parquet  # noqa: PLC0415

        folder = tmp_path / "docs"
        folder.mkdir()
        (folder / "a.md").write_text("a text")
        path = folder / "b.parquet"
        texts = [f"text {i}" for i in range(5_000)]
        parquet.write_table(pa.table({"text": texts}), path, use_dictionary=False)
        damaged = bytearray(path.read_bytes())
        damaged[200:2_000] = b"\xff" * 1_800
        path.write_bytes(damaged)
        assert command("plan", path if is_named else "docs") == (2 if is_named else 0)
        assert "b.parquet cannot be read after row 0 (OSError)" in capsys.readouterr().err

    def test_a_file_that_may_not_be_opened_is_left_out(
        self, command: Run, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A file without read permission is left out of a folder, but is an error if named."""
        write_lines(tmp_path / "a.jsonl", ["a"])
        write_lines(tmp_path / "b.jsonl", ["b"])
        opened = Path.open

        def open_one(path: Path, *args: Any, **kwargs: Any) -> Any:
            if path.name == "b.jsonl":
                raise PermissionError(errno.EACCES, "Permission denied", str(path))
            return opened(path, *args, **kwargs)

        monkeypatch.setattr(Path, "open", open_one)
        assert command("plan", ".") == 0
        assert "skipped: b.jsonl (Permission denied)" in capsys.readouterr().err
        assert command("plan", "b.jsonl") == 2
        assert "b.jsonl cannot be read: Permission denied" in capsys.readouterr().err

    def test_what_a_folder_holds_besides_is_named(
        self, command: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """The files and folders that a folder's reading skips are listed by kind and reason."""
        folder = tmp_path / "docs"
        for name in (".git", "node_modules"):
            (folder / name).mkdir(parents=True)
        (folder / "a.md").write_text("a text")
        (folder / "b.txt").write_bytes(b"\0\1\2")
        (folder / "c.jsonl").write_text('{"body": "x"}')
        for name in ("one.png", "two.png", "Makefile"):
            (folder / name).write_bytes(b"")
        assert command("plan", "docs") == 0
        said = capsys.readouterr()
        assert said.err.strip() == (
            "skipped: 3 files (2 .png, 1 without a suffix); 2 folders (.git, node_modules); "
            "docs/b.txt (not UTF-8 text); docs/c.jsonl, line 1 has no field 'text'; it has body: "
            "choose one with --field"
        )
        assert said.out.startswith("1 file, cut into sections, for text-embedding-3-small\n1 text")

    def test_plan_reads_the_same(
        self, command: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """`plan` reads the same records as `embed`, so JSON lines are not cut."""
        write_lines(tmp_path / "texts.jsonl", ["one", "two", None, "two"])
        assert command("plan", "texts.jsonl") == 0
        head, blank, sent, *_ = capsys.readouterr().out.splitlines()
        assert head == "1 file, for text-embedding-3-small"
        assert blank == "1 record has no text"
        assert sent.startswith("3 texts (2 unique): 1 request, 2 tokens, ")

    def test_nothing_to_read_is_told(self, command: Run, tmp_path: Path, capsys: Any) -> None:
        """If no text is found, the command ends with status 1 and says so."""
        write_lines(tmp_path / "texts.jsonl", ["", None])
        assert command("embed", "texts.jsonl", "--out", "out.npy") == 1
        assert "no text found" in capsys.readouterr().err

    def test_a_little_is_not_nothing(
        self, command: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """A single token is counted in the singular and has a cost above zero."""
        file = write_lines(tmp_path / "texts.jsonl", ["a"])
        assert command("embed", file, "--out", "out.npy") == 0
        said = capsys.readouterr().out
        assert "1 file: 1 record, about 1 token, <$0.0001, for" in said
        assert "1 row, 1 with a vector" in said
        assert said.endswith("1 request, 0 retries (0 throttled), 1 token, <$0.0001\n")


class TestEnds:
    """The ways in which `embed` ends, with their exit statuses."""

    def test_some_failures_are_listed(
        self, command: Run, tmp_path: Path, server: LocalServer, capsys: Any
    ) -> None:
        """Failed texts are listed by id and cause, and the next run pays for them alone."""
        texts = [f"good {n}" for n in range(50)]
        texts[7] = texts[31] = "<bad> secret"
        file = write_lines(tmp_path / "texts.jsonl", texts)
        server.configure(refuse_marker="<bad>")
        assert command("embed", file, "--out", "out.npy") == 3
        said = capsys.readouterr()
        assert "2 texts have no vector; all of them are listed in out.failed.jsonl" in said.err
        assert "  t7  BadRequestError (400)\n  t31  BadRequestError (400)" in said.err
        assert "secret" not in said.err + said.out
        listed = (tmp_path / "out.failed.jsonl").read_text().splitlines()
        assert [json.loads(line)["id"] for line in listed] == ["t7", "t31"]
        assert_embedded(
            tmp_path / "out.npy", [None if n in {7, 31} else t for n, t in enumerate(texts)]
        )
        server.configure()
        assert command("embed", file, "--out", "out.npy") == 0
        assert server.stats()["inputs_billed"] == 1  # two records with the same text
        assert_embedded(tmp_path / "out.npy", texts)
        assert not (tmp_path / "out.failed.jsonl").exists()

    def test_a_wrong_key_ends_it_at_once(
        self, command: Run, tmp_path: Path, server: LocalServer, capsys: Any
    ) -> None:
        """A wrong key ends the command at once, writes nothing and shows no key."""
        server.configure(api_key="right")
        file = write_lines(tmp_path / "texts.jsonl", [f"text {n}" for n in range(5 * AHEAD // 2)])
        assert command("embed", file, "--out", "out.npy") == 1
        said = capsys.readouterr().err
        place = f"{server.url}/embeddings: the key is wrong or missing"
        assert f"stopped: 401 invalid_api_key at {place}; what is paid for is in" in said
        assert "sk-test" not in said
        assert not (tmp_path / "out.npy").exists()
        assert not list(tmp_path.glob("*.part"))
        assert server.stats()["requests"] < 200

    def test_a_server_that_is_not_there_is_named(
        self, command: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
    ) -> None:
        """A server that cannot be reached is named by its address; the waits are shortened here."""
        monkeypatch.setattr("langchain_batch_embed.pacing.health.FIRST_CONTACT", 0.1)
        monkeypatch.setattr("langchain_batch_embed.pacing.backoff.Backoff.delay", lambda *_: 0.01)
        file = write_lines(tmp_path / "texts.jsonl", ["a"])
        assert command("embed", file, "--out", "o.npy", "--base-url", "http://127.0.0.1:9/v1") == 1
        assert "at http://127.0.0.1:9/v1/embeddings: no connection" in capsys.readouterr().err

    def test_it_ends_without_a_word_where_nobody_reads_it(
        self,
        command: Run,
        tmp_path: Path,
        server: LocalServer,
        monkeypatch: pytest.MonkeyPatch,
        capsys: Any,
    ) -> None:
        """A closed output, as after `| head -1`, ends quietly, and all files are written."""
        server.configure(refuse_marker="bad")
        file = write_lines(tmp_path / "texts.jsonl", ["a", "bad", "b"])
        reader, writer = os.pipe()
        with open(writer, "w") as output:  # noqa: PTH123  # a file descriptor
            monkeypatch.setattr("sys.stdout", output)
            said: list[object] = []

            def say(line: object) -> None:
                output.write(f"{line}\n")
                output.flush()
                if not said:
                    os.close(reader)
                said.append(line)

            monkeypatch.setattr("langchain_batch_embed.commands.embed_files.say", say)
            assert command("embed", file, "--out", "out.npy") == 141
        assert len(said) == 1
        assert read_output(tmp_path / "out.npy")[0] == ["t0", "t1", "t2"]
        assert json.loads((tmp_path / "out.failed.jsonl").read_text())["id"] == "t1"
        assert not capsys.readouterr().err

    def test_a_missing_key_is_told(
        self, command: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
    ) -> None:
        """A missing key is reported with the name of its variable."""
        monkeypatch.delenv("OPENAI_API_KEY")
        file = write_lines(tmp_path / "texts.jsonl", ["a"])
        assert command("embed", file, "--out", "out.npy") == 1
        assert "OPENAI_API_KEY is not set" in capsys.readouterr().err

    def test_dollars_end_it_and_the_next_run_goes_on(
        self, command: Run, tmp_path: Path, server: LocalServer, capsys: Any
    ) -> None:
        """`--max-dollars` ends a command, and the next one continues from the journal."""
        texts = [prose(100, n) for n in range(3_000)]  # 300,000 tokens, $0.006
        file = write_lines(tmp_path / "texts.jsonl", texts)
        words = ("embed", file, "--out", "out.npy", "--dimensions", 8)
        assert command(*words, "--max-dollars", 0.002) == 1
        assert "--max-dollars 0.002" in capsys.readouterr().err
        assert 80_000 < server.stats()["tokens_billed"] <= 100_000
        assert command(*words) == 0
        assert server.stats()["inputs_billed"] == 3_000
        assert_embedded(tmp_path / "out.npy", texts)

    def test_the_version_is_the_packages(self, command: Run, capsys: Any) -> None:
        """`--version` prints the package's version."""
        assert command("--version") == 0
        assert capsys.readouterr().out.split()[-1] == __version__

    def test_the_end_of_the_program_takes_no_time(self, mocker: MockerFixture) -> None:
        """The program freezes the garbage collector at its end.

        Otherwise Python would look for cycles for a second before the prompt returns.
        """
        mocker.patch.object(__main__, "main", side_effect=SystemExit(130))
        freeze = mocker.patch("gc.freeze")
        with pytest.raises(SystemExit, match="130"):
            __main__.run()
        freeze.assert_called_once_with()
        project = (Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8")
        scripts = tomllib.loads(project)["project"]["scripts"]
        assert scripts == {"langchain-batch-embed": "langchain_batch_embed.__main__:run"}

    def test_the_console_script_is_named_in_its_own_help(self, command: Run, capsys: Any) -> None:
        """The help uses the name of the console script and lists the exit statuses."""
        before, sys.argv[0] = sys.argv[0], "/usr/bin/langchain-batch-embed"
        try:
            assert command("embed", "--help") == 0
        finally:
            sys.argv[0] = before
        said = capsys.readouterr().out
        assert said.startswith("usage: langchain-batch-embed embed ")
        assert "130  interrupted with Ctrl-C" in said


class Command:
    """`embed` in a process of its own.

    Args:
        server: answers the requests.
        arguments: the arguments after `embed`.
    """

    def __init__(self, server: LocalServer, *arguments: object) -> None:
        self.process = subprocess.Popen(  # noqa: S603  # our own code
            [sys.executable, "-m", "langchain_batch_embed", "embed", *map(str, arguments)],
            env={**os.environ, "OPENAI_BASE_URL": server.url, "OPENAI_API_KEY": "any"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Wait until a condition holds while the process runs."""
        try:
            while not condition():
                assert self.process.poll() is None, self.process.communicate()
                time.sleep(0.02)
        except BaseException:
            self.process.kill()
            self.process.communicate()
            raise

    def wait(self) -> tuple[int, str]:
        """Return the exit status and the output on standard error."""
        try:
            _, said = self.process.communicate()
        except BaseException:  # the test has taken too long
            self.process.kill()
            self.process.communicate()
            raise
        return self.process.returncode, said


@pytest.fixture(scope="module")
def sections(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """Return a file of JSON lines with the demo's sections, and their texts."""
    _, files = corpus.standard_library()
    texts = [section.text for section in corpus.sections(files, SECTIONS)]
    return write_lines(tmp_path_factory.mktemp("sections") / "sections.jsonl", texts), texts


@pytest.mark.slow
class TestKilled:
    """The command is killed halfway through 19,207 sections."""

    def kill_half_way(
        self, server: LocalServer, stop: int, *arguments: object
    ) -> tuple[int, str, dict[str, Any]]:
        """Send a signal once half of the sections are billed, and return how it ended."""
        # Two fifths of the tokens go out at once and the rest within 20 s, which is time enough.
        server.configure(tokens_per_minute=4_000_000, bucket_seconds=15)
        command = Command(server, *arguments)
        command.wait_until(lambda: server.stats()["inputs_billed"] > SECTIONS // 2)
        command.process.send_signal(stop)
        status, said = command.wait()
        return status, said, server.stats()

    @pytest.mark.parametrize("kind", KINDS)
    def test_killed_and_run_again_it_pays_once_and_writes_the_same(
        self, server: LocalServer, sections: tuple[Path, list[str]], tmp_path: Path, kind: str
    ) -> None:
        """After a kill, a rerun pays only for what the journal lacks and writes the same file."""
        needs_pyarrow(kind)
        file, texts = sections
        out, whole = tmp_path / f"out{kind}", tmp_path / f"whole{kind}"
        options = (file, "--dimensions", 64, "--journal", tmp_path / "vectors.db")
        self.kill_half_way(server, signal.SIGKILL, *options, "--out", out)
        assert not out.exists()
        with closing(SQLiteJournal(tmp_path / "vectors.db")) as journal:
            kept = journal.stats().vectors
        assert kept > SECTIONS // 4
        server.configure()
        assert Command(server, *options, "--out", out).wait()[0] == 0
        assert server.stats()["inputs_billed"] == SECTIONS - kept
        server.configure()
        one_go = file.with_name("one_go.db")  # shared by all kinds, to save time
        fresh = (file, "--dimensions", 64, "--journal", one_go, "--out", whole)
        billed = 0 if one_go.exists() else SECTIONS
        assert Command(server, *fresh).wait()[0] == 0
        assert server.stats()["inputs_billed"] == billed
        assert out.read_bytes() == whole.read_bytes()
        assert_embedded(out, texts)

    @pytest.mark.skipif(sys.platform == "win32", reason="a Ctrl-C there is no signal of this kind")
    def test_ctrl_c_ends_it_with_130(
        self, server: LocalServer, sections: tuple[Path, list[str]], tmp_path: Path
    ) -> None:
        """Ctrl-C ends with status 130, names the journal and leaves no incomplete output."""
        options = (sections[0], "--dimensions", 64, "--out", tmp_path / "out.npy")
        status, said, _ = self.kill_half_way(server, signal.SIGINT, *options)
        assert status == 130
        assert "interrupted: what is paid for is in" in said
        assert "Traceback" not in said
        assert min(path.name for path in tmp_path.iterdir()) == "out.journal.db"
        assert not list(tmp_path.glob("*.part"))
        assert not (tmp_path / "out.npy").exists()

    @pytest.mark.skipif(sys.platform == "win32", reason="nothing there tells the peak of memory")
    def test_memory_does_not_grow_with_the_file(self, server: LocalServer, tmp_path: Path) -> None:
        """Memory does not grow with the file: 40,000 more records, 246 MB, add less than 60 MB.

        At most 2,000 records are ahead of the output here, as 8,000 would make the peak uneven.
        """
        code = (
            "import sys; from langchain_batch_embed.commands import embed\n"
            "from langchain_batch_embed.commands.main import main\n"
            "from tests.memory import peak_bytes\n"
            "embed.AHEAD = 2_000\n"
            "main(sys.argv[1:])\n"
            "print(peak_bytes(), file=sys.stderr)"
        )
        environment = {**os.environ, "OPENAI_BASE_URL": server.url, "OPENAI_API_KEY": "any"}
        peaks = []
        for count in (8_000, 48_000):
            name = tmp_path / f"{count}.jsonl"
            file = write_lines(name, [f"text {n}" for n in range(count)])
            done = subprocess.run(  # noqa: S603  # our own code
                [sys.executable, "-c", code, "embed", file, "--out", f"{name}.npy", "--quiet"],
                cwd=Path(__file__).parents[2],
                env=environment,
                capture_output=True,
                text=True,
                check=True,
            )
            peaks.append(int(done.stderr.split()[-1]))
            for path in tmp_path.iterdir():
                path.unlink()
        assert peaks[1] - peaks[0] < 60e6
