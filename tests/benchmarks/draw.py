"""Draws README's picture: `python -m tests.benchmarks.draw [FILE]`.

It uses the first table of FILE with a column of wall seconds, as `compare` prints it, and writes
`far.svg` beside this script. With `-` it reads standard input; without FILE, this folder's README.
"""

import argparse
import re
import sys
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

__all__ = ["SOURCE", "TARGET", "bars", "draw", "main"]

SOURCE = Path(__file__).with_name("README.md")
TARGET = Path(__file__).with_name("far.svg")

OURS = "BatchEmbeddings"
"""The beginning of the names that are highlighted."""

ROW = 28  # this and the following in pixels of a picture 800 wide
LEFT = 330
LONGEST = 400
BLUE, GREY, INK = "#1f6feb", "#98a2b3", "#667085"  # legible on a white and on a black page


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw the picture; `arguments` are those of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.draw", description="Draws README's picture from a table."
    )
    parser.add_argument("file", nargs="?", default=str(SOURCE), help="Markdown; - reads stdin")
    file = parser.parse_args(arguments).file
    text = sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
    TARGET.write_text(draw(bars(text)), encoding="utf-8")
    print(f"wrote {TARGET.name}")


def bars(text: str) -> list[tuple[str, float]]:
    """Return the names and the wall seconds of the first table that has such a column.

    Raises:
        ValueError: there is no such table.
    """
    found: list[tuple[str, float]] = []
    column = None
    for cells in _rows(text):
        if column is None:
            column = next((i for i, cell in enumerate(cells) if "wall s" in cell), None)
        elif not cells:
            if found:
                break
            column = None
        elif len(cells) > column and re.fullmatch(r"[\d,.]+", cells[column]):
            if re.search(r"[^*]\*$", cells[0]):  # extrapolated, and far longer than all others
                continue
            name = re.sub(r"[`*\\]", "", cells[0])
            found.append((name, float(cells[column].replace(",", ""))))
    if not found:
        raise ValueError("no table with a column of wall s")
    return found


def draw(found: Sequence[tuple[str, float]]) -> str:
    """Return an SVG with one bar for each contender."""
    longest = max(seconds for _, seconds in found)
    height = ROW * len(found) + 34
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 800 {height}" role="img" '
        'font-family="system-ui, sans-serif" font-size="15">',
        "<title>Seconds for 19,207 texts at a far API; shorter is better</title>",
    ]
    for row, (name, seconds) in enumerate(found):
        colour = BLUE if name.startswith(OURS) else GREY
        top = ROW * row + 4
        width = max(2.0, LONGEST * seconds / longest)
        weight = ' font-weight="bold"' if colour == BLUE else ""
        ink = BLUE if colour == BLUE else INK
        middle = top + 15
        lines += [
            f'<text x="{LEFT - 10}" y="{middle}" text-anchor="end" fill="{ink}"{weight}>'
            f"{escape(name)}</text>",
            f'<rect x="{LEFT}" y="{top}" width="{width:.1f}" height="20" rx="2" fill="{colour}"/>',
            f'<text x="{LEFT + width + 8:.1f}" y="{middle}" fill="{ink}"{weight}>'
            f"{seconds:g} s</text>",
        ]
    lines += [
        f'<text x="{LEFT}" y="{height - 8}" fill="{INK}" font-size="13">'
        "seconds for 19,207 texts at a far API, simulated; shorter is better</text>",
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _rows(text: str) -> Iterator[list[str]]:
    """Yield the cells of each line of a table, and an empty list for any other line."""
    for line in text.splitlines():
        is_row = line.startswith("|") and not re.fullmatch(r"[|:\- ]+", line)
        if is_row:
            yield [cell.strip() for cell in line.strip().strip("|").split("|")]
        elif not line.startswith("|"):
            yield []


if __name__ == "__main__":
    main()
