"""Numbers and tables are written for people."""

import pytest

from langchain_batch_embed.report import (
    amount,
    duration,
    html_table,
    money,
    name_indices,
    plural,
)


@pytest.mark.parametrize(
    ("dollars", "written"),
    [
        (0.047612, "$0.0476"),
        (0, "$0.0000"),
        (0.00004, "<$0.0001"),
        (0.0001, "$0.0001"),
        (1234.5, "$1,234.50"),
    ],
)
def test_money_is_written_with_the_digits_that_matter(dollars: float, written: str) -> None:
    """Money has cents from a dollar on, and fractions of a cent below."""
    assert money(dollars) == written


@pytest.mark.parametrize(
    ("seconds", "written"),
    [(0.44, "0.4 s"), (84.4, "84 s"), (600, "10 min"), (36_000, "10.0 h")],
)
def test_times_are_written_in_the_unit_that_reads_best(seconds: float, written: str) -> None:
    """A duration is in seconds, minutes or hours."""
    assert duration(seconds) == written


@pytest.mark.parametrize(
    ("number", "written"),
    [(0, "0"), (9_999, "9,999"), (12_345, "12k"), (999_600, "1.0M"), (1_234_567_890, "1,234.6M")],
)
def test_large_numbers_are_written_in_short(number: int, written: str) -> None:
    """Large numbers are abbreviated."""
    assert amount(number) == written


def test_one_is_no_plural() -> None:
    """One is in the singular, and zero in the plural."""
    counts = [plural(n, "text") for n in (0, 1, 2_000)]
    assert counts == ["0 texts", "1 text", "2,000 texts"]
    assert plural(2, "retry", "retries") == "2 retries"


@pytest.mark.parametrize(
    ("count", "named"),
    [
        (0, ""),
        (1, "0"),
        (10, "0, 1, 2, 3, 4, 5, 6, 7, 8, 9"),
        (11, "0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 1 more"),
        (5000, "0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 4,990 more"),
    ],
)
def test_ten_indices_are_named(count: int, named: str) -> None:
    """A message names at most ten indices and counts the others."""
    assert name_indices(range(count)) == named


def test_what_a_table_shows_is_no_markup() -> None:
    """A table escapes its content, such as a server's address or a model's name."""
    table = html_table("<Report>", {"<b>": "<script>"})
    assert "&lt;script&gt;" in table
    assert not any(markup in table for markup in ("<Report>", "<b>", "<script>"))
