"""Identical texts are sent once, over-long ones in windows, and impossible ones not at all."""

from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from langchain_core.documents import Document

from langchain_batch_embed import InputError, InputTypeError, Limits
from langchain_batch_embed.texts.inputs import Inputs, LongInputs, check_query, check_texts, prepare
from langchain_batch_embed.texts.tokens import ByteCounter, ToktokCounter

# A byte counter makes sizes easy to see, because one character is one token.
LIMITS = Limits(provider="OpenAI", max_batch_size=100, max_tokens_per_input=10, refuses_empty=True)


def prepared(
    texts: Sequence[str], *, limits: Limits = LIMITS, long_inputs: LongInputs = "average"
) -> Inputs:
    """Prepare texts, counted in bytes."""
    return prepare(texts, counter=ByteCounter(), limits=limits, long_inputs=long_inputs)


def sent(inputs: Inputs) -> list[int]:
    """Return the rows that are sent if nothing is known from before."""
    rows: list[int] = inputs.missing(np.zeros(len(inputs.texts), dtype=np.bool_)).tolist()
    return rows


class TestTexts:
    """Only a list of strings is accepted."""

    @pytest.mark.parametrize(
        "texts", [["a", "b"], ("a", "b"), iter(["a", "b"]), {"a": 1, "b": 2}, np.array(["a", "b"])]
    )
    def test_any_iterable_of_strings_becomes_a_list(self, texts: Sequence[str]) -> None:
        """Generators, tuples, mappings and arrays of strings are accepted like a list."""
        assert check_texts(texts) == ["a", "b"]

    def test_a_subclass_of_str_is_a_string(self) -> None:
        """Instances of subclasses of `str`, as from other libraries, are accepted."""

        class Text(str):
            __slots__ = ()

        assert check_texts([Text("a"), "b"]) == ["a", "b"]

    def test_one_text_instead_of_a_list_is_an_error(self) -> None:
        """A bare string is refused with advice, as its letters would be embedded one by one."""
        with pytest.raises(InputTypeError, match=r"a list of texts.*pass \[text\]") as caught:
            check_texts("secret")
        assert "secret" not in str(caught.value)

    @pytest.mark.parametrize(
        ("texts", "given"),
        [
            (b"secret", "one bytes"),
            (None, "None"),
            (5, "one int"),
            (np.float64(3), "one float64"),
            (lambda: ["secret"], "one function; pass what it returns"),
            (np.array("secret"), "an array without axes; pass [array.item()]"),
        ],
    )
    def test_something_else_than_a_list_is_an_error(self, texts: Any, given: str) -> None:
        """The error for another object names its type, but not its content."""
        with pytest.raises(InputTypeError) as caught:
            check_texts(texts)
        assert str(caught.value) == f"a list of texts is needed, not {given}"

    def test_an_asynchronous_iterable_is_an_error_that_says_how_to_collect_it(self) -> None:
        """An asynchronous generator is refused with the expression that makes a list of it."""

        async def generate() -> AsyncIterator[str]:
            yield "secret"

        with pytest.raises(InputTypeError, match=r"\[text async for text in texts\]"):
            check_texts(generate())  # type: ignore[arg-type]

    @pytest.mark.parametrize("name", ["columns", "data_vars"])
    def test_a_table_is_refused(self, name: str) -> None:
        """A table is refused with advice: to iterate over one of pandas gives its columns' names.

        Polars, Dask and PyArrow have `columns` too, and xarray `data_vars`. Some are not iterable.
        """

        def names(table: object) -> Iterator[str]:
            del table
            return iter(["id", "text"])

        for parts in ({"__iter__": names}, {}):
            table = type("DataFrame", (), {**parts, name: property(names)})()
            with pytest.raises(InputTypeError, match=r"not a DataFrame; pass its column of texts"):
                check_texts(table)

    def test_one_document_is_refused(self) -> None:
        """One document in place of a list is refused with advice, as it yields its fields."""
        with pytest.raises(InputTypeError, match=r"pass \[document.page_content\]"):
            check_texts(Document("secret"))

    def test_what_only_documents_need_is_told_for_documents_alone(self) -> None:
        """Advice about documents is given only if there are documents among the texts."""
        with pytest.raises(InputTypeError) as caught:
            check_texts(["a", 5])
        assert str(caught.value) == "every text must be a str, but 1 of 2 is int (index 1)"

    @pytest.mark.parametrize("missing", [None, float("nan"), np.float64("nan")])
    def test_missing_values_get_advice_for_pandas(self, missing: object) -> None:
        """A missing value, such as pandas puts into a column, is refused with pandas's remedy."""
        with pytest.raises(InputTypeError, match=r"\(index 1\); leave out .*table\.dropna\("):
            check_texts(["a", missing])

    def test_a_number_is_not_called_a_missing_value(self) -> None:
        """A number among the texts gets no advice about missing values."""
        with pytest.raises(InputTypeError, match=r"2 of 2 are float \(indices 0, 1\)$"):
            check_texts([1.0, 2.0])

    def test_what_is_not_a_string_is_named_by_its_index(self) -> None:
        """The error gives the indices and types of wrong entries, but not their content."""
        texts = ["a", None, "b", Document("secret"), b"secret"]
        with pytest.raises(InputTypeError) as caught:
            check_texts(texts)
        assert caught.value.indices == (1, 3, 4)
        assert str(caught.value) == (
            "every text must be a str, but 3 of 5 are Document, NoneType, bytes "
            "(indices 1, 3, 4); pass page_content for documents, and leave out missing texts, in "
            "pandas with table.dropna(subset=[column]), and decode bytes"
        )

    def test_only_the_first_indices_are_in_the_message(self) -> None:
        """A message about many wrong entries stays short, while the attribute has all indices."""
        with pytest.raises(InputTypeError, match=r"indices 0, 1, .*, 9 and 1,990 more") as caught:
            check_texts([0] * 2000)
        assert caught.value.indices == tuple(range(2000))

    @pytest.mark.parametrize(
        ("query", "message"),
        [
            (["secret"], "not list; embed_documents takes several texts"),
            (Document("secret"), "not Document; pass its page_content"),
            (None, "not None"),
            (b"secret", "not bytes"),
            (5, "not int"),
        ],
    )
    def test_a_query_that_is_no_string_is_an_error(self, query: object, message: str) -> None:
        """The error for a wrong query is about one query, and names its type alone."""
        with pytest.raises(InputTypeError) as caught:
            check_query(query)
        assert str(caught.value) == f"a query must be a str, {message}"

    def test_an_error_of_the_iterable_itself_goes_on(self) -> None:
        """An error that the iterable raises itself is passed on unchanged."""

        def texts() -> Iterator[str]:
            yield "a"
            raise TypeError("the caller's own")

        with pytest.raises(TypeError, match="the caller's own") as caught:
            check_texts(texts())
        assert type(caught.value) is TypeError


