"""README runs as printed: code, commands, links, options, length."""

import importlib.util
import inspect
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from langchain_openai import OpenAIEmbeddings

from langchain_batch_embed import BatchEmbeddings, Limits
from langchain_batch_embed.limits import limits_of
from langchain_batch_embed.simulator import Scenario, Simulator
from tests.benchmarks import draw
from tests.stores.places import Places, missing_packages
from tests.test_layers import ROOMS

FOLDER = Path(__file__).parents[1]
README = (FOLDER / "README.md").read_text(encoding="utf-8")
PAGES = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "tests/benchmarks/README.md")

MOST_WORDS = 1_600
"""Most words of README, counted as by `wc -w`, for a user in a hurry."""

SECONDS = 60
"""Most seconds for one block, which takes less than 10."""

GIVEN = """\
import warnings
warnings.simplefilter("ignore", DeprecationWarning)  # langchain-community announces its end of life
from langchain_batch_embed import BatchEmbeddings
from langchain_community.vectorstores import SupabaseVectorStore
from langchain_core.documents import Document
from langchain_core.indexing import InMemoryRecordManager, index
from langchain_core.vectorstores import InMemoryVectorStore
from langchain_openai import OpenAIEmbeddings

docs = [Document(page_content=f"page {n}") for n in range(300)]
texts = [doc.page_content for doc in docs]
embeddings = BatchEmbeddings(OpenAIEmbeddings(model="text-embedding-3-small"))
record_manager = InMemoryRecordManager("docs")
record_manager.create_schema()
"""
"""What README's code blocks assume: a user's own documents and objects."""

CLIENT = """
import os
from supabase import create_client
client = create_client(os.environ["SUPABASE_URL"], os.environ["SUPABASE_KEY"])
"""
POISONED = "texts[7] = 'POISON'\n"


OPTIONS = {
    name: parameter.default
    for name, parameter in inspect.signature(BatchEmbeddings.__init__).parameters.items()
    if parameter.kind is parameter.KEYWORD_ONLY and not name.startswith("_")
}


def blocks(language: str) -> list[str]:
    """Return the fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


def the_block(language: str, holding: str) -> str:
    """Return the only block of a language that contains a string."""
    (found,) = [block for block in blocks(language) if holding in block]
    return found


def rows(heading: str) -> Iterator[list[str]]:
    """Yield the cells of each row of the first table below a heading."""
    section = README.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    table = next(part for part in re.split(r"\n{2,}", section.strip()) if part.startswith("|"))
    for line in table.splitlines():
        if line.startswith("| `"):
            yield [cell.strip() for cell in line.strip("|").split(" | ")]


@pytest.fixture(scope="module")
def openai() -> Iterator[Simulator]:
    """Run a server that refuses one marked text."""
    with Simulator(Scenario(latency=0, refuse_marker="POISON")) as simulator:
        yield simulator


@pytest.fixture
def run(openai: Simulator, tmp_path: Path) -> Callable[..., str]:
    """Return a function that runs a program in its own process and returns its output."""

    def run(program: str, **variables: str) -> str:
        environment = {
            **os.environ,
            "OPENAI_BASE_URL": openai.url,
            "OPENAI_API_KEY": "any",
            "PYTHONPATH": str(FOLDER),
            **variables,
        }
        done = subprocess.run(  # noqa: S603  # what README prints
            [sys.executable, "-c", program],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    return run


@pytest.fixture(autouse=True)
def _ends() -> None:
    """Replace the time limit of other tests, since each process here has its own."""


class TestPython:
    """Each block of Python code runs as printed."""

    def test_every_block_is_run(self) -> None:
        """Every Python block of README is run by a test of this class."""
        marks = ("Simulator() as", "Supabase", "SQLiteVec", "submit", "prefetch", "Partial")
        assert sorted(blocks("python")) == sorted(the_block("python", mark) for mark in marks)

    def test_the_first_prints_what_is_shown(self, run: Callable[..., str]) -> None:
        """The first block has eight lines, needs only the installation, and prints what is shown.

        Only times and random choices differ.
        """
        block = the_block("python", "Simulator() as")
        assert len([line for line in block.splitlines() if line.strip()]) == 8
        (shown,) = blocks("text")
        printed = run(block, OPENAI_BASE_URL="", OPENAI_API_KEY="")
        # In a busy process requests are cut differently, and a late one may be sent twice.
        varying = r"in \d+\.\d+ s: .*"
        assert re.sub(varying, "", printed) == re.sub(varying, "", shown)
        assert re.search(r"in \d+\.\d+ s: \d+ requests, \d+ retries \(\d+ throttled\)", shown)

    def test_supabase(self, run: Callable[..., str]) -> None:
        """The Supabase block runs with the real client, a stand-in server and a real PostgreSQL."""
        if missing := missing_packages("supabase"):
            pytest.skip(f"needs {' and '.join(missing)}: pip install -e '.[stores]'")
        block = the_block("python", "Supabase")
        search = 'print(store.similarity_search("page 17", k=1)[0].page_content)'
        with Places() as places:
            printed = run(GIVEN + CLIENT + block + search, **places.fresh("supabase"))
        assert printed == "page 17\n"

    def test_sqlite(self, run: Callable[..., str]) -> None:
        """The SQLite block runs with a `sqlite3` that loads extensions."""
        if importlib.util.find_spec("sqlite_vec") is None:
            pytest.skip("needs sqlite_vec: pip install -e '.[demo]'")
        # The substitution has to come first in a process, as it does in README's block.
        block = the_block("python", "SQLiteVec")
        begin, end = block.split("from langchain_community", 1)
        search = 'print(store.similarity_search("a dog", k=1)[0].page_content)'
        assert run(f"{begin}\n{GIVEN}\nfrom langchain_community{end}{search}") == "a dog\n"

    def test_half_price(self, run: Callable[..., str]) -> None:
        """The batch job delivers every vector, and a later call for them sends nothing."""
        block = the_block("python", "submit")
        after = """
