"""The error of an output that cannot be written, with advice about its cause."""

import errno
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["OutputError", "output_errors"]

_NO_ROOM = {getattr(errno, name) for name in ("ENOSPC", "EDQUOT", "EFBIG") if hasattr(errno, name)}
_NO_PERMISSION = {errno.EACCES, errno.EPERM, errno.EROFS}

_ERRNO = {
    sqlite3.SQLITE_CANTOPEN: errno.EACCES,
    sqlite3.SQLITE_FULL: errno.ENOSPC,
    sqlite3.SQLITE_PERM: errno.EACCES,
    sqlite3.SQLITE_READONLY: errno.EACCES,
}
"""Maps SQLite's result codes to the error of the operating system that is behind them."""


class OutputError(Exception):
    """The output cannot be written as asked."""


@contextmanager
def output_errors(path: Path) -> Iterator[None]:
    """Turn errors of SQLite and of the operating system into an `OutputError` with advice.

    Args:
        path: the file that the message names.
    """
    try:
        yield
    except sqlite3.Error as error:
        result = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the higher bits hold details
        code = _ERRNO.get(result, errno.EIO)
        raise OutputError(_words(path, code, os.strerror(code))) from error
    except OSError as error:
        raise OutputError(_words(path, error.errno, error.strerror)) from error


def _words(path: Path, code: int | None, reason: str | None) -> str:
    if code in _NO_ROOM:
        advice = "make room, or name a file on another disk with --out"
    elif code in _NO_PERMISSION:
        advice = (
            "check that you may write in its folder and that no program has it open, or name "
            "another file with --out"
        )
    else:
        advice = "check the disk, or name another file with --out"
    return f"{path} cannot be written ({reason or 'unknown error'}): {advice}"
