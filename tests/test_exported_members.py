"""The exports of `langchain_batch_embed`: everything that a user needs, and nothing else."""

import ast
import dataclasses
import importlib
import inspect
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import langchain_batch_embed
from langchain_batch_embed import BatchEmbeddings, errors

PACKAGE = "langchain_batch_embed"
EXPORTED = {name: getattr(langchain_batch_embed, name) for name in langchain_batch_embed.__all__}

MADE_BY_THE_PACKAGE = {
    "Job": {"cancel", "refresh", "report", "status", "wait"},
    "Prefetch": {"close"},
}
"""Classes that users do not construct themselves, and the members that they use."""


def annotations(name: str, kind: type) -> Iterator[Any]:
    """Yield the annotations of everything that a user passes to a class or gets from it."""
    if dataclasses.is_dataclass(kind):
        yield from typing.get_type_hints(kind).values()
    for member, value in inspect.getmembers(kind):
        if name in MADE_BY_THE_PACKAGE and member not in MADE_BY_THE_PACKAGE[name]:
            continue
        if member.startswith("_") and member != "__init__":
            continue
        function = value.fget if isinstance(value, property) else value
        if inspect.isfunction(function) and function.__module__.startswith(PACKAGE):
            hints = typing.get_type_hints(function)
            yield from (hint for argument, hint in hints.items() if argument[0] != "_")


def classes(annotation: Any) -> Iterator[type]:
    """Yield the classes that an annotation consists of."""
    for part in typing.get_args(annotation):
        yield from classes(part)
    if isinstance(annotation, type):
        yield annotation


@pytest.mark.parametrize(
    "name", sorted(n for n, kind in EXPORTED.items() if isinstance(kind, type))
)
def test_the_classes_of_an_exported_signature_are_exported(name: str) -> None:
    """Every class in the signatures of an exported class is exported, so users can name it."""
    found = {kind for each in annotations(name, EXPORTED[name]) for kind in classes(each)}
    ours = {kind.__name__ for kind in found if kind.__module__.startswith(PACKAGE)}
    assert {kind for kind in ours if not kind.startswith("_")} <= EXPORTED.keys()


def test_the_list_of_exports_is_sorted() -> None:
    """The list of exports is sorted and holds no name twice."""
    assert langchain_batch_embed.__all__ == sorted(set(langchain_batch_embed.__all__))


def test_everything_that_is_imported_is_exported() -> None:
    """Everything that `__init__` imports is exported."""
    tree = ast.parse(Path(langchain_batch_embed.__file__).read_text())
    imported = {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(PACKAGE)
        for alias in node.names
    }
    assert imported == EXPORTED.keys()


def test_every_error_is_exported() -> None:
    """Every error is exported, so that users can catch it by its name."""
    assert set(errors.__all__) <= EXPORTED.keys()


@pytest.mark.parametrize("name", sorted(EXPORTED))
def test_an_export_is_what_its_module_calls_so(name: str) -> None:
    """An export has the name and module that its class states, as pickling requires."""
    kind = EXPORTED[name]
    assert getattr(importlib.import_module(kind.__module__), name) is kind


METHODS = sorted(
    name
    for name, value in inspect.getmembers(BatchEmbeddings)
    if not name.startswith("_") and callable(value)
)


@pytest.mark.parametrize("name", METHODS)
def test_a_method_cannot_be_imported_for_a_function(name: str) -> None:
    """Importing a method as a function raises an error that names the class it belongs to."""
    with pytest.raises(ImportError, match=f"{name} is a method of BatchEmbeddings"):
        exec(f"from {PACKAGE} import {name}")  # noqa: S102  # the statement that a user writes


def test_an_attribute_cannot_be_imported_either() -> None:
    """Importing an attribute such as `last_report` raises an error that names its class."""
    with pytest.raises(ImportError, match="last_report is an attribute of BatchEmbeddings"):
        exec(f"from {PACKAGE} import last_report")  # noqa: S102


def test_a_name_that_does_not_exist_is_an_error_as_usual() -> None:
    """A name that does not exist raises the usual `AttributeError` or `ImportError`."""
    assert not hasattr(langchain_batch_embed, "embed_everything")
    with pytest.raises(ImportError, match="cannot import name"):
        exec(f"from {PACKAGE} import embed_everything")  # noqa: S102


def test_the_names_of_methods_are_no_modules() -> None:
    """No module of the package has the name of a method, or importing it would succeed."""
    modules = {path.stem for path in Path(langchain_batch_embed.__file__).parent.iterdir()}
    assert {"embeddings", "sending"} <= modules
    assert set(METHODS) & (modules | vars(langchain_batch_embed).keys()) == set()
