"""The peak memory of this process."""

import sys
from pathlib import Path


def peak_bytes() -> int:
    """Return the peak memory of this process, in bytes.

    On Linux a process inherits the `ru_maxrss` of the one that started it, so a small program
    started
    by a large test suite would seem large. `VmHWM` is the program's own.
    """
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        import resource  # noqa: PLC0415  # Windows has none

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024
