"""The command line and the app start without importing heavy modules."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
HEAVY = ("mlx", "mlx_lm", "transformers", "textual", "torch", "numpy")

CODE = """
import sys
sys.argv = ["mlxtune", *sys.argv[2:]]
try:
    {action}
except SystemExit as exit_info:
    assert not exit_info.code, exit_info.code
print("loaded:", *(name for name in {heavy} if name in sys.modules), file=sys.stderr)
"""


def _loaded(action: str, heavy: tuple[str, ...] = HEAVY) -> list[str]:
    result = subprocess.run(
        [sys.executable, "-c", CODE.format(action=action, heavy=heavy), "-", "--help"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=True,
    )
    return result.stderr.split("loaded:")[1].split()


@pytest.mark.parametrize(
    "module",
    [
        "mlxtune.cli.main",
        "mlxtune.runs.registry",
        "mlxtune.runs.launch",
        "mlxtune.evaluation.report",
        "mlxtune.data.split",
        "mlxtune.planning.plan",
        "mlxtune.adapters.library",
        "mlxtune.advice.verdict",
        "mlxtune.models.catalog",
    ],
)
def test_import_is_light(module):
    assert _loaded(f"import {module}") == []


def test_help_is_light():
    assert _loaded("from mlxtune.cli.main import main; main()") == []


def test_the_app_does_not_import_mlx():
    assert _loaded("import mlxtune.tui.app", ("mlx", "mlx_lm", "transformers", "torch")) == []


def test_the_package_runs_as_a_module():
    result = subprocess.run([sys.executable, "-m", "mlxtune", "--version"], capture_output=True, text=True, cwd=ROOT, check=True)
    assert result.stdout.strip()
    assert result.stderr == ""
