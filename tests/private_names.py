"""Find the private names of Textual that ``mlxtune/tui`` imports, uses, or overrides."""

import ast
import importlib
import inspect
import pkgutil
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import mlxtune.tui

PACKAGE = Path(mlxtune.__file__).parent
# Textual documents these as the way to declare styles and handlers.
METACLASS = {"_css_type_name", "_css_type_names", "_merged_bindings", "_reactives", "_computes", "_decorated_handlers",
             "_default_focused",  # of the reactive attribute that Room defines again
             "_inherit_css", "_inherit_bindings", "_inherit_component_classes", "_abc_impl"}  # fmt: skip


def touched() -> set[str]:
    """Return every private name of Textual that the app touches."""
    own = [_parse(path) for path in (PACKAGE / "tui").rglob("*.py")]
    unknown = {name for tree in own for name in _used(tree)} - {name for tree in own for name in _defined(tree)}
    for path in PACKAGE.rglob("*.py"):
        if any(name in path.read_text(encoding="utf-8") for name in unknown):  # parsing every file would take seconds
            unknown -= {*_defined(_parse(path))}
    return unknown | {name for kind in _app_classes() for name in _overridden(kind)}


@cache
def _parse(path: Path) -> ast.AST:
    return ast.parse(path.read_text(encoding="utf-8"))


def _is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def _defined(tree: ast.AST) -> Iterator[str]:
    """Yield the names that a module defines itself."""
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield name
            case ast.Name(id=name, ctx=ast.Store()) | ast.arg(arg=name):
                yield name
    yield from _assigned(tree)


def _assigned(tree: ast.AST) -> Iterator[str]:
    """Yield the attributes that are assigned on ``self``."""
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Name(id="self"), attr=name, ctx=ast.Store()):
                yield name


def _used(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Name(id="os")):
                continue  # os._exit
            case ast.Attribute(attr=name) if _is_private(name):
                yield name
            case ast.ImportFrom(module=str(module), names=names) if module.startswith("textual"):
                yield from (one.name for one in names if "._" in module or _is_private(one.name))


def _app_classes() -> Iterator[type]:
    """Yield the app's classes that extend one of Textual's."""
    for info in pkgutil.walk_packages(mlxtune.tui.__path__, "mlxtune.tui."):
        module = importlib.import_module(info.name)
        for kind in vars(module).values():
            if inspect.isclass(kind) and kind.__module__ == info.name and any(map(_is_textual, kind.__mro__)):
                yield kind


def _is_textual(kind: type) -> bool:
    return kind.__module__.split(".")[0] == "textual"


def _overridden(kind: type) -> set[str]:
    """Return the private names that a class and one of its bases in Textual both define."""
    bases = {name for base in kind.__mro__ if _is_textual(base) for name in _members(base)}
    return {name for name in _members(kind) & bases if _is_private(name)} - METACLASS


def _members(kind: type) -> set[str]:
    return {*vars(kind), *_attributes(sys.modules[kind.__module__].__file__ or "").get(kind.__name__, ())}


@cache
def _attributes(path: str) -> dict[str, set[str]]:
    """Return the attributes that each class of a file assigns on ``self``."""
    return {node.name: set(_assigned(node)) for node in ast.walk(_parse(Path(path))) if isinstance(node, ast.ClassDef)}
