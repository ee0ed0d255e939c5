"""The processes of the actors of this process's Ray, on Linux."""

import os
from pathlib import Path

__all__ = ["pids_of_actors"]

_PARENT = 1  # index in /proc/PID/stat, counted from the state


def pids_of_actors() -> list[int]:
    """Return the ids of the actors' processes, without those of another Ray on this machine."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            line = (folder / "cmdline").read_text()
            raylet = _parent(folder)
            is_ours = "MapWorker" in line and _parent(Path("/proc", str(raylet))) == os.getpid()
        except OSError:  # the process has ended
            continue
        if is_ours:
            found.append(int(folder.name))
    return found


def _parent(folder: Path) -> int:
    # The name before the state may contain anything, even brackets and spaces.
    return int((folder / "stat").read_text().rpartition(")")[2].split()[_PARENT])
