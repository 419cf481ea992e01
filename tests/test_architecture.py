"""The house rules that no linter knows: layers, sizes, names, abstract or final."""

import ast
import importlib
import inspect
import pkgutil
from abc import ABC
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from importlinter.cli import lint_imports

import engine

ROOT = Path(__file__).parents[1]
PACKAGES = ("app", "engine", "storage")
SOURCES = sorted(file for package in PACKAGES for file in (ROOT / package).rglob("*.py"))
MOST_LINES = 40
VAGUE = {"utils.py", "util.py", "helpers.py", "common.py", "misc.py"}

Function = ast.FunctionDef | ast.AsyncFunctionDef


def name_of(file: Path) -> str:
    return str(file.relative_to(ROOT))


def functions(file: Path) -> Iterator[Function]:
    yield from (node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, Function))


def body_lines(function: Function) -> int:
    """Lines of a function without its signature and its docstring."""
    rest = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return (rest[-1].end_lineno or 0) - rest[0].lineno + 1 if rest else 0


def modules() -> Iterator[ModuleType]:
    """Every module of the engine, imported."""
    for found in pkgutil.walk_packages(engine.__path__, "engine."):
        yield importlib.import_module(found.name)


def our_classes() -> Iterator[type]:
    for module in modules():
        for value in vars(module).values():
            if inspect.isclass(value) and value.__module__ == module.__name__:
                yield value


def test_imports_run_one_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert lint_imports(config_filename="pyproject.toml", no_cache=True, no_logo=True) == 0


def test_storage_takes_only_numbers_and_errors_from_the_engine() -> None:
    allowed = {"engine.front", "engine.errors"}
    taken = {
        node.module
        for file in (ROOT / "storage").rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "engine"
    }
    assert taken <= allowed


@pytest.mark.parametrize("file", SOURCES, ids=name_of)
def test_no_file_has_a_name_that_says_nothing(file: Path) -> None:
    assert file.name not in VAGUE


@pytest.mark.parametrize("file", SOURCES, ids=name_of)
def test_functions_are_short(file: Path) -> None:
    assert {f.name: n for f in functions(file) if (n := body_lines(f)) > MOST_LINES} == {}


def test_the_length_of_a_function_is_that_of_its_body() -> None:
    text = 'def f(\n    x: int,\n) -> int:\n    """Says\n    much."""\n    y = x\n\n    return y\n'
    function = ast.parse(text).body[0]
    assert isinstance(function, ast.FunctionDef)
    assert body_lines(function) == 3


@pytest.mark.parametrize("file", SOURCES, ids=name_of)
def test_no_print_and_no_assert(file: Path) -> None:
    nodes = list(ast.walk(ast.parse(file.read_text())))
    called = [n.func.id for n in nodes if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)]
    assert "print" not in called
    assert not any(isinstance(node, ast.Assert) for node in nodes)


@pytest.mark.slow
def test_what_implements_a_contract_is_abstract_or_final() -> None:
    implementing = [found for found in our_classes() if issubclass(found, ABC)]
    assert len(implementing) > 10
    unclear = [found for found in implementing if not inspect.isabstract(found) and not is_final(found)]
    assert unclear == []
    assert [found for found in implementing if any(is_final(base) for base in found.__mro__[1:])] == []


def is_final(found: type) -> bool:
    return "__final__" in vars(found)


def test_every_public_function_and_class_of_the_engine_has_a_docstring() -> None:
    public = [
        value
        for module in modules()
        for name, value in vars(module).items()
        if not name.startswith("_")
        and (inspect.isclass(value) or inspect.isfunction(value))
        and value.__module__ == module.__name__
    ]
    assert len(public) > 50
    assert [f"{value.__module__}.{value.__qualname__}" for value in public if not value.__doc__] == []
