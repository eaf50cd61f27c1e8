from pathlib import Path

import pytest


@pytest.fixture
def evaluation(tmp_path: Path) -> Path:
    """The empty folder of an evaluation."""
    folder = tmp_path / "evals" / "20261124-1412-shop"
    folder.mkdir(parents=True)
    return folder
