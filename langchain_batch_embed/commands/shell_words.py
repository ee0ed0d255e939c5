"""Translates advice in the library's errors from Python to the shell."""

import re

__all__ = ["PHRASES", "shell_words"]

_OPTION = re.compile(r"(?<![\w-])(max_dollars|base_url|finish_by)\b(=?)")

PHRASES = {
    "(set price)": "(give it with --price)",
    "call again to continue": "run the same command again to continue",
    "call wait() again": "run the same command again",
    "call submit() with them again": "run submit with the same files again",
    "embed_documents sends the other texts, as does submit() once the cause is fixed": (
        "the commands embed and submit send the other texts once the cause is fixed"
    ),
    "; the traceback of the cause (__cause__) shows why": "",
    "; timeout= allows more time": "",
    ", or wait longer with SQLiteJournal(path, timeout=...)": "",
    "; or wrap an object, for example OpenAIEmbeddings(...)": "",
    "make the object yourself and wrap it": "name another provider with --model",
    "check the wrapped object's options": "check --model and --dimensions",
}
"""Maps advice for programmers to advice for users of the command line."""


def shell_words(message: object) -> str:
    """Return a message of the library with the options and commands of the command line."""
    words = str(message)
    for phrase, shell in PHRASES.items():
        words = words.replace(phrase, shell)
    return _OPTION.sub(_option, words)


def _option(found: re.Match[str]) -> str:
    return f"--{found[1].replace('_', '-')}{' ' if found[2] else ''}"
