"""The stages of a long command, live and as lines."""

from __future__ import annotations

import time

import pytest
from rich.console import Console

from mlxtune.cli import output
from mlxtune.cli.output import progress_bar
from mlxtune.cli.stages import Stage, Stages, sparkline, stages


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The clock, in seconds."""
    clock = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    return clock


def panel_text(panel: Stages) -> str:
    console = Console(width=80, theme=output._THEME)
    with console.capture() as capture:
        console.print(panel)
    return capture.get()


def test_the_panel_shows_results_the_current_stage_and_the_time_left(now: list[float]) -> None:
    panel = Stages([Stage("Baseline", 40), Stage("Train", 40), Stage("Evaluate", 20)], live=True)
    panel.begin("the base model")
    now[0] += 60
    assert panel.seconds_left is None
    panel.end("base 50.0%")
    panel.begin()
    now[0] += 30
    panel.losses[:] = [3.0, 2.0, 1.0]
    panel.update("step 3 of 6", 0.5)
    assert panel.seconds_left == pytest.approx(60)
    rows = [line.split() for line in panel_text(panel).splitlines() if line.strip()]
    assert rows[0] == ["✓", "1", "Baseline", "1:00", "base", "50.0%"]
    assert rows[1] == ["▸", "2", "Train", "0:30", "step", "3", "of", "6"]
    assert rows[2] == ["·", "3", "Evaluate"]
    assert rows[3][1:] == ["about", "60", "s", "left", "█▅▁"]


def test_the_time_left_is_unknown_if_the_duration_of_a_stage_is(now: list[float]) -> None:
    panel = Stages([Stage("Train", 40), Stage("Train on pairs", None)], live=True)
    panel.begin()
    now[0] += 60
    panel.end("done")
    assert panel.seconds_left is None


def test_elsewhere_a_line_is_printed_every_ten_seconds(now: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with stages([("Train", 1.0)]) as panel:
        panel.begin("support-json")
        with progress_bar("loading") as update:
            for step in range(30):
                update(f"step {step}", step / 30)
                now[0] += 1
        panel.end("done")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("1  Train ─")
    assert lines[1:] == ["· step 0", "· step 10", "· step 20", "  ✓ done", ""]


def test_a_sparkline_spans_the_values_and_keeps_the_last_ones() -> None:
    assert sparkline([0.0, 1.0]) == "▁█"
    assert sparkline([2.0, 2.0]) == "▄▄"
    assert sparkline([]) == ""
    assert len(sparkline([float(value) for value in range(100)])) == 32
