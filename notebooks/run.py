# ruff: noqa: INP001 - a neighbour of the notebooks, and no package
"""Runs notebooks from a clean kernel, in place: `python notebooks/run.py [NN ...]`.

Offline and without a key, as the tests do. Run it on a machine that does nothing else: the pages
show seconds.
"""

import os
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parent
NOWHERE = "http://127.0.0.1:9"  # the discard port: whatever would leave the machine fails at once


def run(path: Path) -> None:
    """Execute one notebook, and write it without what changes with each run."""
    notebook = nbformat.read(path, 4)
    metadata = dict(notebook.metadata)
    resources = {"metadata": {"path": str(FOLDER)}}
    NotebookClient(notebook, kernel_name="python3", resources=resources).execute()
    notebook.metadata = metadata
    for number, cell in enumerate(notebook.cells, 1):
        cell.id = f"{path.stem[:2]}-{number:02d}"
        cell.metadata = {}
    nbformat.write(notebook, path)


if __name__ == "__main__":
    for name in [name for name in os.environ if name.startswith(("OPENAI_", "AZURE_OPENAI_"))]:
        del os.environ[name]
    os.environ |= dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"), NOWHERE)
    os.environ["NO_PROXY"] = "127.0.0.1,localhost"
    for notebook in sorted(FOLDER.glob("*.ipynb")):
        if notebook.stem[:2] in sys.argv[1:] or not sys.argv[1:]:
            print(notebook.name, flush=True)
            run(notebook)
