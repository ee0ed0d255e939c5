"""The files that `embed` writes: one run at a time, nobody else's, and checked before it costs."""

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pytest_mock import MockerFixture

from langchain_batch_embed import SQLiteJournal
from langchain_batch_embed.commands import embed as embedding
from langchain_batch_embed.commands import output_lock
from langchain_batch_embed.commands.output import Output
from langchain_batch_embed.commands.output_errors import OutputError
from langchain_batch_embed.commands.output_formats import SUFFIXES, open_output
from langchain_batch_embed.commands.output_lock import lock_of, only_run
from tests.support import LocalServer

KINDS = tuple(SUFFIXES)
MODEL = "text-embedding-3-small"

Command = Callable[..., int]
Captured = pytest.CaptureFixture[str]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """The suffix of an output."""
    if request.param == ".parquet":
        pytest.importorskip("pyarrow")
    return str(request.param)


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """A file with two texts."""
    path = tmp_path / "texts.jsonl"
    path.write_text('{"id": "a", "text": "one"}\n{"id": "b", "text": "two"}\n')
    return path


def fill(output: Output, rows: int = 3, dimensions: int = 4) -> None:
    """Add rows to an output."""
    for row in range(rows):
        output.add(f"r{row}", np.full(dimensions, row + 1, dtype=np.float32))