assert len(embeddings.embed_documents(texts)) == len(texts)
print(job.status, embeddings.last_report.requests)
"""
        assert run(GIVEN + block + after) == "300 texts: 300 finished 0\n"

    def test_beyond_embed_documents(self, run: Callable[..., str]) -> None:
        """The block with plan, prefetch, index and ingest stores every document."""
        block = the_block("python", "prefetch")
        printed = run(f"{GIVEN}{block}\nprint(report.stored, len(report.failures))")
        assert printed.startswith("300 texts (300 unique): ")
        assert printed.endswith("\n300 0\n")

    def test_partial_errors(self, run: Callable[..., str]) -> None:
        """The refused text is corrected, and the second call pays only for it."""
        block = the_block("python", "Partial")
        after = "print(len(vectors), embeddings.last_report.from_journal)"
        printed = run(f"{GIVEN}{POISONED}{block}\n{after}")
        assert "1 failed" in printed
        assert printed.endswith("\n300 299\n")


class TestCommands:
    """Each command is printed in a form that works."""

    def test_every_command_is_checked(self) -> None:
        """Every shell line is an installation, the venv command or a command of this package."""
        lines = [line for block in blocks("sh") for line in block.splitlines()]
        checked = re.compile(r'pip install "\.\[|python3 -m venv |python -m langchain_batch_embed ')
        assert [line for line in lines if not checked.match(line)] == []

    def test_installations_name_extras_that_exist(self) -> None:
        """Every extra that an installation names is in pyproject.toml."""
        project = tomllib.loads((FOLDER / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        named = set(re.findall(r'\.\[([a-z,]+)\]"', README))
        assert {"demo", "test"} <= named <= set(project["optional-dependencies"])

    def test_the_command_that_ci_runs(self) -> None:
        """README contains the line that `.ci/run` copies."""
        assert (
            'python3 -m venv .venv && .venv/bin/pip install -q -e ".[test]" '
            "&& .venv/bin/python -m pytest -q -n 2\n"
        ) in README

    @pytest.mark.parametrize("command", ["demo", "plan", "simulate"])
    def test_our_commands_take_what_is_passed(self, command: str, run: Callable[..., str]) -> None:
        """Every flag that README mentions is in the command's help."""
        program = (
            "import sys; from langchain_batch_embed import __main__ as m; m.main(sys.argv[1:])"
        )
        helped = run(program.replace("sys.argv[1:]", f"[{command!r}, '--help']"))
        lines = re.findall(rf"langchain_batch_embed {command}(.*)", README)
        assert lines
        flags = {flag for line in lines for flag in re.findall(r"--[a-z]+", line)}
        assert {flag for flag in flags if flag not in helped} == set()


class TestOptions:
    """The table of options agrees with the class."""

    def test_every_option_is_in_the_table(self) -> None:
        """The table lists exactly the options of the class."""
        named = [cells[0].strip("`") for cells in rows("Options")]
        assert sorted(named) == sorted(OPTIONS)

    def test_defaults_are_those_of_the_class(self) -> None:
        """The defaults in the table are those of the class, and the limits those of OpenAI."""
        limits = limits_of(OpenAIEmbeddings(api_key="sk-test"))  # type: ignore[arg-type]
        for name, _, default in rows("Options"):
            option = name.strip("`")
            value = OPTIONS[option]
            if value is None and option in Limits.__dataclass_fields__:
                assert default == f"{getattr(limits, option):,}", option
            else:
                shown = f'"{value}"' if isinstance(value, str) else repr(value)
                assert default.partition(":")[0] == f"`{shown}`", option

    def test_other_names_exist(self) -> None:
        """Every name in the table below "Beyond embed_documents" exists."""
        for names, _ in rows("Beyond embed_documents"):
            for name in re.findall(r"`(?:\w+\.)?(\w+)", names):
                assert hasattr(BatchEmbeddings, name) or name in ("stats", "prune"), name


