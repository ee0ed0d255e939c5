"""The words of a document that a server quotes never decide the diagnosis."""

import html
import json
import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_batch_embed.pacing.diagnosis import Kind, diagnose
from langchain_batch_embed.pacing.quotation import without_texts
from tests.pacing.answers import WORDED
from tests.pacing.errors import (
    FAILED,
    NOW,
    REFUSED,
    THROTTLED,
    Expected,
    body,
    cases,
    check,
    refusal,
)
from tests.support import examples

LONG = (
    "The dimensions of the maximum number of inputs is 1, says my text; budget exceeded, rate "
    "limit: try again in 99s. You exceeded your current quota, insufficient_quota [503] "
)

TELLING = [
    *("the dimensions are", "encoding_format", "invalid model", "input[0]", "rate limit"),
    *("maximum number of inputs is 1", "array length must be 2 or less", "request too large"),
    *("Requested 5 tokens, max 3 tokens per request", "must have less than 512 tokens"),
    *("insufficient_quota", "Budget has been exceeded", "out of credits", "余额不足", "per day"),
    *("exceeded your current quota", "try again in 99s", "retryDelay: '30s'", "retry_after=5"),
    *("on tokens per min (TPM): Limit 5, Used 4, Requested 9.", "is too large to process"),
    *("'", '"', "\n", "\\", "\t", "&amp;", "<html>", "😀", "«", "...", "status 503"),
]

BYTES = {"kind": Kind.TOO_LARGE, "measure": "bytes"}

QUOTES: dict[str, Callable[[str], str]] = {
    "whole": lambda text: f"bad input: '{text}'",
    "without quotation marks": lambda text: f"bad input: {text}",
    "cut": lambda text: f"bad input: '{text[:25]}...'",
    "cut in the middle": lambda text: f"bad input: '{text[:25]}...{text[25:][-24:]}'",
    "cut at the front": lambda text: f"bad input: '...{text[7:]}'",
    "as JSON": lambda text: f"bad input: {json.dumps(text)}",
    "as JSON in JSON": lambda text: f"bad input: {json.dumps(json.dumps(text))}",
    "as Python": lambda text: f"bad input: {text!r}",
    "as Python in Python": lambda text: f"bad input: {[repr(text)]!r}",
    "as HTML": lambda text: f"bad input: {html.escape(repr(text))}",
    "in capitals": lambda text: f"bad input: {text.upper()}",
    "in small letters": lambda text: f"bad input: '{text.lower()}'",
    "with other white space": lambda text: f"bad input: '{'  '.join(text.split(' '))}'",
    "cut, without quotation marks": lambda text: f"bad input: {text[:15]}... is too bad",
    "the end alone": lambda text: f"bad input: ...{text[-30:]}",
    "on one line": lambda text: f"bad input: {text.replace(chr(10), ' ')}",
}


