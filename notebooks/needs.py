# ruff: noqa: INP001 - a neighbour of the notebooks, and no package
"""`%%needs ray pandas`: a cell that runs where these packages are, and says so where they are not.

`java` stands for the program.
"""

import importlib.util
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from IPython.core.getipython import get_ipython
from IPython.core.magic import register_cell_magic

__all__ = ["needs"]

INSTALL = {
    "dask": "'dask[dataframe,distributed]'",
    "distributed": "'dask[dataframe,distributed]'",
    "pandas": "'pandas<3'",  # PySpark 4.3 warns of pandas 3
    "ray": "'ray[data]'",
}

os.environ["DAFT_PROGRESS_BAR"] = "0"


@register_cell_magic
def needs(line: str, cell: str) -> None:
    """Run the cell if nothing that the line names is missing."""
    missing = [name for name in line.split() if is_missing(name)]
    if not missing:
        with quiet():
            get_ipython().run_cell(cell).raise_error()
        return
    packages = dict.fromkeys(INSTALL.get(name, name) for name in missing if name != "java")
    steps = [f"pip install {' '.join(packages)}"] if packages else []
    steps += ["install Java 17 or later"] if "java" in missing else []
    print(f"Not run. To run this cell, {' and '.join(steps)}.")


def is_missing(name: str) -> bool:
    """Tell whether a package, or Java, is not there."""
    return (shutil.which(name) if name == "java" else importlib.util.find_spec(name)) is None


@contextmanager
def quiet() -> Iterator[None]:
    """Leave out what engines log while they start and stop, in this process and in others."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
        os.dup2(kept, 2)
        os.close(nowhere)
        os.close(kept)