class TestDuplicates:
    """Identical texts are sent once."""

    @given(st.lists(st.text("abäß😀", min_size=1, max_size=3), max_size=40))
    def test_each_text_has_the_row_of_its_string(self, texts: list[str]) -> None:
        """Rows are the unique texts in order of first occurrence, and each text has its row."""
        inputs = prepared(texts, limits=replace(LIMITS, max_tokens_per_input=None))
        assert inputs.texts == list(dict.fromkeys(texts))
        assert inputs.unique == len(inputs.texts)
        assert [inputs.texts[row] for row in inputs.row_of] == texts
        assert sent(inputs) == list(range(inputs.unique))

    def test_no_text_needs_no_input(self) -> None:
        """An empty list is prepared without an error."""
        inputs = prepared([])
        assert (inputs.texts, inputs.unique, len(inputs.row_of), len(sent(inputs))) == ([], 0, 0, 0)


class TestWeights:
    """The tokens and charges of an input."""

    def test_tokens_are_counted_and_charged_where_nothing_else_is_known(self) -> None:
        """Without an estimate of its own, the provider charges the true tokens."""
        inputs = prepared(["abc", "äöü"])
        assert inputs.tokens.tolist() == [3, 6]
        assert inputs.charges.tolist() == [3, 6]

    def test_charges_are_bytes_over_four_rounded_up(self) -> None:
        """OpenAI's limiter charges a token for each four bytes of an input, or part of them."""
        inputs = prepared(["a", "abcd", "abcde", "ääää"], limits=replace(LIMITS, bytes_per_token=4))
        assert inputs.charges.tolist() == [1, 1, 2, 2]

    def test_batches_are_packed_by_the_larger_of_both_counts(self) -> None:
        """Batches are packed by the larger of tokens and charge, so neither exceeds a limit."""
        inputs = prepare(
            ["internationalization", "漢字漢字"],
            counter=ToktokCounter("cl100k_base"),
            limits=replace(LIMITS, bytes_per_token=4),
            long_inputs="average",
        )
        assert inputs.sizes.tokens.tolist() == [5, 6]
        assert inputs.tokens.tolist() < inputs.sizes.tokens.tolist()
        assert inputs.charges.tolist() < inputs.sizes.tokens.tolist()


