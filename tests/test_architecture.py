"""The rules of the house: imports only go down, and a file is one idea."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = sorted((ROOT / "mlxtune").rglob("*.py"))


def test_import_contracts_hold():
    code = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"Contracts: [4-9] kept, 0 broken", done.stdout)


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_file_is_no_longer_than_one_idea(file):
    assert len(file.read_text(encoding="utf-8").splitlines()) <= 400


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_file_says_what_it_is_for(file):
    assert file.read_text(encoding="utf-8").startswith('"""')


def test_remote_code_is_never_trusted():
    for file in FILES:
        assert not re.search(r"trust_remote_code\s*[=:]\s*True", file.read_text(encoding="utf-8")), file
