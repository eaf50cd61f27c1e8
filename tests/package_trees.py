"""The syntax trees of the package's modules, parsed and walked through once per process."""

import ast
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "mlxtune"


@cache
def package_trees() -> dict[Path, ast.Module]:
    return {path: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(PACKAGE.rglob("*.py"))}


@cache
def package_nodes() -> dict[Path, list[ast.AST]]:
    """Return the nodes of each tree: more than a million, which take a second to find."""
    return {path: list(ast.walk(tree)) for path, tree in package_trees().items()}