class TestEmptyTexts:
    """Empty texts that a provider refuses are found before anything is sent."""

    def test_an_empty_text_is_an_error_where_the_provider_refuses_it(self) -> None:
        """All empty texts are named, with the remedies."""
        with pytest.raises(InputError) as caught:
            prepared(["a", "", "b", ""])
        assert caught.value.indices == (1, 3)
        assert str(caught.value) == (
            "2 of 4 texts are empty (indices 1, 3), which OpenAI refuses; leave such texts out, or "
            'pass empty="skip-vector", which gives them a vector'
        )

    def test_of_a_single_text_no_index_is_told(self) -> None:
        """The error for a single text gives no index, as it would not help."""
        with pytest.raises(InputError, match=r"^the text is empty, which OpenAI refuses") as caught:
            prepared([""])
        assert caught.value.indices == (0,)

    def test_an_empty_text_is_sent_where_the_provider_takes_it(self) -> None:
        """An empty text is sent to a provider that accepts it."""
        assert prepared(["a", ""], limits=replace(LIMITS, refuses_empty=False)).texts == ["a", ""]

    def test_white_space_is_not_empty(self) -> None:
        """White space is a text like any other, and not empty."""
        assert prepared([" ", "\n"]).texts == [" ", "\n"]


class TestLongTexts:
    """A text over the limit is averaged, truncated or refused."""

    def test_average_sends_the_windows_after_the_unique_texts(self) -> None:
        """The windows of a long text are extra rows, and the text's own row is not sent."""
        inputs = prepared(["short", "x" * 10 + "y" * 10 + "z", "last"])
        assert inputs.unique == 3
        assert inputs.texts[3:] == ["x" * 10, "y" * 10, "z"]
        assert inputs.windows == {1: ([3, 4, 5], [10, 10, 1])}
        assert sent(inputs) == [0, 2, 3, 4, 5]
        assert inputs.tokens[sent(inputs)].tolist() == [5, 4, 10, 10, 1]

    def test_a_text_at_the_limit_is_sent_whole(self) -> None:
        """A text exactly at the limit is sent whole."""
        assert prepared(["x" * 10]).windows == {}

    def test_each_window_belongs_to_its_text(self) -> None:
        """A window that fails is a failure of the text from which it was cut."""
        inputs = prepared(["short", "x" * 10 + "z", "y" * 11])
        assert inputs.owners() == {3: [1], 4: [1], 5: [2], 6: [2]}

    def test_a_long_text_that_comes_twice_is_cut_once(self) -> None:
        """Identical long texts share their windows."""
        inputs = prepared(["x" * 10 + "y", "x" * 10 + "y"])
        assert inputs.row_of.tolist() == [0, 0]
        assert inputs.texts[1:] == ["x" * 10, "y"]

    def test_identical_windows_are_sent_once(self) -> None:
        """A window that equals another one, or a whole text, is sent once."""
        inputs = prepared(["x", "x" * 21, "x" * 10 + "y"])
        assert [inputs.texts[row] for row in sent(inputs)] == ["x", "x" * 10, "y"]
        assert inputs.windows == {1: ([3, 3, 0], [10, 10, 1]), 2: ([3, 4], [10, 1])}
        assert inputs.owners() == {0: [1], 3: [1, 2], 4: [2]}

    def test_only_what_is_not_done_is_sent(self) -> None:
        """Rows that are already known are not sent, nor are the windows of a known long text."""
        inputs = prepared(["short", "x" * 10 + "z", "y" * 10 + "z"])
        assert inputs.windows == {1: ([3, 4], [10, 1]), 2: ([5, 4], [10, 1])}
        known: dict[int, list[int]] = {}
        for row in range(6):
            done = np.arange(6) == row
            known[row] = inputs.missing(done).tolist()
        assert known == {
            0: [3, 4, 5],
            1: [0, 4, 5],  # the window that the other long text needs is still sent
            2: [0, 3, 4],
            3: [0, 4, 5],
            4: [0, 3, 5],
            5: [0, 3, 4],
        }
        assert inputs.missing(np.isin(np.arange(6), [0, 1, 2])).tolist() == []

    def test_a_text_is_settled_with_all_of_its_windows(self) -> None:
        """A text is settled with all its windows, or with its own vector."""
        inputs = prepared(["short", "x" * 10 + "z", "y" * 10 + "z"])
        settled = [inputs.settled(np.isin(np.arange(6), rows)) for rows in ([], [3], [3, 4], [1])]
        assert settled == [0, 0, 1, 1]
        assert inputs.settled(np.ones(6, dtype=np.bool_)) == 3

    def test_a_long_texts_vector_is_the_weighted_mean(self) -> None:
        """A long text's vector is its windows' mean, weighted by tokens, of length 1."""
        inputs = prepared(["short", "x" * 10 + "y" * 5])
        vectors = np.array([[1, 0], [0, 0], [1, 0], [0, 1]], dtype=np.float32)
        done = np.array([True, False, True, True])
        [(row, mean)] = inputs.means(vectors.__getitem__, done)
        assert row == 1
        assert mean.tolist() == pytest.approx((np.array([2, 1]) / np.sqrt(5)).tolist())

    def test_a_text_with_a_window_missing_has_no_mean(self) -> None:
        """A text with a missing window has no mean, because it would be a wrong vector."""
        inputs = prepared(["x" * 15])
        vectors = np.zeros((3, 2), dtype=np.float32)
        done = np.array([False, True, False])
        assert list(inputs.means(vectors.__getitem__, done)) == []

    def test_truncate_sends_the_beginning(self) -> None:
        """Truncation sends only the first window, in the text's own row and with its own count."""
        inputs = prepared(["short", "x" * 10 + "y" * 11], long_inputs="truncate")
        assert inputs.texts == ["short", "x" * 10]
        assert inputs.windows == {}
        assert sent(inputs) == [0, 1]
        assert inputs.tokens.tolist() == [5, 10]
        assert inputs.charges.tolist() == [5, 10]

    def test_error_names_every_long_text(self) -> None:
        """`long_inputs="error"` refuses a call before it costs anything, and shows no text."""
        with pytest.raises(InputError) as caught:
            prepared(["secret" * 2, "short", "secret" * 2, "y" * 11], long_inputs="error")
        assert caught.value.indices == (0, 2, 3)
        assert str(caught.value) == (
            "3 of 4 texts are over 10 tokens (indices 0, 2, 3); split these, or pass "
            'long_inputs="average" or "truncate"'
        )

    @pytest.mark.parametrize("long_inputs", ["average", "truncate"])
    def test_a_limit_below_one_character_is_an_error(self, long_inputs: LongInputs) -> None:
        """A limit below one character is an error that names texts and option, not content."""
        limits = replace(LIMITS, max_tokens_per_input=2)
        with pytest.raises(InputError) as caught:
            prepared(["a", "😀", "b", "😀", "ab 漢"], limits=limits, long_inputs=long_inputs)
        # Of a truncated text only the beginning has to fit.
        found = (1, 3) if long_inputs == "truncate" else (1, 3, 4)
        assert caught.value.indices == found
        assert str(caught.value) == (
            f"{len(found)} of 5 texts are impossible to cut into 2 tokens "
            f"(indices {', '.join(map(str, found))}): one character can "
            "have 4 tokens; raise max_tokens_per_input"
        )

    def test_without_a_limit_no_text_is_long(self) -> None:
        """Without a limit, long texts are left to the wrapped class."""
        limits = replace(LIMITS, max_tokens_per_input=None)
        assert prepared(["x" * 1000], limits=limits, long_inputs="error").texts == ["x" * 1000]

    @given(
        st.lists(st.text("ab é漢😀", min_size=1, max_size=40), max_size=8),
        st.integers(6, 20),
        st.sampled_from(["average", "truncate"]),
        st.sampled_from([None, 4.0]),
    )
    def test_nothing_that_is_sent_is_over_the_limit(
        self, texts: list[str], limit: int, long_inputs: LongInputs, bytes_per_token: float | None
    ) -> None:
        """Every input fits and has its true count, and the windows add up to their text."""
        counter = ToktokCounter("cl100k_base")
        limits = replace(LIMITS, max_tokens_per_input=limit, bytes_per_token=bytes_per_token)
        inputs = prepare(texts, counter=counter, limits=limits, long_inputs=long_inputs)
        strings = [inputs.texts[row] for row in sent(inputs)]
        assert inputs.tokens[sent(inputs)].tolist() == counter.count(strings).tolist()
        assert max(counter.count(strings), default=0) <= limit
        assert long_inputs == "truncate" or len(set(strings)) == len(strings)
        for row, (rows, weights) in inputs.windows.items():
            assert "".join(inputs.texts[part] for part in rows) == inputs.texts[row]
            assert sum(weights) == inputs.tokens[row]