def listing(folder: Path) -> dict[str, bytes]:
    """Return the files in a folder and their contents."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


class TestOneRunAtATime:
    """Two runs with one `--out` would truncate, delete and rename each other's files."""

    def test_a_second_run_is_refused(
        self,
        command: Command,
        texts: Path,
        tmp_path: Path,
        server: LocalServer,
        kind: str,
        capsys: Captured,
    ) -> None:
        """It sends nothing and touches nothing, and the first run writes all of its rows."""
        first = open_output(tmp_path / f"out{kind}", model=MODEL)
        with first.opened():
            fill(first)
            assert command("embed", texts, "--out", f"out{kind}", "--journal", "second.db") == 2
            assert f"another run writes out{kind}" in capsys.readouterr().err
            first.finish()
        assert server.stats()["requests"] == 0
        assert not (tmp_path / "second.db").exists()
        assert not list(tmp_path.glob("*.part"))
        again = open_output(tmp_path / f"again{kind}", model=MODEL)
        with again.opened():
            fill(again)
            again.finish()
        same = (tmp_path / f"out{kind}").read_bytes() == (tmp_path / f"again{kind}").read_bytes()
        assert same

    def test_outputs_that_share_a_file_are_not_written_at_once(self, tmp_path: Path) -> None:
        """Names that differ only in the suffix share the files of the ids and of the failures."""
        with (
            open_output(tmp_path / "out.npy", model=MODEL).opened(),
            pytest.raises(OutputError, match="differs only in the suffix"),
            open_output(tmp_path / "out.NPY", model=MODEL).opened(),
        ):
            pass
        with (
            open_output(tmp_path / "out.npy", model=MODEL).opened(),
            open_output(tmp_path / "other.npy", model=MODEL).opened(),
        ):
            pass

    def test_a_run_leaves_no_lock_behind(
        self, command: Command, texts: Path, tmp_path: Path, kind: str
    ) -> None:
        """The lock file goes away with the run, so that the same command works again."""
        for _ in range(2):
            assert command("embed", texts, "--out", f"out{kind}") == 0
            assert not lock_of(tmp_path / f"out{kind}").exists()

    def test_a_killed_run_does_not_block_the_next(
        self, command: Command, texts: Path, tmp_path: Path
    ) -> None:
        """Its unfinished files and its lock file stay, and the next run replaces them.

        One process has an output of each kind open, as a process takes a second to start.
        """
        script = (
            "import contextlib, sys, numpy, pathlib\n"
            "from langchain_batch_embed.commands.output_formats import open_output\n"
            "with contextlib.ExitStack() as stack:\n"
            "    for path in sys.argv[1:]:\n"
            "        output = open_output(pathlib.Path(path), model='m')\n"
            "        stack.enter_context(output.opened())\n"
            "        output.add('x', numpy.ones(4, numpy.float32))\n"
            "    print('ready', flush=True)\n"
            "    sys.stdin.read()\n"
        )
        kinds = [kind for kind in KINDS if kind != ".parquet" or find_spec("pyarrow")]
        outs = [tmp_path / f"out_{kind[1:]}{kind}" for kind in kinds]
        with subprocess.Popen(  # noqa: S603
            [sys.executable, "-c", script, *map(str, outs)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as run:
            assert run.stdout is not None
            assert run.stdout.readline() == "ready\n"
            assert [command("embed", texts, "--out", out.name) for out in outs] == [2] * len(outs)
            run.kill()
        for out in outs:
            assert Path(f"{out}.part").exists()
            assert lock_of(out).exists()
            assert command("embed", texts, "--out", out.name) == 0
        assert not list(tmp_path.glob("*.part"))

    @pytest.fixture
    def just_before(self, mocker: MockerFixture) -> Callable[[Callable[[], object]], None]:
        """Return a function that sets what happens between opening a lock file and locking it."""
        begins = output_lock._begins

        def set_event(event: Callable[[], object]) -> None:
            def begins_late(descriptor: int) -> bool:
                mocker.stopall()
                event()
                return begins(descriptor)

            mocker.patch.object(output_lock, "_begins", begins_late)

        return set_event

    def test_a_lock_file_that_was_deleted_locks_nothing(
        self, tmp_path: Path, just_before: Callable[[Callable[[], object]], None]
    ) -> None:
        """A run that opened the file just before the last run deleted it asks for the new one."""
        out = tmp_path / "out.npy"

        def another_run() -> None:
            lock_of(out).unlink()
            holder.enter_context(only_run(out))  # the name now belongs to another run

        just_before(another_run)
        with (
            ExitStack() as holder,
            pytest.raises(OutputError, match="another run"),
            only_run(out),
        ):
            pass
        with only_run(out):
            pass

    def test_a_lock_file_that_is_gone_is_made_again(
        self, tmp_path: Path, just_before: Callable[[Callable[[], object]], None]
    ) -> None:
        """A run whose lock file was deleted makes a new one, so that other runs see its lock."""
        out = tmp_path / "out.npy"
        just_before(lock_of(out).unlink)
        with only_run(out), pytest.raises(OutputError, match="another run"), only_run(out):
            pass

    def test_a_file_in_place_of_the_lock_is_kept(
        self, command: Command, texts: Path, tmp_path: Path, capsys: Captured
    ) -> None:
        """A lock file that is not empty belongs to another program, and is left alone."""
        (tmp_path / "out.embed.lock").write_text("mine")
        assert command("embed", texts, "--out", "out.npy") == 2
        assert "has to be an empty file" in capsys.readouterr().err
        assert (tmp_path / "out.embed.lock").read_text() == "mine"

    @pytest.mark.parametrize("fault", ["zeros", "truncated", "gone"])
    def test_a_file_that_lost_rows_gets_no_name(
        self, tmp_path: Path, kind: str, fault: str
    ) -> None:
        """A complete file is not replaced if another program changed the unfinished one."""
        path = tmp_path / f"out{kind}"
        output = open_output(path, model=MODEL)
        with output.opened():
            fill(output)
            output.finish()
        before = listing(tmp_path)
        output = open_output(path, model=MODEL)
        close = output._close

        def close_and_spoil(rows: int, dimensions: int) -> None:
            close(rows, dimensions)
            octets = output.part.read_bytes()
            output.part.unlink()
            if fault == "zeros":
                output.part.write_bytes(bytes(len(octets)))
            elif fault == "truncated":
                output.part.write_bytes(octets[: len(octets) - 4])

        output._close = close_and_spoil  # type: ignore[method-assign]
        with output.opened():
            fill(output)
            with pytest.raises(OutputError):
                output.finish()
        assert listing(tmp_path) == before


class TestWhatIsKept:
    """Files that this command did not write are never replaced or deleted."""

    @pytest.mark.parametrize(
        "name",
        [
            "c{kind}",
            "c{kind}.part",
            "c.failed.jsonl",
            "c.embed.lock",
            "./c{kind}.part",
        ],
    )
    def test_the_journal_is_no_part_of_the_output(
        self,
        command: Command,
        texts: Path,
        tmp_path: Path,
        server: LocalServer,
        kind: str,
        name: str,
        capsys: Captured,
    ) -> None:
        """One that has a name which the output takes is refused before it is made."""
        journal = name.format(kind=kind)
        assert command("embed", texts, "--out", f"c{kind}", "--journal", journal) == 2
        assert "--journal" in capsys.readouterr().err
        assert not (tmp_path / journal).exists()
        assert server.stats()["requests"] == 0

    @pytest.mark.parametrize("name", ["d.ids.jsonl", "d.ids.jsonl.part", "link.db"])
    def test_nor_is_it_the_file_of_the_ids(
        self, command: Command, texts: Path, tmp_path: Path, name: str, capsys: Captured
    ) -> None:
        """A journal that is a link to a file of the output is refused as well."""
        target = tmp_path / ("d.ids.jsonl" if name == "link.db" else name)
        with closing(SQLiteJournal(target)):
            pass
        if name == "link.db":
            (tmp_path / name).symlink_to(target)
        assert command("embed", texts, "--out", "d.npy", "--journal", name) == 2
        assert "--journal names d.ids.jsonl" in capsys.readouterr().err
        with closing(SQLiteJournal(target)):
            pass

    def test_a_foreign_npy_is_kept(
        self, command: Command, texts: Path, tmp_path: Path, server: LocalServer, capsys: Captured
    ) -> None:
        """A `.npy` file counts as ours only with its ids beside it."""
        np.save(tmp_path / "mine.npy", np.zeros((3, 4), np.float32))
        before = listing(tmp_path)
        assert command("embed", texts, "--out", "mine.npy") == 2
        said = capsys.readouterr().err
        assert "was not written by this command (there is no mine.ids.jsonl beside it)" in said
        assert "name another file with --out, or move it away" in said
        assert listing(tmp_path) == before
        assert server.stats()["requests"] == 0

    @pytest.mark.parametrize(
        ("name", "content"),
        [
            ("c.ids.jsonl", b'{"id": 1}\n'),
            ("c.ids.jsonl", b"a\nb\n"),
            ("c.failed.jsonl", b'{"text": "a precious line"}\n'),
            ("c.failed.jsonl", b"\xff\xfe"),
            ("c.npy", b"a note"),
        ],
    )
    def test_so_are_other_files_in_its_place(
        self, command: Command, texts: Path, tmp_path: Path, name: str, content: bytes
    ) -> None:
        """A foreign file with the name of our ids or failures is not replaced."""
        if name == "c.npy":
            (tmp_path / "c.ids.jsonl").write_text('"a"\n')
        (tmp_path / name).write_bytes(content)
        before = listing(tmp_path)
        assert command("embed", texts, "--out", "c.npy") == 2
        assert listing(tmp_path) == before

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
    @pytest.mark.parametrize("name", ["c.npy", "c.ids.jsonl", "c.failed.jsonl"])
    def test_a_pipe_is_not_replaced_by_a_file(
        self, command: Command, texts: Path, tmp_path: Path, name: str, capsys: Captured
    ) -> None:
        """A pipe or a device with the name of an output is left as it is."""
        os.mkfifo(tmp_path / name)
        assert command("embed", texts, "--out", "c.npy") == 2
        assert f"{name} is a device, a pipe or a socket" in capsys.readouterr().err
        assert (tmp_path / name).is_fifo()

    @pytest.mark.parametrize("content", ["table", "bytes"])
    def test_a_foreign_parquet_is_kept(
        self, command: Command, texts: Path, tmp_path: Path, capsys: Captured, content: str
    ) -> None:
        """A Parquet file counts as ours only if its metadata name the model."""
        pa = pytest.importorskip("pyarrow")
        parquet = pytest.importorskip("pyarrow.parquet")
        path = tmp_path / "mine.parquet"
        if content == "table":
            parquet.write_table(pa.table({"id": ["a"], "vector": [[1.0]]}), path)
        else:
            path.write_bytes(b"a note")
        before = listing(tmp_path)
        assert command("embed", texts, "--out", "mine.parquet") == 2
        assert "was not written by this command" in capsys.readouterr().err
        assert listing(tmp_path) == before

    def test_our_own_are_replaced(
        self, command: Command, texts: Path, tmp_path: Path, kind: str
    ) -> None:
        """Empty files, and the outputs of an earlier run, are replaced."""
        (tmp_path / f"c{kind}").touch()
        assert command("embed", texts, "--out", f"c{kind}") == 0
        failures = [embedding.Failed(id="a", error="E", status=None)]
        embedding.list_failures(failures, tmp_path / "c.failed.jsonl")
        texts.write_text('{"id": "c", "text": "three"}\n')
        assert command("embed", texts, "--out", f"c{kind}") == 0
        assert not (tmp_path / "c.failed.jsonl").exists()

    def test_ids_of_a_run_that_was_killed_at_the_end_do_not_block_the_next(
        self, command: Command, texts: Path, tmp_path: Path
    ) -> None:
        """The ids get their name just before the vectors."""
        (tmp_path / "c.ids.jsonl").write_text('"a"\n')
        assert command("embed", texts, "--out", "c.npy") == 0


class TestWhereItCannotBeWritten:
    """The message names the output and the cause, and comes before anything is paid for."""

    def test_a_folder_without_write_permission_is_found_first(
        self,
        command: Command,
        texts: Path,
        server: LocalServer,
        kind: str,
        capsys: Captured,
        mocker: MockerFixture,
    ) -> None:
        """With the path and advice."""
        opened = Path.open

        def refuse(path: Path, mode: str = "r", *arguments: Any, **options: Any) -> Any:
            if path.suffix == ".part":
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
            return opened(path, mode, *arguments, **options)

        mocker.patch.object(Path, "open", refuse)  # root may write everywhere
        assert command("embed", texts, "--out", f"out{kind}", "--journal", "j.db") == 2
        said = capsys.readouterr().err
        assert f"out{kind} cannot be written (Permission denied): check that you may" in said
        assert server.stats()["requests"] == 0

    def test_so_is_a_lock_that_cannot_be_made(
        self, command: Command, texts: Path, server: LocalServer, capsys: Captured, tmp_path: Path
    ) -> None:
        """A file of failures cannot be written where a folder has its name."""
        (tmp_path / "out.embed.lock").mkdir()
        assert command("embed", texts, "--out", "out.npy") == 2
        assert "out.embed.lock" in capsys.readouterr().err
        assert server.stats()["requests"] == 0

    @pytest.mark.parametrize("name", ["out.ids.jsonl", "out.failed.jsonl", "out.npy.part"])
    def test_so_is_a_folder_in_place_of_a_file(
        self,
        command: Command,
        texts: Path,
        server: LocalServer,
        capsys: Captured,
        tmp_path: Path,
        name: str,
    ) -> None:
        """Of each file that is written beside the output."""
        (tmp_path / name).mkdir()
        assert command("embed", texts, "--out", "out.npy") == 2
        assert "error: out." in capsys.readouterr().err
        assert server.stats()["requests"] == 0

    def test_a_full_disk_is_no_traceback(
        self, command: Command, tmp_path: Path, kind: str, capsys: Captured
    ) -> None:
        """The message says where the paid vectors are; the same command then finishes."""
        texts = tmp_path / "texts.jsonl"
        lines = (json.dumps({"id": f"t{n}", "text": f"text {n}"}) for n in range(4_200))
        texts.write_text("\n".join(lines))
        options = ("--dimensions", 64, "--journal", "j.db", "--quiet")
        arguments = ("embed", texts, "--out", f"out{kind}", *options)
        with embedded_but_not_written(tmp_path / "j.db", arguments, command):
            assert command(*arguments) == 2
        said = capsys.readouterr().err
        assert f"out{kind} cannot be written (" in said
        assert "what is in j.db is not paid for again" in said
        assert sorted(path.name for path in tmp_path.glob("out*")) == []
        assert command(*arguments) == 0


@contextmanager
def embedded_but_not_written(
    journal: Path, arguments: tuple[object, ...], command: Command
) -> Iterator[None]:
    """Fill a journal; then let no file grow beyond what its vectors take in the output."""
    resource = pytest.importorskip("resource")
    assert command(*arguments) == 0
    for path in journal.parent.glob("out*"):
        path.unlink()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 17, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
