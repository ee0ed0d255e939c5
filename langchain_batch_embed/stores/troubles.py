"""Finds out why a call to a store failed, and so what can help.

A pure function takes an exception and returns a `Trouble`. Statuses, time-outs and quotas are read
as for an embeddings server; this module adds the words and codes of databases. Anything that a
message quotes from the documents is ignored.
"""

import enum
import re
from collections.abc import Sequence
from typing import Final

from langchain_batch_embed.causes import causes
from langchain_batch_embed.pacing.diagnosis import Kind, diagnose
from langchain_batch_embed.pacing.quotation import without_texts

__all__ = ["Trouble", "read_trouble"]


class Trouble(enum.Enum):
    """Why a call failed, classified by what can help."""

    PASSING = "passing"
    """The store is away, busy or locked: waiting helps."""
    TIMED_OUT = "timed out"
    """No answer came in time: a smaller call helps, or waiting."""
    TOO_LARGE = "too large"
    """The call has more rows or bytes than allowed: a smaller call helps."""
    FATAL = "fatal"
    """The key, the permissions, the table or its vector width is wrong: nothing helps."""
    REFUSED = "refused"
    """The store refuses something in the call, perhaps a single document."""
    UNKNOWN = "unknown"
    """The error does not show the cause: perhaps a single document, perhaps a passing fault."""


_STATEMENT: Final = "\n[SQL: "  # after this SQLAlchemy quotes its statement, which says nothing

_BY_KIND: Final = {
    Kind.THROTTLED: Trouble.PASSING,
    Kind.SPENT: Trouble.FATAL,
    Kind.ACCOUNT: Trouble.FATAL,
    Kind.TOO_LARGE: Trouble.TOO_LARGE,
    Kind.TIMED_OUT: Trouble.TIMED_OUT,
    Kind.UNREACHABLE: Trouble.PASSING,
    Kind.OVERLOADED: Trouble.PASSING,
    Kind.FAILED: Trouble.PASSING,
    Kind.MODEL: Trouble.FATAL,
}

# SQLSTATEs (postgresql.org/docs/current/errcodes-appendix.html) and PostgREST's codes
# (docs.postgrest.org, "Errors"). The first prefix that matches counts.
_BY_CODE: Final = (
    ("57014", Trouble.TIMED_OUT),  # query_canceled, after a statement's time-out
    ("55P03", Trouble.PASSING),  # lock_not_available
    ("PGRST00", Trouble.PASSING),  # no connection to the database
    ("PGRST", Trouble.FATAL),
    ("08", Trouble.PASSING),  # connection failure
    ("40", Trouble.PASSING),  # deadlock, serialization
    ("53100", Trouble.FATAL),  # disk full
    ("53", Trouble.PASSING),  # insufficient resources
    ("57", Trouble.PASSING),  # shutdown, starting up
    ("58", Trouble.PASSING),  # system error
    ("54", Trouble.TOO_LARGE),  # program limit exceeded
    ("21", Trouble.REFUSED),  # the same row twice in one statement
    ("22", Trouble.REFUSED),  # invalid data
    ("23", Trouble.REFUSED),  # violated constraint
    ("25006", Trouble.FATAL),  # read-only
    ("28", Trouble.FATAL),  # failed login
    ("3", Trouble.FATAL),  # no such database or schema
    ("42", Trouble.FATAL),  # no such table or column, no rights
)
_CODE: Final = re.compile(r"[0-9A-Z]{5}|PGRST[0-9A-Z]{1,3}")
_CODE_IN_TEXT: Final = re.compile(
    r"(?:['\"]code['\"]:\s*['\"]|SQLSTATE[\s:=(]*)([0-9A-Z]{5}|PGRST[0-9A-Z]{1,3})\b"
)