class TestSurrogates:
    """A lone surrogate, which UTF-8 cannot encode, does not stop a call."""

    @pytest.mark.parametrize(
        ("text", "sent"),
        [
            ("a\ud800b", "a\ufffdb"),
            ("\udc00", "\ufffd"),
            ("\udc00\ud800", "\ufffd\ufffd"),
            ("\ud83d\ude00", "😀"),
            ("\ufeffa\ud800", "\ufeffa\ufffd"),
        ],
    )
    def test_a_lone_surrogate_is_replaced(self, text: str, sent: str) -> None:
        """A lone surrogate becomes U+FFFD, as in tiktoken, and a pair becomes its character."""
        assert prepared([text, "fine"]).texts == [sent, "fine"]

    @given(st.lists(st.text(min_size=1, max_size=5) | st.text("a\ud83d\ude00", min_size=1)))
    @example(["a\ud800", "a\ud800"])
    def test_every_text_keeps_its_row(self, texts: list[str]) -> None:
        """Replacing surrogates does not change which row belongs to which text."""
        inputs = prepared(texts, limits=replace(LIMITS, max_tokens_per_input=None))
        assert inputs.row_of.tolist() == [list(dict.fromkeys(texts)).index(text) for text in texts]
        assert [text.encode().decode() for text in inputs.texts] == inputs.texts
