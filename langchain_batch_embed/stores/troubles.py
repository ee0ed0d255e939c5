"""Says what is wrong with a call of a store that failed, and so what helps.

Pure: an exception goes in, a `Trouble` comes out. Statuses, time-outs and quotas are read as for
an embeddings server; what databases say in their own words and codes is added here. What a message
quotes of the documents decides nothing.
"""

import enum
import re
from collections.abc import Sequence
from itertools import islice
from typing import Final

from langchain_batch_embed.errors import causes
from langchain_batch_embed.pacing.diagnosis import Kind, diagnose
from langchain_batch_embed.pacing.quotation import without_texts

__all__ = ["Trouble", "read_trouble"]


class Trouble(enum.Enum):
    """What is wrong with a call, by what can help."""

    PASSING = "passing"
    """The store is away, busy or locked: waiting helps."""
    TIMED_OUT = "timed out"
    """No answer in time: a smaller call helps, or waiting."""
    TOO_LARGE = "too large"
    """More rows or bytes than one call may have: a smaller call helps."""
    FATAL = "fatal"
    """Key, rights, table, or the width of its vectors: nothing helps."""
    REFUSED = "refused"
    """The store refuses something in it: perhaps one document."""
    UNKNOWN = "unknown"
    """The error does not tell: perhaps one document, perhaps bad luck."""


_LINKS: Final = 20  # of a chain of causes
_STATEMENT: Final = "\n[SQL: "  # SQLAlchemy quotes its statement, whose words mean nothing here

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
# (docs.postgrest.org, "Errors"), the longest prefix first.
_BY_CODE: Final = (
    ("57014", Trouble.TIMED_OUT),  # query_canceled: a statement's time-out
    ("55P03", Trouble.PASSING),  # lock_not_available
    ("PGRST00", Trouble.PASSING),  # no connection to the database
    ("PGRST", Trouble.FATAL),
    ("08", Trouble.PASSING),  # connection
    ("40", Trouble.PASSING),  # deadlock, serialization
    ("53100", Trouble.FATAL),  # disk full
    ("53", Trouble.PASSING),  # resources
    ("57", Trouble.PASSING),  # shutdown, starting up
    ("58", Trouble.PASSING),  # system
    ("54", Trouble.TOO_LARGE),  # a limit of the program
    ("21", Trouble.REFUSED),  # the same row twice
    ("22", Trouble.REFUSED),  # data
    ("23", Trouble.REFUSED),  # constraints
    ("25006", Trouble.FATAL),  # read-only
    ("28", Trouble.FATAL),  # log-in
    ("3", Trouble.FATAL),  # no such database or schema
    ("42", Trouble.FATAL),  # no such table or column, no rights
)
_CODE: Final = re.compile(r"[0-9A-Z]{5}|PGRST[0-9A-Z]{1,3}")
_CODE_IN_TEXT: Final = re.compile(
    r"(?:['\"]code['\"]:\s*['\"]|SQLSTATE[\s:=(]*)([0-9A-Z]{5}|PGRST[0-9A-Z]{1,3})\b"
)

# What stores and drivers write, the most exact first.
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
    """Say what is wrong with a call of a store.

    Args:
        error: what the call raised.
        sent: the texts of its documents.
    """
    chain = list(islice(causes(error), _LINKS))
    if any(isinstance(link, NotImplementedError | PermissionError) for link in chain):
        return Trouble.FATAL
    text = without_texts("\n".join(str(link).split(_STATEMENT)[0] for link in chain), sent)
    by_code = next(filter(None, map(_by_code, _codes(chain, text))), None)
    by_words = next((trouble for words, trouble in _BY_WORDS if words.search(text)), None)
    if by_code is Trouble.REFUSED and by_words is Trouble.FATAL:
        return Trouble.FATAL  # pgvector's code for a wrong width is that of any bad value
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
