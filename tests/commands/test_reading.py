"""What the commands read: nothing that the user named is left out without a word."""

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

Command = Callable[..., int]
Captured = pytest.CaptureFixture[str]


@pytest.fixture
def locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a text, which nobody may list; root could read a real one."""
    folder = tmp_path / "docs" / "locked"
    folder.mkdir(parents=True)
    (folder / "a.md").write_text("a text")
    scandir = os.scandir

    def refuse(path: Any = ".") -> Iterator[Any]:
        if not isinstance(path, int) and Path(path).name == "locked":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), os.fspath(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    return folder


class TestFolders:
    """What a folder holds besides its text files is named."""

    def test_a_folder_without_read_permission_is_named(
        self, command: Command, locked: Path, capsys: Captured
    ) -> None:
        """An unreadable folder is named as skipped, and the texts beside it are read."""
        (locked.parent / "b.md").write_text("another text")
        assert command("plan", "docs") == 0
        said = capsys.readouterr()
        where = Path("docs/locked")
        assert said.err.strip() == f"skipped: {where} (Permission denied)"
        assert said.out.startswith("1 file")

    @pytest.mark.parametrize("given", ["docs/locked", "docs/locked/", "./docs/../docs/locked"])
    def test_it_is_an_error_where_the_user_named_it(
        self, command: Command, locked: Path, capsys: Captured, given: str
    ) -> None:
        """An unreadable folder that the user names ends the command with status 2."""
        (locked.parent / "b.md").write_text("another text")
        assert command("plan", "docs/b.md", given) == 2
        assert "cannot be read: Permission denied" in capsys.readouterr().err

    def test_a_linked_folder_and_a_dead_link_are_named(
        self, command: Command, tmp_path: Path, capsys: Captured
    ) -> None:
        """Links to folders are not followed, as they may lead round in a circle."""
        (tmp_path / "docs").mkdir()
        (tmp_path / "docs" / "a.md").write_text("a text")
        (tmp_path / "docs" / "dead.md").symlink_to("nowhere")
        (tmp_path / "docs" / "more").symlink_to(tmp_path)
        assert command("plan", "docs") == 0
        said = capsys.readouterr().err
        assert f"{Path('docs/more')} (a link to a folder)" in said
        assert f"{Path('docs/dead.md')} (No such file or directory)" in said

    def test_a_file_in_a_folder_that_may_not_be_entered_is_an_error(
        self, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
    ) -> None:
        """A path inside an unreadable folder may exist, so the message names the permission."""
        stat = Path.stat

        def refuse(path: Path, **options: Any) -> os.stat_result:
            if path.name == "a.md":
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
            return stat(path, **options)

        monkeypatch.setattr(Path, "stat", refuse)
        assert command("plan", tmp_path / "a.md") == 2
        assert "a.md cannot be read: Permission denied" in capsys.readouterr().err


class TestIds:
    """`--id` names a field or column that is there, as `--field` and `--column` do."""

    @pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet", ".jsonl"])
    def test_a_name_that_is_missing_is_refused(
        self, command: Command, tmp_path: Path, capsys: Captured, suffix: str
    ) -> None:
        """The message names the fields or columns that exist, and the option."""
        write_table(tmp_path / f"a{suffix}")
        assert command("plan", f"a{suffix}", "--id", "uid") == 2
        said = capsys.readouterr().err
        assert "'uid'; it has text, key: choose one with --id" in said
        assert command("plan", f"a{suffix}", "--id", "key") == 0
        assert command("plan", f"a{suffix}") == 0

    def test_a_file_of_a_folder_without_it_is_left_out(
        self, command: Command, tmp_path: Path, capsys: Captured
    ) -> None:
        """A file without the named field is left out and named; text files have no fields."""
        (tmp_path / "docs").mkdir()
        write_table(tmp_path / "docs" / "a.jsonl")
        (tmp_path / "docs" / "b.md").write_text("a text")
        assert command("plan", "docs", "--id", "uid") == 0
        said = capsys.readouterr()
        assert "has no field 'uid'" in said.err
        assert said.out.startswith("1 file")


def write_table(path: Path) -> None:
    """Write one row with the columns `text` and `key`."""
    if path.suffix == ".jsonl":
        path.write_text('{"text": "one", "key": "a"}\n')
        return
    pa = pytest.importorskip("pyarrow")
    if path.suffix == ".parquet":
        parquet = pytest.importorskip("pyarrow.parquet")
        parquet.write_table(pa.table({"text": ["one"], "key": ["a"]}), path)
    else:
        tab = "\t" if path.suffix == ".tsv" else ","
        path.write_text(f"text{tab}key\none{tab}a\n")


class TestEncodings:
    """UTF-16 with a byte order mark, as Excel writes it, is read in every format of text."""

    @pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
    @pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".md"])
    def test_utf_16_is_read(
        self, command: Command, tmp_path: Path, capsys: Captured, suffix: str, encoding: str
    ) -> None:
        """UTF-16 gives the texts of UTF-8. U+0A0A holds two bytes that look like line feeds."""
        contents = {
            ".csv": "text,id\nä\u0a0a😀 one,a\nöne,b\n",
            ".tsv": "text\tid\nä\u0a0a😀 one\ta\nöne\tb\n",
            ".jsonl": '{"text": "ä\u0a0a😀 one", "id": "a"}\n{"text": "öne", "id": "b"}\n',
            ".md": "ä\u0a0a😀 one\nöne\n",
        }
        if suffix in {".csv", ".tsv"}:
            pytest.importorskip("pyarrow")
        (tmp_path / f"narrow{suffix}").write_text(contents[suffix], encoding="utf-8")
        wide = f"\ufeff{contents[suffix]}".encode(encoding)
        (tmp_path / f"wide{suffix}").write_bytes(wide)
        said = []
        for name in ("narrow", "wide"):
            assert command("embed", f"{name}{suffix}", "--out", f"{name}.npy") == 0
            said.append((tmp_path / f"{name}.npy").read_bytes())
        assert said[0] == said[1]
        capsys.readouterr()

    def test_half_a_character_is_named(
        self, command: Command, tmp_path: Path, capsys: Captured
    ) -> None:
        """A file that was cut off is an error, and no traceback."""
        pytest.importorskip("pyarrow")
        octets = "\ufefftext,id\none,a\n".encode("utf-16-le")
        (tmp_path / "a.csv").write_bytes(octets[:-1])
        assert command("plan", "a.csv") == 2
        assert "a.csv cannot be read after row" in capsys.readouterr().err
