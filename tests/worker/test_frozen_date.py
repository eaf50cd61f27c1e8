"""A run on a base whose template prints the date: stopped, resumed two days later, and evaluated a week later."""

import datetime as datetimes
import json
import time
from collections.abc import Mapping
from typing import Any

import pytest
from in_process_workers import stopping
from tiny_model import CHATML, make_tiny
from transformers.utils import chat_template_utils

from mlxtune.adapters import library
from mlxtune.core.errors import Interrupted
from mlxtune.core.files import write_json
from mlxtune.core.hashing import sha256_file
from mlxtune.data.rows import Message
from mlxtune.evaluation import report
from mlxtune.evaluation import worker as evaluation_worker
from mlxtune.models.resolve import resolve
from mlxtune.models.template import TemplateSettings, load_template
from mlxtune.present.blocks import Fact
from mlxtune.present.report import evaluation_facts
from mlxtune.recipe import load
from mlxtune.runs import launch, registry
from mlxtune.runs.registry import Run
from mlxtune.runs.worker import Worker
from mlxtune.training import worker as training_worker
from mlxtune.training.worker import recipe_hash
from mlxtune.workspace import control

DATED = "{{ strftime_now('%d %b %Y') }}\n" + CHATML
FIRST_DAY = datetimes.datetime(2026, 11, 26, 23, 50)
STOP_AT = 3  # optimizer steps


class Clock:
    """The clock of templates, run folders and launches, ``days`` after the first one."""

    days = 0

    @classmethod
    def now(cls) -> datetimes.datetime:
        return FIRST_DAY + datetimes.timedelta(days=cls.days)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> type[Clock]:
    real = time.strftime
    monkeypatch.setattr(Clock, "days", 0)
    monkeypatch.setattr(chat_template_utils, "datetime", Clock)
    monkeypatch.setattr(time, "strftime", lambda format, *at: real(format, *at) if at else Clock.now().strftime(format))
    return Clock


@pytest.fixture
def stop_early(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Run workers in this process. If the list is not empty, a training run is stopped at step ``STOP_AT``."""
    stops: list[bool] = []

    def spawn(run: Run, kind: str, request: Mapping[str, Any]) -> Run:
        write_json(run.folder / registry.LAUNCH_FILE, {"kind": kind, "request": dict(request)})
        worker = Worker(run.folder)
        emit = worker.emit
        if stops:
            stopping(worker, STOP_AT)
        try:
            work: Any = training_worker.lead if kind == "train" else evaluation_worker.evaluate
            emit("run.finished", summary=dict(work(worker)))
        except Interrupted as stop:
            emit("run.stopped", step=stop.step, reason=stop.reason)
        return run

    monkeypatch.setattr(launch, "_spawn", spawn)
    return stops


@pytest.mark.slow
def test_a_run_can_be_resumed_and_evaluated_on_another_day(workspace, tmp_path, clock, stop_early):
    model = make_tiny(tmp_path / "dated", template=DATED)
    recipe = load(
        workspace / "recipes" / "tiny.toml",
        [f"model.base={model}", "training.epochs=1", 'evaluation.regression=""', 'evaluation.arms=["base", "tuned"]'],
    )
    whole = launch.start(workspace, "train", recipe)
    stop_early.append(True)
    run = launch.start(workspace, "train", recipe)
    assert (run.state().phase, run.state().step, run.recipe().data.date) == ("stopped", STOP_AT, "2026-11-26")
    first = control.evaluate(workspace, whole.recipe(), whole)

    clock.days, stop_early[:] = 2, []
    template = load_template(resolve(str(model)), TemplateSettings())
    assert template.render([Message("user", "?")], (), generation_prompt=True).startswith("28 Nov 2026")
    launch.resume(run)
    assert run.state().phase == "finished"
    assert sha256_file(run.adapter / "adapters.safetensors") == sha256_file(whole.adapter / "adapters.safetensors")
    assert json.loads((run.adapter / "mlxtune.json").read_text())["date"] == "2026-11-26"
    assert library.find(workspace, run.id).date == "2026-11-26"
    assert recipe_hash(run.recipe(), dated=True) == library.find(workspace, run.id).recipe_hash

    clock.days = 9
    later = control.evaluate(workspace, run.recipe(), run)
    results = [report.load(evaluation.folder) for evaluation in (first, later)]
    assert [arm.cached for arm in results[0].arms] == [False] * 4
    assert [arm.cached for arm in results[1].arms] == [True, False, False, True]
    assert [arm.rates for arm in results[0].arms] == [arm.rates for arm in results[1].arms]
    assert Fact("date", "2026-11-26 in the prompts") in evaluation_facts(results[1]).facts
    assert (first.folder / "outputs.jsonl").read_bytes() == (later.folder / "outputs.jsonl").read_bytes()
    other = control.evaluate(workspace, load(run.folder / "recipe.toml", ["data.date=2026-12-05"]), run)
    assert not any(arm.cached for arm in report.load(other.folder).arms)


def test_a_recipe_has_one_hash_on_all_days_unless_its_prompts_contain_the_date(workspace, tmp_path):
    file = workspace / "recipes" / "tiny.toml"
    template = tmp_path / "own.jinja"
    template.write_text(CHATML)
    today, later = (load(file, [f"data.date={date}"]) for date in ("2026-11-26", "2026-11-27"))
    assert recipe_hash(today, dated=False) == recipe_hash(later, dated=False) == recipe_hash(load(file), dated=False)
    assert recipe_hash(today, dated=True) != recipe_hash(later, dated=True)
    assert recipe_hash(load(file, [f"model.template={template}"]), dated=False) != recipe_hash(load(file), dated=False)
