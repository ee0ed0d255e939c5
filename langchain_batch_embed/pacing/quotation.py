"""Takes out of a server's message what it quotes of the texts that were sent.

A refusal often quotes the text it is about, and a text can say "rate limit" or "dimensions".
Only the server's own words may decide what is done.
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
"""A whole text of this many characters is one too; a single word only within quotes."""

_WORK = 600_000_000
"""Search this many characters of texts at most: 0.2 s at 3 GB/s."""

_GAP = "…"  # no wording crosses it
_START = re.compile(r"\b\w|[^\w\s]")
_BEGUN = re.compile(r"['\"`]([^'\"`…]{1,40}?)(?=\.\.\.|…)")
_ENDED = re.compile(r"(?:\.\.\.|…)+([^'\"`…]{1,40})(?=['\"`])")
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|x([0-9a-fA-F]{2})|U([0-9a-fA-F]{8})|(.))", re.DOTALL)
_ESCAPED = {"n": " ", "r": " ", "t": " ", "b": "\b", "f": "\f"}


def without_texts(message: str, sent: Sequence[str]) -> str:
    """Return a message without the pieces that it quotes of the texts.

    A quotation can be cut, escaped as JSON or HTML do, or written as `repr` does. A message is
    short and texts are long, so pieces of the message are looked for in the texts. What the
    bound on the work leaves unchecked is dropped: it cannot decide anything either.
    """
    texts = [text for text in sent if isinstance(text, str) and text.strip()]
    message = message[:_MESSAGE]
    if not texts or not message:
        return message
    joined = _plain("\0".join(texts))
    # Which way the quotation is escaped is not known: the right way leaves the least.
    return min((_without(form, texts, joined) for form in _forms(message)), key=len)


def _forms(message: str) -> Iterator[str]:
    """Yield a message as it is, and with its escapes resolved, in every order that was seen."""
    for form in [message, html.unescape(message)] if "&" in message else [message]:
        yield _plain(form)
        resolved = form
        for _ in range(2):  # JSON is quoted in JSON, a `repr` in a `repr`
            if "\\" not in resolved:
                break
            resolved = _unescape(resolved)
            yield _plain(resolved)


def _plain(text: str) -> str:
    """Return a text with spaces for line ends: some classes replace them before they send."""
    # Ten times as fast as `translate` where the text is not ASCII.
    return text.replace("\n", " ").replace("\r", " ").replace("\t", " ")


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
        if message[start : start + _RUN] not in joined:
            continue
        length, step = _RUN, _RUN
        while step and searches > 0:
            searches -= 1
            longer = length + step
            if start + longer <= len(message) and message[start : start + longer] in joined:
                length, step = longer, step * 2
            else:
                step //= 2
        kept += [message[end:start], _GAP]
        end = start + length
    kept.append(message[end:])
    return _without_short("".join(kept), texts)


def _without_short(message: str, texts: Sequence[str]) -> str:
    for text in texts:
        if len(text) >= _RUN:
            continue
        short = _plain(text).strip()
        if len(short) >= _WHOLE and " " in short:
            message = message.replace(short, _GAP)
        else:
            for quote in "'\"`":
                message = message.replace(f"{quote}{short}{quote}", _GAP)

    def begun(match: re.Match[str]) -> str:
        return _GAP if any(text.startswith(match[1]) for text in texts) else match[0]

    def ended(match: re.Match[str]) -> str:
        return _GAP if any(text.endswith(match[1]) for text in texts) else match[0]

    return _ENDED.sub(ended, _BEGUN.sub(begun, message))
