"""What `langchain_batch_embed` exports: everything that a user meets, and nothing by mistake."""

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

MADE_BY_THE_PACKAGE = {"Prefetch": {"close"}}
"""Classes that users do not make themselves, and what they call on them."""


def annotations(name: str, kind: type) -> Iterator[Any]:
    """Yield the annotation of everything that a user passes to a class, or gets from it."""
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
    """Yield the classes that an annotation is made of."""
    for part in typing.get_args(annotation):
        yield from classes(part)
    if isinstance(annotation, type):
        yield annotation


@pytest.mark.parametrize(
    "name", sorted(n for n, kind in EXPORTED.items() if isinstance(kind, type))
)
def test_the_classes_of_an_exported_signature_are_exported(name: str) -> None:
    """Who gets an object from the package can name its class."""
    found = {kind for each in annotations(name, EXPORTED[name]) for kind in classes(each)}
    ours = {kind.__name__ for kind in found if kind.__module__.startswith(PACKAGE)}
    assert {kind for kind in ours if not kind.startswith("_")} <= EXPORTED.keys()


def test_the_list_of_exports_is_sorted() -> None:
    """And holds no name twice."""
    assert langchain_batch_embed.__all__ == sorted(set(langchain_batch_embed.__all__))


def test_everything_that_is_imported_is_exported() -> None:
    """A class that `__init__` imports is there for users."""
    tree = ast.parse(Path(langchain_batch_embed.__file__).read_text())
    imported = {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(PACKAGE)
        for alias in node.names
    }
    assert imported == EXPORTED.keys()


def test_every_error_is_exported() -> None:
    """So that users catch it by its name."""
    assert set(errors.__all__) <= EXPORTED.keys()


@pytest.mark.parametrize("name", sorted(EXPORTED))
def test_an_export_is_what_its_module_calls_so(name: str) -> None:
    """Its class says where it is defined, which pickles depend on."""
    kind = EXPORTED[name]
    assert getattr(importlib.import_module(kind.__module__), name) is kind


METHODS = sorted(
    name
    for name, value in inspect.getmembers(BatchEmbeddings)
    if not name.startswith("_") and callable(value)
)


@pytest.mark.parametrize("name", METHODS)
def test_a_method_cannot_be_imported_for_a_function(name: str) -> None:
    """The message says whose method it is."""
    with pytest.raises(ImportError, match=f"{name} is a method of BatchEmbeddings"):
        exec(f"from {PACKAGE} import {name}")  # noqa: S102  # the statement that a user writes


def test_an_attribute_cannot_be_imported_either() -> None:
    """Such as `last_report`."""
    with pytest.raises(ImportError, match="last_report is an attribute of BatchEmbeddings"):
        exec(f"from {PACKAGE} import last_report")  # noqa: S102


def test_a_name_that_does_not_exist_is_an_error_as_usual() -> None:
    """An AttributeError on the module, an ImportError in an import."""
    assert not hasattr(langchain_batch_embed, "embed_everything")
    with pytest.raises(ImportError, match="cannot import name"):
        exec(f"from {PACKAGE} import embed_everything")  # noqa: S102


def test_the_names_of_methods_are_no_modules() -> None:
    """Whatever of the package is imported, no module takes the place of the message."""
    modules = {path.stem for path in Path(langchain_batch_embed.__file__).parent.iterdir()}
    assert {"embeddings", "sending"} <= modules
    assert set(METHODS) & (modules | vars(langchain_batch_embed).keys()) == set()
