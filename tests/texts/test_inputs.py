"""Inputs: identical texts are sent once, over-long ones in windows, impossible ones not at all."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from langchain_core.documents import Document

from langchain_batch_embed import InputError, InputTypeError, Limits
from langchain_batch_embed.texts.inputs import Inputs, LongInputs, check_texts, prepare
from langchain_batch_embed.texts.tokens import ByteCounter, ToktokCounter

# A byte counter makes sizes easy to see: one character, one token.
LIMITS = Limits(provider="OpenAI", max_batch_size=100, max_tokens_per_input=10, refuses_empty=True)


def prepared(
    texts: Sequence[str], *, limits: Limits = LIMITS, long_inputs: LongInputs = "average"
) -> Inputs:
    """Prepare texts, counted in bytes."""
    return prepare(texts, counter=ByteCounter(), limits=limits, long_inputs=long_inputs)


def sent(inputs: Inputs) -> list[int]:
    """Return the rows that are sent when nothing is known from before."""
    rows: list[int] = inputs.missing(np.zeros(len(inputs.texts), dtype=np.bool_)).tolist()
    return rows


class TestTexts:
    """Only a list of strings is taken."""

    @pytest.mark.parametrize(
        "texts", [["a", "b"], ("a", "b"), iter(["a", "b"]), {"a": 1, "b": 2}, np.array(["a", "b"])]
    )
    def test_any_iterable_of_strings_becomes_a_list(self, texts: Sequence[str]) -> None:
        """Generators, tuples, mappings and arrays of strings are as good as a list."""
        assert check_texts(texts) == ["a", "b"]

    def test_a_subclass_of_str_is_a_string(self) -> None:
        """Strings of another library, such as pandas' or a translation's, are taken."""

        class Text(str):
            __slots__ = ()

        assert check_texts([Text("a"), "b"]) == ["a", "b"]

    def test_one_text_instead_of_a_list_is_an_error(self) -> None:
        """A bare string would be embedded letter by letter, so it is refused, saying what to do."""
        with pytest.raises(InputTypeError, match=r"a list of texts.*pass \[text\]") as caught:
            check_texts("secret")
        assert "secret" not in str(caught.value)

    @pytest.mark.parametrize("texts", [b"secret", None, 5, np.float64(3)])
    def test_something_else_than_a_list_is_an_error(self, texts: object) -> None:
        """The message names its type, and not what is in it."""
        kind = type(texts).__name__
        with pytest.raises(InputTypeError) as caught:
            check_texts(texts)  # type: ignore[arg-type]
        assert str(caught.value) == f"a list of texts is needed, not one {kind}"

    def test_what_only_documents_need_is_told_for_documents_alone(self) -> None:
        """Somebody who has a `None` among the texts has no page_content to pass."""
        with pytest.raises(InputTypeError) as caught:
            check_texts(["a", None])
        assert str(caught.value) == "every text must be a str, but 1 of 2 are NoneType (indices 1)"

    def test_what_is_not_a_string_is_named_by_its_index(self) -> None:
        """The error tells which entries are wrong and what they are, without what is in them."""
        texts = ["a", None, "b", Document("secret"), b"secret"]
        with pytest.raises(InputTypeError) as caught:
            check_texts(texts)
        assert caught.value.indices == (1, 3, 4)
        assert str(caught.value) == (
            "every text must be a str, but 3 of 5 are Document, NoneType, bytes "
            "(indices 1, 3, 4); pass page_content for documents"
        )

    def test_only_the_first_indices_are_in_the_message(self) -> None:
        """A message about a thousand wrong entries stays short; the attribute has them all."""
        with pytest.raises(InputTypeError, match=r"indices 0, 1, .*, 9 and 1,990 more") as caught:
            check_texts([0] * 2000)
        assert caught.value.indices == tuple(range(2000))

    def test_an_error_of_the_iterable_itself_goes_on(self) -> None:
        """A generator that fails is not mistaken for a wrong argument."""

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
        """Rows stand for the unique texts in order of first sight, and every text finds its own."""
        inputs = prepared(texts, limits=replace(LIMITS, max_tokens_per_input=None))
        assert inputs.texts == list(dict.fromkeys(texts))
        assert inputs.unique == len(inputs.texts)
        assert [inputs.texts[row] for row in inputs.row_of] == texts
        assert sent(inputs) == list(range(inputs.unique))

    def test_no_text_needs_no_input(self) -> None:
        """An empty list is prepared without a fuss."""
        inputs = prepared([])
        assert (inputs.texts, inputs.unique, len(inputs.row_of), len(sent(inputs))) == ([], 0, 0, 0)


class TestWeights:
    """How heavy an input is."""

    def test_tokens_are_counted_and_charged_where_nothing_else_is_known(self) -> None:
        """Without an estimate of its own, the provider charges the true tokens."""
        inputs = prepared(["abc", "äöü"])
        assert inputs.tokens.tolist() == [3, 6]
        assert inputs.charges.tolist() == [3, 6]

    def test_charges_are_bytes_over_four_rounded_up(self) -> None:
        """OpenAI's limiter charges a token for each four bytes of an input or part of them."""
        inputs = prepared(["a", "abcd", "abcde", "ääää"], limits=replace(LIMITS, bytes_per_token=4))
        assert inputs.charges.tolist() == [1, 1, 2, 2]

    def test_batches_are_packed_by_the_larger_of_both_counts(self) -> None:
        """Neither of both ways to count can make a request too large."""
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
    """Texts that a provider refuses are found before anything is sent."""

    def test_an_empty_text_is_an_error_where_the_provider_refuses_it(self) -> None:
        """All empty texts are named, with what to do about them."""
        with pytest.raises(InputError) as caught:
            prepared(["a", "", "b", ""])
        assert caught.value.indices == (1, 3)
        assert str(caught.value) == (
            "2 of 4 texts are empty (indices 1, 3), which OpenAI refuses; leave such texts out, or "
            'pass empty="skip-vector", which gives them a vector'
        )

    def test_of_a_single_text_no_index_is_told(self) -> None:
        """A query, or a document alone, has none that would help to find it."""
        with pytest.raises(InputError, match=r"^the text is empty, which OpenAI refuses") as caught:
            prepared([""])
        assert caught.value.indices == (0,)

    def test_an_empty_text_is_sent_where_the_provider_takes_it(self) -> None:
        """Other providers have a vector for nothing."""
        assert prepared(["a", ""], limits=replace(LIMITS, refuses_empty=False)).texts == ["a", ""]

    def test_white_space_is_not_empty(self) -> None:
        """A space is a text like any other."""
        assert prepared([" ", "\n"]).texts == [" ", "\n"]


