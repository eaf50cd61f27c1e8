import time
from pathlib import Path
from typing import get_args

import pytest
from typer.testing import CliRunner

from mlxtune.cli import demo
from mlxtune.cli.main import app
from mlxtune.cli.output import progress_bar
from mlxtune.core.errors import GateError
from mlxtune.data import samples
from mlxtune.data.source import read_source
from mlxtune.data.split import sample_rows, split
from mlxtune.recipe import load
from mlxtune.recipe.schema import ArmName
from mlxtune.runs.registry import Run

RECIPE: Path = samples.samples_root() / samples.RECIPE


@pytest.mark.parametrize(("overrides", "arms"), [([], ["base", "strongest", "tuned"]), (['evaluation.arms=["base"]'], ["base"])])
def test_only_the_strongest_untrained_arm_is_evaluated(overrides, arms):
    assert demo.with_demo_arms(load(RECIPE, overrides), full=False).evaluation.arms == arms


def test_the_full_demo_evaluates_every_arm():
    evaluation = demo.with_demo_arms(load(RECIPE), full=True).evaluation
    assert {*evaluation.arms, "strongest"} == {*get_args(ArmName)}
    assert evaluation.extras


@pytest.mark.parametrize("overrides", [[], ["evaluation.correct=[]"]])
def test_an_answer_is_shown_with_what_is_wrong(overrides: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    recipe = load(RECIPE, overrides)
    row = sample_rows(split(read_source(recipe.source), recipe.data).prompts, 1)[0]
    demo.show_answer(recipe, row, "base", "Yes.")
    assert "✗" in capsys.readouterr().err
    demo.show_answer(recipe, row, "tuned", row.reference or "")
    assert "✓ passes" in capsys.readouterr().err


def test_progress_outside_a_terminal_is_a_line_every_ten_seconds(monkeypatch, capsys):
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with progress_bar("loading") as update:
        for step in range(30):
            update(f"step {step}", step / 30)
            now[0] += 1
    assert capsys.readouterr().err.splitlines() == ["· step 0", "· step 10", "· step 20"]


@pytest.mark.parametrize(
    ("options", "asked"), [(["--full"], [("gemma-3-270m", "base", "tuned")]), ([], []), (["--full", "--json"], [])]
)
def test_only_the_full_demo_asks_a_judge_whose_unreliability_is_a_result(monkeypatch, tmp_path, options, asked):
    seen = []

    def judge(*, local: str, first: str, second: str, **others: object) -> None:
        seen.append((local, first, second))
        raise GateError("The judge is unreliable.")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo, "judge", judge)
    monkeypatch.setattr(demo, "_run_workflow", lambda *_, seeds: (Run(tmp_path / "runs" / "r"), tmp_path / "evals" / "e"))
    monkeypatch.setattr(demo.reports, "load", lambda folder: {})
    monkeypatch.setattr(demo, "show_report", lambda *_: None)
    result = CliRunner().invoke(app, ["demo", str(tmp_path / "demo"), *options])
    assert (result.exit_code, seen) == (0, asked), result.output
