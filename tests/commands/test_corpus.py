"""Files are found and cut into sections."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_batch_embed.commands import corpus
from langchain_batch_embed.commands.corpus import Section, sections, standard_library, text_files
from langchain_batch_embed.texts.tokens import counter_for


@pytest.fixture(scope="module")
def library() -> list[Section]:
    """Return all sections of the standard library."""
    return sections(standard_library()[1])


def write(folder: Path, name: str, text: str = "some text") -> Path:
    """Write a file and create the folders above it."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", newline="")
    return path


class TestSections:
    """`sections` cuts files."""

    @given(
        lines=st.lists(
            st.sampled_from(["", "  ", "\f", "short", "    indented\u2028", "long " * 50])
            | st.text()
        )
    )
    def test_no_line_is_lost_or_cut(
        self, lines: list[str], tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        """Every line with text is in a section, and the section's line number is right."""
        path = write(tmp_path_factory.mktemp("cut"), "file.txt", "\n".join(lines))
        with path.open(encoding="utf-8") as file:
            written = file.read().split("\n")

        found = sections([path])

        seen: set[str] = set()
        for section in found:
            own = section.text.split("\n")
            original = written[section.line - 1 :][: len(own)]
            assert [line.rstrip() for line in own] == [line.rstrip() for line in original]
            seen.update(line.rstrip() for line in own)
        assert {line.rstrip() for line in written if line.strip()} <= seen

    def test_a_section_ends_at_an_empty_line_when_it_is_long_enough(self, tmp_path: Path) -> None:
        """A long enough section ends at an empty line, so paragraphs stay whole."""
        short, long = "a" * 100, "b" * 400
        path = write(tmp_path, "file.txt", f"{short}\n\n{long}\n\n\n{short}\n{long}\n\nend\n")

        found = sections([path])

        assert [(section.line, section.text) for section in found] == [
            (1, f"{short}\n\n{long}"),
            (6, f"{short}\n{long}"),
            (9, "end"),
        ]

    def test_a_section_ends_at_any_line_when_it_is_too_long(self, tmp_path: Path) -> None:
        """A section that is too long ends at any line, even without an empty one."""
        path = write(tmp_path, "file.txt", "\n".join(f"{i:03} " + "x" * 95 for i in range(13)))

        assert [section.line for section in sections([path])] == [1, 7, 13]

    def test_identical_sections_are_taken_once(self, tmp_path: Path) -> None:
        """A text that several files contain becomes one section, of the first file."""
        first, second = write(tmp_path, "a.txt", "licence"), write(tmp_path, "b.txt", "licence")

        assert sections([first, second]) == [Section(text="licence", path=first, line=1)]

    def test_a_file_without_text_makes_no_section(self, tmp_path: Path) -> None:
        """Files with only empty lines make no section."""
        assert sections([write(tmp_path, "empty.txt", ""), write(tmp_path, "b.txt", "\n \n")]) == []

    def test_bytes_that_are_no_text_are_replaced(self, tmp_path: Path) -> None:
        """Bytes that are no UTF-8 are replaced, so a file in another encoding is still read."""
        path = tmp_path / "latin.txt"
        path.write_bytes("café".encode("latin-1"))

        assert [section.text for section in sections([path])] == ["caf\N{REPLACEMENT CHARACTER}"]

    def test_a_count_takes_sections_evenly_from_all(self, tmp_path: Path) -> None:
        """With a count, sections are taken evenly from all files."""
        paths = [write(tmp_path, f"{i}.txt", f"text {i}") for i in range(10)]

        found = sections(paths, 3)

        assert [section.text for section in found] == ["text 0", "text 3", "text 6"]

    def test_fewer_than_the_count_are_all(self, tmp_path: Path) -> None:
        """A count above the number of sections returns all of them."""
        assert len(sections([write(tmp_path, "a.txt")], 19_207)) == 1

    def test_a_count_below_one_is_refused(self) -> None:
        """A count below one is refused, because it would leave no corpus."""
        with pytest.raises(ValueError, match="count must be at least 1, not 0"):
            sections([], 0)


@pytest.mark.slow
class TestStandardLibrary:
    """The standard library, which everybody has, with its thousands of files."""

    def test_sections_are_real_and_different(self, library: list[Section]) -> None:
        """The library has more than 10,000 sections, all different and none empty."""
        texts = [section.text for section in library]

        assert len(texts) > 10_000
        assert len(set(texts)) == len(texts)
        assert all(text.strip() for text in texts)

    def test_2048_sections_nearly_fill_a_request(self, library: list[Section]) -> None:
        """Sections have 120 to 140 tokens on average, so 2,048 nearly fill a request."""
        counts = counter_for("text-embedding-3-small").count([s.text for s in library])

        assert 120 <= counts.mean() <= 140
        assert 2048 * counts.mean() < 300_000

    def test_the_same_library_makes_the_same_sections(self, library: list[Section]) -> None:
        """The same library gives the same sections, whatever the order of files in a folder."""
        assert sections(standard_library()[1]) == library

    def test_tests_and_installed_packages_are_left_out(self) -> None:
        """Tests and installed packages, which differ most between installations, are left out."""
        folder, files = standard_library()
        parts = {part for file in files for part in file.relative_to(folder).parts[:-1]}

        assert folder / "json" / "decoder.py" in files
        assert parts.isdisjoint({"test", "tests", "site-packages", "dist-packages"})
        assert files == sorted(files)


class TestTextFiles:
    """`text_files` finds the user's text files."""

    def test_finds_text_below_the_folder(self, tmp_path: Path) -> None:
        """Files below the folder are chosen by suffix, in any case, and sorted by name."""
        wanted = ["a.md", "b/c/d.rst", "b/z.PY", "e.txt"]
        for name in [*wanted, "image.png", "no_suffix"]:
            write(tmp_path, name)

        assert text_files(tmp_path) == [tmp_path / name for name in wanted]

    @pytest.mark.parametrize("folder", [".git", "node_modules", "__pycache__", "site-packages"])
    def test_leaves_out_what_nobody_wrote_here(self, tmp_path: Path, folder: str) -> None:
        """Hidden folders and installed packages are left out, as they are not the user's text."""
        write(tmp_path, f"{folder}/a.md")
        kept = write(tmp_path, "kept.md")

        assert text_files(tmp_path) == [kept]

    def test_a_hidden_folder_may_be_asked_for(self, tmp_path: Path) -> None:
        """A hidden folder that the user names is read; only folders below it are judged."""
        path = write(tmp_path, ".notes/site-packages/a.md")

        assert text_files(path.parent) == [path]


class TestEvenly:
    """`evenly` takes an even sample."""

    @given(items=st.lists(st.integers(), unique=True), count=st.integers(0, 30))
    def test_items_keep_their_order(self, items: list[int], count: int) -> None:
        """A sample has the requested number of items, or all, each once and in order."""
        taken = corpus.evenly(items, count)

        assert len(taken) == min(count, len(items))
        assert taken == [item for item in items if item in taken]