class TestLongTexts:
    """A text over the limit is averaged, truncated or refused."""

    def test_average_sends_the_windows_after_the_unique_texts(self) -> None:
        """The windows are further rows; the text's own row is never sent."""
        inputs = prepared(["short", "x" * 10 + "y" * 10 + "z", "last"])
        assert inputs.unique == 3
        assert inputs.texts[3:] == ["x" * 10, "y" * 10, "z"]
        assert inputs.windows == {1: ([3, 4, 5], [10, 10, 1])}
        assert sent(inputs) == [0, 2, 3, 4, 5]
        assert inputs.tokens[sent(inputs)].tolist() == [5, 4, 10, 10, 1]

    def test_a_text_at_the_limit_is_sent_whole(self) -> None:
        """The limit itself is allowed."""
        assert prepared(["x" * 10]).windows == {}

    def test_each_window_belongs_to_its_text(self) -> None:
        """A window that fails is the failure of the text that it was cut from."""
        inputs = prepared(["short", "x" * 10 + "z", "y" * 11])
        owners = {row: inputs.owners(row) for row in sent(inputs)}
        assert owners == {0: [0], 3: [1], 4: [1], 5: [2], 6: [2]}

    def test_a_long_text_that_comes_twice_is_cut_once(self) -> None:
        """Identical long texts share their windows."""
        inputs = prepared(["x" * 10 + "y", "x" * 10 + "y"])
        assert inputs.row_of.tolist() == [0, 0]
        assert inputs.texts[1:] == ["x" * 10, "y"]

    def test_identical_windows_are_sent_once(self) -> None:
        """A window that is the same as another, or as a whole text, is not a second input."""
        inputs = prepared(["x", "x" * 21, "x" * 10 + "y"])
        assert [inputs.texts[row] for row in sent(inputs)] == ["x", "x" * 10, "y"]
        assert inputs.windows == {1: ([3, 3, 0], [10, 10, 1]), 2: ([3, 4], [10, 1])}
        assert [inputs.owners(row) for row in (0, 3, 4)] == [[0, 1], [1, 2], [2]]

    def test_only_what_is_not_done_is_sent(self) -> None:
        """Rows that are known from before are left out, windows of a known long text too."""
        inputs = prepared(["short", "x" * 10 + "z", "y" * 10 + "z"])
        assert inputs.windows == {1: ([3, 4], [10, 1]), 2: ([5, 4], [10, 1])}
        known: dict[int, list[int]] = {}
        for row in range(6):
            done = np.arange(6) == row
            known[row] = inputs.missing(done).tolist()
        assert known == {
            0: [3, 4, 5],
            1: [0, 4, 5],  # the window that the other long text needs is sent for it
            2: [0, 3, 4],
            3: [0, 4, 5],
            4: [0, 3, 5],
            5: [0, 3, 4],
        }
        assert inputs.missing(np.isin(np.arange(6), [0, 1, 2])).tolist() == []

    def test_a_text_is_settled_with_all_of_its_windows(self) -> None:
        """Not with some of them; and with its own vector, whatever its windows are."""
        inputs = prepared(["short", "x" * 10 + "z", "y" * 10 + "z"])
        settled = [inputs.settled(np.isin(np.arange(6), rows)) for rows in ([], [3], [3, 4], [1])]
        assert settled == [0, 0, 1, 1]
        assert inputs.settled(np.ones(6, dtype=np.bool_)) == 3

    def test_a_long_texts_vector_is_the_weighted_mean(self) -> None:
        """The vector of a long text is its windows' mean, weighted by tokens, at length 1."""
        inputs = prepared(["short", "x" * 10 + "y" * 5])
        vectors = np.array([[1, 0], [0, 0], [1, 0], [0, 1]], dtype=np.float32)
        done = np.array([True, False, True, True])
        [(row, mean)] = inputs.means(vectors.__getitem__, done)
        assert row == 1
        assert mean.tolist() == pytest.approx((np.array([2, 1]) / np.sqrt(5)).tolist())

    def test_a_text_with_a_window_missing_has_no_mean(self) -> None:
        """A mean of some of the windows would be a wrong vector, so there is none."""
        inputs = prepared(["x" * 15])
        vectors = np.zeros((3, 2), dtype=np.float32)
        done = np.array([False, True, False])
        assert list(inputs.means(vectors.__getitem__, done)) == []

    def test_truncate_sends_the_beginning(self) -> None:
        """Only the first window of a long text is sent, in its own row, and counted anew."""
        inputs = prepared(["short", "x" * 10 + "y" * 11], long_inputs="truncate")
        assert inputs.texts == ["short", "x" * 10]
        assert inputs.windows == {}
        assert sent(inputs) == [0, 1]
        assert inputs.tokens.tolist() == [5, 10]
        assert inputs.charges.tolist() == [5, 10]

    def test_error_names_every_long_text(self) -> None:
        """`long_inputs="error"` refuses the call before a cent is spent, and shows no text."""
        with pytest.raises(InputError) as caught:
            prepared(["secret" * 2, "short", "secret" * 2, "y" * 11], long_inputs="error")
        assert caught.value.indices == (0, 2, 3)
        assert str(caught.value) == (
            "3 of 4 texts are over 10 tokens (indices 0, 2, 3); split these, or pass "
            'long_inputs="average" or "truncate"'
        )

    @pytest.mark.parametrize("long_inputs", ["average", "truncate"])
    def test_a_limit_below_one_character_is_an_error(self, long_inputs: LongInputs) -> None:
        """It names the texts and the option, and shows no text."""
        limits = replace(LIMITS, max_tokens_per_input=2)
        with pytest.raises(InputError) as caught:
            prepared(["a", "😀", "b", "😀", "ab 漢"], limits=limits, long_inputs=long_inputs)
        # Of a text that is truncated only the beginning has to fit.
        found = (1, 3) if long_inputs == "truncate" else (1, 3, 4)
        assert caught.value.indices == found
        assert str(caught.value) == (
            f"{len(found)} of 5 texts are impossible to cut into 2 tokens "
            f"(indices {', '.join(map(str, found))}): one character can "
            "be 4; raise max_tokens_per_input"
        )

    def test_without_a_limit_no_text_is_long(self) -> None:
        """Where the wrapped class deals with long texts itself, they are left as they are."""
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
        """Whatever is sent fits, has its true count, and the windows are the text."""
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
    """Half a character, which UTF-8 cannot carry, does not stop a call."""

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
        """A lone half becomes U+FFFD, as tiktoken has it, and two halves become their whole."""
        assert prepared([text, "fine"]).texts == [sent, "fine"]

    @given(st.lists(st.text(min_size=1, max_size=5) | st.text("a\ud83d\ude00", min_size=1)))
    @example(["a\ud800", "a\ud800"])
    def test_every_text_keeps_its_row(self, texts: list[str]) -> None:
        """Replacing changes what is sent, and nothing about which row is whose."""
        inputs = prepared(texts, limits=replace(LIMITS, max_tokens_per_input=None))
        assert inputs.row_of.tolist() == [list(dict.fromkeys(texts)).index(text) for text in texts]
        assert [text.encode().decode() for text in inputs.texts] == inputs.texts
