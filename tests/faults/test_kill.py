"""SIGKILL or a full disk at any file operation of a run: the run resumes and ends bit-identical."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from exhaustive import EXHAUSTIVE

pytestmark = pytest.mark.slow

DRIVER = Path(__file__).with_name("driver.py")
STRIDE = 1 if EXHAUSTIVE else 8  # `make test` tries every eighth fault, .ci/run all of them


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Run all cases, split across the cores."""
    shares = min(4, os.cpu_count() or 1)
    folder = tmp_path_factory.mktemp("faults")
    drivers = [
        subprocess.Popen(
            [sys.executable, DRIVER, folder / str(share), str(share), str(shares * STRIDE)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for share in range(shares)
    ]
    outputs = [driver.communicate() for driver in drivers]
    assert all(driver.returncode == 0 for driver in drivers), b"".join(error for _, error in outputs).decode()[-3000:]
    return [json.loads(out) for out, _ in outputs]


def test_children_can_be_new_processes(tmp_path: Path) -> None:
    """As on macOS, where a process that has imported MLX cannot be forked."""
    command = [sys.executable, DRIVER, tmp_path, "40", "1000"]
    driver = subprocess.run(command, env=os.environ | {"MLXTUNE_SPAWN_FAULTS": "1"}, capture_output=True, check=True)
    report = json.loads(driver.stdout)
    assert report["killed"] + report["full"] >= 1
    assert report["wrong"] == []


def test_killed_run_resumes_bit_identically(reports: list[dict[str, Any]]) -> None:
    points, seconds = sum(report["killed"] for report in reports), max(report["seconds"] for report in reports)
    print(f"{points} kill points in {seconds:.0f} s")
    assert points >= 200 // STRIDE
    assert not [wrong for report in reports for wrong in report["wrong"] if not wrong.startswith("full")]


def test_disk_full_is_reported_and_run_resumes_bit_identically(reports: list[dict[str, Any]]) -> None:
    assert sum(report["full"] for report in reports) >= 30 // STRIDE
    assert not [wrong for report in reports for wrong in report["wrong"] if wrong.startswith("full")]
