"""The most memory that this process has held."""

import sys
from pathlib import Path


def peak_bytes() -> int:
    """Return the most memory that this process has held, in bytes.

    Linux passes the `ru_maxrss` of the process that started this one on to it, so a small program
    that a large test suite starts would seem large. `VmHWM` is the program's own.
    """
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        import resource  # noqa: PLC0415  # Windows has none

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024
