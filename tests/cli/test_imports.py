"""The command line and the app start without importing heavy modules."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
HEAVY = ("mlx", "mlx_lm", "transformers", "textual", "torch", "numpy")

MLX = ("mlx", "mlx_lm", "transformers", "torch")

CODE = """
import sys
sys.argv = ["mlxtune", *sys.argv[2:]]
try:
    {action}
except SystemExit as exit_info:
    assert not exit_info.code, exit_info.code
print("loaded:", *(name for name in {heavy} if name in sys.modules), file=sys.stderr)
"""


def _loaded(action: str, heavy: tuple[str, ...]) -> list[str]:
    command = [sys.executable, "-c", CODE.format(action=action, heavy=heavy), "-", "--help"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    return result.stderr.split("loaded:")[1].split()


def test_import_is_light():
    modules = (
        "mlxtune.cli.main, mlxtune.runs.registry, mlxtune.runs.launch, mlxtune.evaluation.report, mlxtune.data.split, "
        "mlxtune.planning.plan, mlxtune.adapters.library, mlxtune.advice.verdict, mlxtune.models.catalog"
    )
    assert _loaded(f"import {modules}", HEAVY) == []


def test_the_app_and_the_clients_do_not_import_mlx():
    """Reports, scorers, and off-task prompts would delay the first screen of the app."""
    screen = "import mlxtune.tui.app, mlxtune.tui.rooms.home.screen; assert 'mlxtune.evaluation.report' not in sys.modules"
    clients = "import mlxtune.cli.judge, mlxtune.serving.client, mlxtune.serving.chat_session"
    assert _loaded(f"{screen}; {clients}", MLX) == []


def test_help_is_light():
    assert _loaded("from mlxtune.cli.main import main; main()", HEAVY) == []


def test_the_check_whether_a_model_can_be_trained_does_not_import_mlx():
    action = "from mlxtune.models.families import check_trainable; check_trainable({'model_type': 'qwen3'}, '')"
    assert _loaded(action, MLX) == []