# Phrases that stores and drivers write, the most specific first.
_BY_WORDS: Final = tuple(
    (re.compile(words, re.IGNORECASE), trouble)
    for words, trouble in (
        (
            r"expect\w*[^\n]{0,60}\bdim(?:ension(?:s|ality)?)?\b"
            r"|\bdim(?:ension(?:s|ality)?)?\b[^\n]{0,60}(?:expect|match|differ|should)"
            r"|(?:mis ?match|different|wrong|divide)[^\n]{0,60}\bdim(?:ension(?:s|ality)?)?\b",
            Trouble.FATAL,
        ),
        (
            r"no such (?:table|column|module)|readonly database|read-only|disk (?:is )?full"
            r"|no space left|permission denied|not authori[sz]ed|password authentication"
            r"|must be called with(?:out)? async_mode|sync methods are not implemented"
            r"|(?:relation|table|column|collection|index|namespace|database)\b[^\n]{0,120}"
            r"(?:does(?: not|n't) exist|not found|not exist)",
            Trouble.FATAL,
        ),
        (
            r"too many (?:sql variables|parameters|arguments|vectors|records|rows|objects|items"
            r"|documents|points|entities)|entity too large|max_allowed_packet"
            r"|number of (?:query )?(?:parameters|arguments)"
            r"|(?:batch|request|payload|message|body|bulk|query|statement|packet)\w*\b[^\n]{0,80}"
            r"(?:too (?:large|big|long)|exceed|larger than|greater than|more than)"
            r"|(?:exceed|larger than|greater than|more than|over)\w*\b[^\n]{0,60}"
            r"(?:batch|request|payload|message|body|bulk|query|statement|packet|bulk_size)",
            Trouble.TOO_LARGE,
        ),
        (r"statement time-?out|timed? ?out|deadline exceeded", Trouble.TIMED_OUT),
        (
            r"(?:database|table|schema)\b[^\n]{0,40} is locked|deadlock|could not serialize"
            r"|(?:server|peer|host) closed|connection\b[^\n]{0,60}(?:reset|closed|lost|refused"
            r"|abort|terminat|fail|timed)|lost connection|gone away|broken pipe|eof detected"
            r"|ssl syscall|too many (?:connections|clients|requests)|temporarily unavailable"
            r"|(?:starting up|shutting down|recovery mode)|write conflict|try again",
            Trouble.PASSING,
        ),
    )
)

_REFUSALS: Final = (ValueError, TypeError, AssertionError, LookupError, ArithmeticError)
_REFUSAL_NAME: Final = re.compile(r"IntegrityError|DataError|ValidationError|InvalidArgument")


def read_trouble(error: BaseException, sent: Sequence[str]) -> Trouble:
    """Return what is wrong with a call to a store.

    Args:
        error: what the call raised.
        sent: the texts and metadata that the error may quote.
    """
    chain = list(causes(error))
    if any(isinstance(link, NotImplementedError | PermissionError) for link in chain):
        return Trouble.FATAL
    text = without_texts("\n".join(str(link).split(_STATEMENT)[0] for link in chain), sent)
    by_code = next(filter(None, map(_by_code, _codes(chain, text))), None)
    by_words = next((trouble for words, trouble in _BY_WORDS if words.search(text)), None)
    if by_code is Trouble.REFUSED and by_words is Trouble.FATAL:
        return Trouble.FATAL  # pgvector gives a wrong width the code of any bad value
    if by_code is not None:
        return by_code
    diagnosis = diagnose(error, sent=sent)
    if diagnosis.kind in _BY_KIND and (diagnosis.status is not None or by_words is None):
        return _BY_KIND[diagnosis.kind]
    if by_words is not None:
        return by_words
    names = " ".join(type(link).__name__ for link in chain)
    if diagnosis.status is not None or isinstance(error, _REFUSALS) or _REFUSAL_NAME.search(names):
        return Trouble.REFUSED
    return Trouble.UNKNOWN


def _codes(chain: Sequence[BaseException], text: str) -> list[str]:
    values = [
        getattr(link, name, None) for link in chain for name in ("sqlstate", "pgcode", "code")
    ]
    found = [value for value in values if isinstance(value, str) and _CODE.fullmatch(value)]
    return found + _CODE_IN_TEXT.findall(text)


def _by_code(code: str) -> Trouble | None:
    return next((trouble for prefix, trouble in _BY_CODE if code.startswith(prefix)), None)
