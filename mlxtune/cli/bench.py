"""``bench``: benchmark this machine for the planner and for bug reports."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from mlxtune.cli.options import Json, option
from mlxtune.cli.output import draw, progress_bar, show_json
from mlxtune.core.text import size as size_text
from mlxtune.planning.benchmark import run_benchmark
from mlxtune.present.blocks import Cell, Column, Heading, Table, facts
from mlxtune.present.labels import power_problems


def bench(quick: Annotated[bool, option("--quick", "Only a tiny model, without calibration.")] = False, json: Json = False) -> None:
    """Benchmark this machine: matrix products, attention, generation and training at three sizes, and the disk.

    Once it has run, mlxtune plan can estimate a recipe's training time before its first run. Nothing is sent anywhere.
    """
    with progress_bar("benchmarking") as update:
        report = run_benchmark(Path.cwd(), update, quick=quick)
    if json:
        show_json({"v": 1, **asdict(report)})
        return
    memory = report.memory
    machine = [
        ("system", report.system),
        ("chip", f"{report.chip}, {report.cores} cores"),
        ("backend", report.backend),
        ("memory", f"{size_text(memory.total)}, {size_text(memory.free)} free, {size_text(memory.swapped)} swapped out"),
        ("power", ", ".join(["on battery" if report.power.on_battery else "connected", *power_problems(report.power)])),
        ("limit", f"{size_text(report.limit)} for a run"),
        *((name, version or "not installed") for name, version in report.versions.items()),
    ]
    rows = []
    for item in report.measurements:
        number = f"{item.value:,.0f}" if item.value >= 100 else f"{item.value:.3g}"
        label = f"{item.name}, {item.size}" if item.size else item.name
        rows.append((Cell(label, "muted"), Cell(number, "bold"), Cell(item.unit), Cell(item.detail, "faint")))
    note = "a tiny size, rough results" if quick else "random models and matrices of three sizes"
    columns = (Column(), Column(right=True), Column(), Column())
    draw((Heading("Machine"), facts(machine), Table("Measurements", note, columns, tuple(rows))))
