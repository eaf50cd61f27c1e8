"""Kill -9, and a full disk, at every file operation of a run: whatever happens when, the run resumes and ends in the same bytes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

DRIVER = Path(__file__).with_name("driver.py")


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """All cases, a share of them on each core."""
    shares = min(4, os.cpu_count() or 1)
    folder = tmp_path_factory.mktemp("faults")
    drivers = [
        subprocess.Popen(
            [sys.executable, DRIVER, folder / str(share), str(share), str(shares)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        for share in range(shares)
    ]
    told = [driver.communicate() for driver in drivers]
    assert all(driver.returncode == 0 for driver in drivers), b"".join(error for _, error in told).decode()[-3000:]
    return [json.loads(out) for out, _ in told]


def test_a_run_killed_at_any_file_operation_resumes_bit_for_bit(reports: list[dict[str, Any]]) -> None:
    points, seconds = sum(report["killed"] for report in reports), max(report["seconds"] for report in reports)
    print(f"{points} kill points in {seconds:.0f} s")
    assert points >= 200
    assert not [wrong for report in reports for wrong in report["wrong"] if not wrong.startswith("full")]


def test_a_disk_that_fills_up_at_any_write_is_told_and_the_run_resumes_bit_for_bit(reports: list[dict[str, Any]]) -> None:
    assert sum(report["full"] for report in reports) >= 30
    assert not [wrong for report in reports for wrong in report["wrong"] if wrong.startswith("full")]
