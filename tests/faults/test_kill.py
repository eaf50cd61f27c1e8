"""SIGKILL or a full disk at any file operation of a run, a search, or a generation: it resumes and ends as if undisturbed."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from exhaustive import EXHAUSTIVE, cases

pytestmark = pytest.mark.slow

DRIVER = Path(__file__).with_name("driver.py")
STRIDES = {"training": 1 if EXHAUSTIVE else 12, "generation": 2, "search": 16}  # one of so many faults is tried


@pytest.fixture(scope="module", params=cases(STRIDES, "training"))
def reports(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Run all cases of a scenario, split across the cores."""
    scenario, shares = request.param, min(4, os.cpu_count() or 1)
    stride = STRIDES[scenario]
    folder = tmp_path_factory.mktemp("faults")
    drivers = [
        subprocess.Popen(
            [sys.executable, DRIVER, scenario, folder / str(share), str(share), str(shares * stride)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for share in range(shares)
    ]
    outputs = [driver.communicate() for driver in drivers]
    assert all(driver.returncode == 0 for driver in drivers), b"".join(error for _, error in outputs).decode()[-3000:]
    return [json.loads(out) | {"stride": stride} for out, _ in outputs]


@pytest.mark.exhaustive
def test_children_can_be_new_processes(tmp_path):
    """As on macOS, where a process that has imported MLX cannot be forked."""
    command = [sys.executable, DRIVER, "training", tmp_path, "40", "1000"]
    driver = subprocess.run(command, env=os.environ | {"MLXTUNE_SPAWN_FAULTS": "1"}, capture_output=True, check=True)
    report = json.loads(driver.stdout)
    assert report["killed"] + report["full"] >= 1
    assert report["wrong"] == []


def test_a_killed_run_resumes_and_ends_as_if_undisturbed(reports):
    points, operations = sum(report["killed"] for report in reports), reports[0]["operations"]
    print(f"{points} kill points of {operations} operations in {max(report['seconds'] for report in reports):.0f} s")
    assert points >= 0.6 * operations / reports[0]["stride"]
    assert not [wrong for report in reports for wrong in report["wrong"] if not wrong.startswith("full")]


def test_a_full_disk_is_reported_and_the_run_resumes(reports):
    assert not [wrong for report in reports for wrong in report["wrong"] if wrong.startswith("full")]