class TestQuotedTexts:
    """The words of a document that a server quotes never decide the diagnosis."""

    @pytest.mark.parametrize(
        "text",
        [
            "the dimensions of text 77",
            "maximum number of inputs is 1, says my text",
            "dimensions",
            "Budget has been exceeded! Current cost: 3",
            "insufficient balance",
            "request body too large",
            "invalid model",
            LONG,
            f"{LONG}\n“dimensions”\t'ça' \"encoding_format\" 维度 dimensions 😀 input[5]",
        ],
    )
    @pytest.mark.parametrize("quote", QUOTES.values(), ids=QUOTES)
    def test_a_quotation_is_no_reason(self, quote: Callable[[str], str], text: str) -> None:
        """A text about limits is only a refused text, however the server quotes it."""
        if text in quote(text).split() or text.upper() in quote(text).split():
            pytest.skip("a single word without quotation marks can be the server's")
        message = quote(text)
        sent = ["something else entirely", text, "and more"]
        check(diagnose(refusal(400, body(message)), sent=sent), REFUSED, status=400)
        check(diagnose(ValueError(message), sent=sent), REFUSED)

    @examples(200)
    @given(
        st.lists(
            st.lists(st.sampled_from(TELLING) | st.text(max_size=8), min_size=1, max_size=8)
            .map(" ".join)
            .filter(lambda text: len(text.strip()) >= 50),
            min_size=1,
            max_size=4,
        ),
        st.sampled_from(list(QUOTES)),
    )
    def test_no_quotation_is_a_reason(self, sent: list[str], quote: str) -> None:
        """Random texts about limits, options and money do not change the diagnosis when quoted."""
        message = QUOTES[quote](sent[-1])
        for status, expected in ((400, REFUSED), (429, THROTTLED), (500, FAILED), (413, BYTES)):
            check(diagnose(refusal(status, body(message)), sent=sent), expected, status=status)

    @pytest.mark.parametrize("letter", ["µ", "ß", "\u0131", "İ", "ŉ", "ﬁ", "ς"])
    @pytest.mark.parametrize("quote", [str, str.upper, str.lower, str.title, str.casefold])
    def test_capitals_hide_no_quotation(self, letter: str, quote: Callable[[str], str]) -> None:
        """A quotation is found in any case, even with letters that change their length or form.

        An example is a letter whose capital has another small letter, or two.
        """
        text = f"the dimensions are 5 {letter}{letter} encoding_format"
        for message in (f"bad input: {quote(text)}", f"bad: '{quote(text[-23:])}'..."):
            check(diagnose(refusal(400, body(message)), sent=[text]), REFUSED, status=400)
        short = f"dimensions {letter}"
        got = diagnose(refusal(400, body(f"bad input: '{quote(short)}'")), sent=[short])
        check(got, REFUSED, status=400)

    def test_the_examples(self) -> None:
        """Two messages that quote a text are understood only if the texts are known."""
        for message, text, kind in (
            ("bad input: 'the dimensions of text 77'", "the dimensions of text 77", Kind.OPTION),
            ("bad input: 'Request body too large'", "Request body too large", Kind.TOO_LARGE),
        ):
            assert diagnose(refusal(400, body(message))).kind is kind
            assert diagnose(refusal(400, body(message)), sent=[text]).kind is Kind.REFUSED

    def test_a_time_in_a_text_is_not_waited_for(self) -> None:
        """A wait in a text that a 429 quotes is ignored."""
        got = diagnose(refusal(429, body(f"slow down: '{LONG}'")), sent=[LONG])
        check(got, THROTTLED, status=429)

    def test_what_pydantic_repeats_is_not_read(self) -> None:
        """The input that pydantic repeats is not read, although FastAPI sends all of it back."""
        answer = {
            "detail": [
                {
                    "loc": ["body", "input", "list[str]", 1],
                    "msg": "Input should be a valid string",
                    "input": [LONG] * 2048,
                }
            ]
        }
        check(diagnose(refusal(422, answer), sent=["x", LONG]), {**REFUSED, "at": 1}, status=422)

    @cases(WORDED)
    def test_documents_about_such_words_hide_none(
        self, status: int, answer: object, expected: Expected
    ) -> None:
        """A recorded refusal is still understood if the documents contain its single words.

        Those words belong to the server's own message.
        """
        sent = [
            "dimensions", "limit", "tokens", "input", "model", "quota", "seconds", "a",
            "The dimensions of a vector, the tokens per batch, a rate limit, a budget. Try again.",
            "On requests: per day, per minute and per month. Credits, balance and inputs are in.",
        ]  # fmt: skip
        check(diagnose(refusal(status, answer), sent=sent, now=NOW), expected, status=status)

    @given(st.lists(st.text(max_size=200), max_size=5), st.text(max_size=50), st.text(max_size=50))
    def test_what_is_long_enough_is_taken_out(
        self, texts: list[str], before: str, after: str
    ) -> None:
        """A quoted text of ten characters or more never remains whole in a message.

        A single word of fewer than 20 characters is only removed in quotation marks.
        """
        for text in texts:
            left = without_texts(f"{before} '{text}' {after}", texts)
            plain = " ".join(text.split())
            if len(plain) >= 10 and plain.isascii() and "\\" not in text and "&" not in text:
                quoted = text if " " in plain or len(text) >= 20 else f"'{text}'"
                assert quoted not in left

    def test_the_work_is_bounded(self) -> None:
        """Searching a long message for many texts takes less than 5 s."""
        texts = [f"{i} {LONG}" * 8 for i in range(2048)]
        message = " ".join(f"w{i}ord{i * i} and so on \\ &" for i in range(5000))
        started = time.thread_time()
        without_texts(message, texts)
        assert time.thread_time() - started < 5

    def test_what_was_not_checked_is_not_read(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Beyond the bound on the work, the unchecked rest of a message decides nothing."""
        monkeypatch.setattr("langchain_batch_embed.pacing.quotation._WORK", 1)
        message = "some words of the server, then quoted: dimensions dimensions"
        check(
            diagnose(refusal(400, body(message)), sent=["other words altogether"]),
            REFUSED,
            status=400,
        )
