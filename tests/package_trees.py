"""The syntax trees of the package's modules, parsed once per process."""

import ast
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "mlxtune"


@cache
def package_trees() -> dict[Path, ast.Module]:
    return {path: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(PACKAGE.rglob("*.py"))}
