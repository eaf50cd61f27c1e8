"""The ``mlxtune bench`` command: the structure of its output, not the values."""

from __future__ import annotations

import math

import pytest

from mlxtune.core.files import home
from mlxtune.planning import benchmark
from mlxtune.planning.machine import this_machine
from mlxtune.planning.speed import FILE, TrainingRate, find_rates

pytestmark = pytest.mark.slow

NAMES = [
    "matmul float32", "matmul bfloat16", "matmul 4-bit", "attention", "generation", "training", "training rate", "training memory",
    "disk write", "disk sync", "swapped out",
]  # fmt: skip


@pytest.mark.exhaustive
def test_json_has_the_machine_and_every_measurement(cli):
    result = cli("bench", "--quick", "--json")
    report = result.json
    assert (result.code, report["v"]) == (0, 1)
    assert [item["name"] for item in report["measurements"]] == NAMES
    for item in report["measurements"]:
        assert math.isfinite(item["value"])
        assert item["value"] > 0 or item["name"] == "swapped out"
        assert item["unit"]
        assert item["detail"]
    assert report["cores"] >= 1
    assert report["memory"]["total"] >= report["limit"] > 0
    assert report["versions"]["mlx"]
    assert not (home() / FILE).exists(), "a quick benchmark calibrates nothing"


def test_the_output_has_the_machine_and_every_measurement(ok):
    result = ok("bench", "--quick")
    for name in (*NAMES, "mlx-lm", "chip"):
        assert f"\n  {name}" in result.out or f"\n{name}" in result.out
    assert "benchmarking" in result.err


def test_a_benchmark_calibrates_the_planner(cli, workspace, rows_in_process, monkeypatch):
    """A child process that measures nothing stands in for the benchmark."""

    class Child:
        def __init__(self, *_: object, **__: object) -> None: ...

        def __enter__(self) -> Child:
            return self

        def __exit__(self, *_: object) -> None: ...

        def call(self, *_: object) -> list[list[object]]:
            return [
                ["training rate", size, 50.0, "GFLOP/s", "", parameters] for size, parameters in (("mini", 10**6), ("small", 10**7))
            ]

    monkeypatch.setenv("MLXTUNE_HOME", str(workspace / "home"))
    with monkeypatch.context() as patch:
        patch.setattr(benchmark, "ChildProcess", Child)
        assert cli("bench", "--json").code == 0
    assert find_rates(this_machine()) == (TrainingRate(10**6, 5e10), TrainingRate(10**7, 5e10))
    recipe = str(workspace / "recipes" / "tiny.toml")
    cost = cli("plan", recipe, "--json").json["cost"]
    assert cost["source"] == "bench"
    assert cost["seconds"] > 0
    assert "from mlxtune bench" in cli("plan", recipe).out
