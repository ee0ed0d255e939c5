"""Removes from a server's message what it quotes of the texts that were sent.

A refusal often quotes the text that it is about, and a text may contain "rate limit" or
"dimensions". Only the server's own words may decide what happens next.
"""

import html
import re
from collections.abc import Iterator, Sequence

__all__ = ["without_texts"]

_MESSAGE = 20_000
"""Read this many characters of a message; an error object of Google's has 3,000."""

_RUN = 20
"""A run of this many characters that is also in a text is a quotation.

A server's own phrase of 20 characters stands in a document only if the document is about
errors of this API. pydantic shows 25 characters of each end of a long text.
"""

_WHOLE = 10
"""A whole text of this many characters is a quotation too; a single word only within quotes."""

_WORK = 600_000_000
"""Search this many characters of texts at most: 0.2 s at 3 GB/s."""

_GAP = "…"  # no wording matches across it
_START = re.compile(r"\b\w|[^\w\s]")
_CUT = re.compile(r"\.\.\.+|…")
_LONGEST_END = 40
"""Longest piece beside "..."; a longer one is found as a run."""

_MOST_CUTS = 100
"""After this many "..." nothing more of a message is read."""

_SHORTEST_END = 6
"""Shortest piece beside "...", unless a quotation mark stands next to it."""

_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|x([0-9a-fA-F]{2})|U([0-9a-fA-F]{8})|(.))", re.DOTALL)
_ESCAPED = {"n": " ", "r": " ", "t": " ", "b": "\b", "f": "\f"}


def without_texts(message: str, sent: Sequence[str]) -> str:
    """Return a message without the pieces that it quotes of the texts.

    A quotation can be cut, escaped as in JSON or HTML, or written as `repr` does. Messages are
    short and texts are long, so pieces of the message are searched for in the texts. Whatever the
    bound on the work leaves unchecked is dropped, so it cannot decide anything.
    """
    texts = [_fold(_plain(text)) for text in sent if isinstance(text, str) and text.strip()]
    message = message[:_MESSAGE]
    if not texts or not message:
        return message
    joined = "\0".join(texts)
    # The escaping is not known. The right one leaves the shortest message.
    forms = (_one_to_one(form) for form in _forms(message))
    return min((_without(form, texts, joined) for form in forms), key=len)


def _forms(message: str) -> Iterator[str]:
    """Yield a message as it is and with its escapes resolved, in every order seen in practice."""
    for form in [message, html.unescape(message)] if "&" in message else [message]:
        yield _plain(form)
        resolved = form
        for _ in range(2):  # JSON is quoted in JSON, a `repr` in a `repr`
            if "\\" not in resolved:
                break
            resolved = _unescape(resolved)
            yield _plain(resolved)


def _plain(text: str) -> str:
    """Return a text with one space for each run of white space, which servers may change."""
    return " ".join(text.split())


def _fold(text: str) -> str:
    """Return a text without the difference between upper and lower case.

    `casefold` alone is not enough: a dotless i in upper case is an ordinary I.
    """
    return text.upper().casefold()


def _one_to_one(message: str) -> str:
    """Return a message in which `_fold` maps each character to one character (ß becomes ss)."""
    if message.isascii():
        return message
    return "".join(c if len(folded := _fold(c)) == 1 else folded for c in message)


def _unescape(message: str) -> str:
    def resolve(match: re.Match[str]) -> str:
        digits = match[1] or match[2] or match[3]
        if digits:
            code = int(digits, 16)
            return chr(code) if code <= 0x10FFFF else ""  # noqa: PLR2004  # the last of Unicode
        return _ESCAPED.get(match[4], match[4])

    resolved = _ESCAPE.sub(resolve, message)
    # JSON writes an emoji as two halves.
    return resolved.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _without(message: str, texts: Sequence[str], joined: str) -> str:
    folded = _fold(message)
    kept: list[str] = []
    end = 0  # of what is read
    searches = max(1, _WORK // len(joined))
    for found in _START.finditer(message):
        start = found.start()
        if start < end:
            continue
        if len(message) - start < _RUN:
            break
        if searches <= 0:
            message = message[:start]
            break
        searches -= 1
        if folded[start : start + _RUN] not in joined:
            continue
        length, step = _RUN, _RUN
        while step and searches > 0:
            searches -= 1
            longer = length + step
            if start + longer <= len(message) and folded[start : start + longer] in joined:
                length, step = longer, step * 2
            else:
                step //= 2
        kept += [message[end:start], _GAP]
        end = start + length
    kept.append(message[end:])
    return _without_ends(_without_short("".join(kept), texts), texts)


def _without_short(message: str, texts: Sequence[str]) -> str:
    for text in texts:
        if len(text) >= _RUN:
            continue
        short = re.escape(text)
        if len(text) < _WHOLE or " " not in text:
            short = rf"(['\"`]){short}\1"
        kept: list[str] = []
        end = 0
        for found in re.finditer(short, _fold(message)):
            kept += [message[end : found.start()], _GAP]
            end = found.end()
        message = "".join(kept) + message[end:]
    return message


def _without_ends(message: str, texts: Sequence[str]) -> str:
    """Return a message without the beginnings and ends of texts beside "..."."""
    cuts = [*_CUT.finditer(message)]
    if len(cuts) > _MOST_CUTS:
        message = message[: cuts[_MOST_CUTS].start()]
    heads = "".join(f"\0{text[:_LONGEST_END]}" for text in texts)
    tails = "".join(f"{text[-_LONGEST_END:]}\0" for text in texts)
    kept: list[str] = []
    end = 0
    folded = _fold(message)
    for cut in cuts[:_MOST_CUTS]:
        first = max(end, cut.start() - _LONGEST_END)
        starts = (i for i in range(first, cut.start()) if f"\0{folded[i : cut.start()]}" in heads)
        start = next((i for i in starts if _is_piece(message, i, cut.start())), cut.start())
        kept += [message[end:start], _GAP]
        last = min(len(message), cut.end() + _LONGEST_END)
        ends = (i for i in range(last, cut.end(), -1) if f"{folded[cut.end() : i]}\0" in tails)
        end = next((i for i in ends if _is_piece(message, cut.end(), i)), cut.end())
    kept.append(message[end:])
    return "".join(kept)


def _is_piece(message: str, start: int, end: int) -> bool:
    """Return whether a piece of a text is long enough, or in quotes, to be a quotation."""
    around = message[max(0, start - 1) : start] + message[end : end + 1]
    return end - start >= _SHORTEST_END or any(quote in around for quote in "'\"`")