class TestPage:
    """README is short, and its links work."""

    def test_is_short(self) -> None:
        """README has at most `MOST_WORDS` words."""
        assert len(README.split()) <= MOST_WORDS

    @pytest.mark.parametrize("page", PAGES)
    def test_links_lead_somewhere(self, page: str) -> None:
        """Every relative link leads to a file."""
        text = (FOLDER / page).read_text(encoding="utf-8")
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            if not target.startswith("https://"):
                assert ((FOLDER / page).parent / target.partition("#")[0]).exists(), target

    @pytest.mark.parametrize("page", PAGES)
    def test_names_no_machine(self, page: str) -> None:
        """No page contains a path of the machine on which it was written."""
        text = (FOLDER / page).read_text(encoding="utf-8")
        assert not re.search(r"(?<![\w.])/(?:home|root|tmp|Users|work)/", text)

    def test_the_picture_is_of_the_table_below_it(self) -> None:
        """The picture is drawn from the present figures.

        After a change of the figures, `python -m tests.benchmarks.draw` draws it again.
        """
        text = draw.SOURCE.read_text(encoding="utf-8")
        assert draw.TARGET.read_text(encoding="utf-8") == draw.draw(draw.bars(text))


class TestContributing:
    """What CONTRIBUTING tells a newcomer about the code is true."""

    TEXT = (FOLDER / "CONTRIBUTING.md").read_text(encoding="utf-8")
    PACKAGE = FOLDER / "langchain_batch_embed"

    def section(self, heading: str) -> Iterator[list[str]]:
        """Yield the cells of each row of a section's table, without its header."""
        section = self.TEXT.split(f"\n## {heading}\n")[1].split("\n## ")[0]
        table = [line for line in section.splitlines() if line.startswith("| ")]
        for line in table[1:]:
            yield [cell.strip() for cell in line.strip("|").split(" | ")]

    def test_the_rooms_are_drawn_as_they_are_held(self) -> None:
        """The table of rooms has the same lines as `ROOMS`."""
        drawn = [set(re.findall(r"`(\w+)`", rooms)) for rooms, _ in self.section("The rooms")]
        assert drawn == ROOMS

    def test_everything_is_decided_where_it_says(self) -> None:
        """Each file in "Where is it decided?" exists and has the functions that are named."""
        for _, files, functions in self.section("Where is it decided?"):
            paths = re.findall(r"`([\w/.]+)`", files)
            texts = [(self.PACKAGE / path).read_text(encoding="utf-8") for path in paths]
            for name in re.findall(r"`([\w.]+)`", functions):
                owner, _, method = name.rpartition(".")
                assert any(
                    re.search(rf"^class {owner}\b" if owner else "", text, re.MULTILINE)
                    and re.search(rf"\b(?:class|def) {method}\b", text)
                    for text in texts
                ), name

    def test_names_of_steps_exist(self) -> None:
        """The tables to which a new provider is added exist."""
        limits = (self.PACKAGE / "limits.py").read_text(encoding="utf-8")
        copies = (self.PACKAGE / "providers/copies.py").read_text(encoding="utf-8")
        assert "_BY_CLASS: " in limits or "_BY_CLASS = " in limits
        assert "_BY_MODEL: " in limits or "_BY_MODEL = " in limits
        assert "_NO_RETRIES: " in copies or "_NO_RETRIES = " in copies

    def test_the_locks_whose_order_is_told_exist(self) -> None:
        """The locks whose order is described exist under their names in the classes."""
        code = "\n".join(path.read_text(encoding="utf-8") for path in self.PACKAGE.rglob("*.py"))
        told = self.TEXT.split("\n## The order of the locks\n")[1].split("\n## ")[0]
        names = re.findall(r"\b(?:\w+\.)?_\w+\b|\btouching\b|`\w+\.lock`", told)
        assert len(names) > 5
        for name in names:
            owner, _, lock = name.strip("`").rpartition(".")
            made = rf"\b{lock} = threading\.(?:R?Lock|Condition)\("
            body = rf"^class {owner}\b(?:(?!^class )[\s\S])*?\bself\." if owner else "^"
            assert re.search(body + made, code, re.MULTILINE), name
