"""The ``mlxtune bench`` command: the structure of its output, not the values."""

from __future__ import annotations

import json
import math

NAMES = [
    "matmul float32", "matmul bfloat16", "matmul 4-bit", "attention", "generation", "training", "training memory", "disk write", "disk sync",
]  # fmt: skip


def test_json_has_the_machine_and_every_measurement(cli) -> None:
    result = cli("bench", "--quick", "--json")
    report = json.loads(result.out)
    assert (result.code, report["v"]) == (0, 1)
    assert [item["name"] for item in report["measurements"]] == NAMES
    for item in report["measurements"]:
        assert math.isfinite(item["value"])
        assert item["value"] > 0
        assert item["unit"]
        assert item["detail"]
    assert report["cores"] >= 1
    assert report["memory"]["total"] >= report["limit"] > 0
    assert report["versions"]["mlx"]


def test_the_table_ends_with_a_block_for_a_bug_report(cli) -> None:
    result = cli("bench", "--quick")
    assert result.code == 0
    table, block, _ = result.out.split("```")
    for name in NAMES:
        assert name in table
        assert f"\n{name} " in block
    assert "mlx-lm" in block
    assert "benchmarking" in result.err
