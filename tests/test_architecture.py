"""Structure of the package: no import cycles, unique names, short functions."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections import defaultdict
from graphlib import TopologicalSorter
from pathlib import Path

import grimp
from package_trees import PACKAGE, package_nodes, package_trees

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tools"))
import mass  # noqa: E402

FILES = sorted(PACKAGE.rglob("*.py"))


def test_no_import_cycles():
    """Imports inside functions count; those under ``TYPE_CHECKING`` do not."""
    graph = grimp.build_graph("mlxtune", exclude_type_checking_imports=True, cache_dir=None)
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    TopologicalSorter(imports).prepare()  # raises CycleError with the modules of a cycle


def test_class_names_are_unique():
    classes = defaultdict(list)
    for path, nodes in package_nodes().items():
        for node in nodes:
            if isinstance(node, ast.ClassDef):
                classes[node.name].append(str(path.relative_to(ROOT)))
    assert {name: paths for name, paths in classes.items() if len(paths) > 1} == {}


def test_module_names_are_unique_within_a_package():
    """The rooms of the app share ``screen``, ``service`` and ``render`` on purpose; within one room names are unique too."""
    modules = defaultdict(list)
    for path in FILES:
        parts = path.relative_to(PACKAGE).parts
        scope = parts[:3] if parts[:2] == ("tui", "rooms") and len(parts) > 3 else parts[:1]
        if len(parts) > 1 and path.name != "__init__.py":
            modules[scope, path.stem].append("/".join(parts))
    assert {paths[0]: paths[1:] for paths in modules.values() if len(paths) > 1} == {}


def test_annotations_are_valid_in_python_3_11():
    """``array[int]`` fails there unless annotations are postponed."""
    for path, nodes in package_nodes().items():
        used = {ast.unparse(node.annotation) for node in nodes if isinstance(node, ast.AnnAssign | ast.arg) and node.annotation}
        postponed = any(isinstance(node, ast.ImportFrom) and node.module == "__future__" for node in nodes)
        assert postponed or not any(text.startswith("array[") for text in used), path


def test_functions_are_short():
    """At most 60 lines and 10 parameters; ``self`` does not count."""
    long = set()
    for path, tree in package_trees().items():
        for name, function in mass.functions(tree):
            if mass.length(function) > mass.LONGEST_FUNCTION or mass.parameters(function) > mass.MOST_PARAMETERS:
                long.add(f"{path.relative_to(PACKAGE)}: {name}")
    assert long == set()


# Private names of Textual that the app touches, each with a test that fails when Textual changes it. At most 6 at the end.
PRIVATE_NAMES = {"Compositor", "StylesCache", "_compositor", "_handle_exception", "_query_one_cache", "_reset_focus"}


def test_no_field_has_a_default_that_python_3_11_refuses():
    """As mutable: whatever has no hash, which read-only mappings have only since 3.12."""
    script = (
        "import dataclasses, importlib, pkgutil, types, mlxtune\n"
        "for found in pkgutil.walk_packages(mlxtune.__path__, 'mlxtune.'):\n"
        "    for name, item in vars(importlib.import_module(found.name)).items() if '__main__' not in found.name else ():\n"
        "        for field in dataclasses.fields(item) if isinstance(item, type) and dataclasses.is_dataclass(item) else ():\n"
        "            assert not isinstance(field.default, types.MappingProxyType), (found.name, name, field.name)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_the_app_touches_few_private_names_of_textual():
    """A private name is imported from a private module, used but defined only by Textual, or overridden in a subclass."""
    code = "import json, private_names; print(json.dumps(sorted(private_names.touched())))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT / "tests", check=True)
    assert set(json.loads(result.stdout)) <= PRIVATE_NAMES


def test_processes_that_compute_load_the_fast_blas_before_mlx():
    modules = []
    for path in FILES:
        source = path.read_text(encoding="utf-8")
        computes = path.name.endswith("worker.py") and re.search(r"import (load|load_model)\n", source)
        if computes and '__name__ == "__main__"' in source:
            assert "blas.preload()" in source, path
        if "    blas.preload()\n" in source:
            modules.append(".".join(path.relative_to(ROOT).with_suffix("").parts))
    assert len(modules) > 8
    code = f"import sys, {', '.join(modules)}; assert 'mlx.core' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_remote_code_is_never_trusted():
    for path in FILES:
        assert not re.search(r"trust_remote_code\s*[=:]\s*True", path.read_text(encoding="utf-8")), path
