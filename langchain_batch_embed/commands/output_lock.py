"""The lock that lets only one run at a time write an output."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from langchain_batch_embed.commands.output_errors import OutputError, output_errors

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

__all__ = ["lock_of", "only_run"]

_TRIES = 10
"""Most attempts to lock a file that other runs delete as they end."""


def lock_of(path: Path) -> Path:
    """Return the lock file of an output.

    All outputs whose names differ only in the suffix share it, because they would share the files
    of the ids and of the failures.
    """
    return path.with_suffix(".embed.lock")


@contextmanager
def only_run(path: Path) -> Iterator[None]:
    """Hold the lock of an output, so that no other run touches its files.

    The operating system holds the lock on an empty file beside the output. It releases it however
    the process ends, so the lock file of a run that crashed blocks nobody.

    Args:
        path: the output's file.

    Raises:
        OutputError: another run holds the lock, or the lock file cannot be made.
    """
    lock = lock_of(path)
    with output_errors(path):
        held = _locked(lock, path)
    if held is None:
        raise OutputError(
            f"another run writes {path}, or a file that differs only in the suffix; wait until it "
            "has ended, or name another file with --out"
        )
    try:
        yield
    finally:
        # Deleted while it is locked. Later, another run could have locked it and would lose it.
        with suppress(OSError):
            lock.unlink()
        os.close(held)
        if sys.platform == "win32":  # it deletes no open file, so nobody's lock can be lost there
            with suppress(OSError):
                lock.unlink(missing_ok=True)


def _locked(lock: Path, path: Path) -> int | None:
    """Return a descriptor that holds the lock, or `None` if another run holds it."""
    for _ in range(_TRIES):
        if lock.is_dir():
            raise OutputError(_not_a_lock(lock, path))
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
        is_held = False
        try:
            if os.fstat(descriptor).st_size:
                raise OutputError(_not_a_lock(lock, path))
            if not _begins(descriptor):
                return None
            is_held = _is_named(descriptor, lock)
            if is_held:
                return descriptor
        finally:
            if not is_held:
                os.close(descriptor)
    return None


def _is_named(descriptor: int, lock: Path) -> bool:
    """Return whether the file that is locked still has its name.

    The run before may have deleted it after this one opened it. Then another run can make and lock
    a new file of this name.
    """
    try:
        return os.path.samestat(os.fstat(descriptor), lock.stat())
    except FileNotFoundError:
        return False


def _begins(descriptor: int) -> bool:
    """Lock a file if it is free; return whether this process holds the lock."""
    try:
        if sys.platform == "win32":
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True


def _not_a_lock(lock: Path, path: Path) -> str:
    return (
        f"{lock} has to be an empty file, as it is the lock of {path}; move it away, or name "
        "another file with --out"
    )
