"""The processes of the actors that belong to the Ray of this process; on Linux."""

import os
from pathlib import Path

__all__ = ["pids_of_actors"]

_PARENT = 1  # in /proc/PID/stat, counted from the state on


def pids_of_actors() -> list[int]:
    """Return them; another Ray on this machine keeps its own."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            line = (folder / "cmdline").read_text()
            raylet = _parent(folder)
            is_ours = "MapWorker" in line and _parent(Path("/proc", str(raylet))) == os.getpid()
        except OSError:  # it has ended
            continue
        if is_ours:
            found.append(int(folder.name))
    return found


def _parent(folder: Path) -> int:
    # The name before the state may hold anything, also brackets and spaces.
    return int((folder / "stat").read_text().rpartition(")")[2].split()[_PARENT])
