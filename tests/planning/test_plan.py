"""Plans for the tiny model: lengths, outcomes, probe."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mlxtune.core.errors import DataError, TemplateError
from mlxtune.core.text import size
from mlxtune.data.source import read_source
from mlxtune.data.split import recipe_splits, sample_rows, split
from mlxtune.models.load import load as load_model
from mlxtune.models.resolve import ModelFolder, resolve
from mlxtune.models.template import ChatTemplate
from mlxtune.planning import calibration, measurements
from mlxtune.planning.cost import make_bill
from mlxtune.planning.machine import Machine, PowerState, this_machine
from mlxtune.planning.plan import Plan, _time_keys, high_rate, local_planner
from mlxtune.present.plan import memory_bars, memory_facts, run_facts, time_fact, verdict_sentence
from mlxtune.recipe import Recipe, load

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("rows_in_process")]


@pytest.fixture(autouse=True)
def own_calibration(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(calibration, "home", lambda: tmp_path / "measured")


@pytest.fixture
def given(workspace: Path) -> Recipe:
    return load(workspace / "recipes" / "tiny.toml")


@pytest.fixture
def base(given: Recipe) -> ModelFolder:
    return resolve(given.model.base, relative_to=given.folder)


def planned(given: Recipe, base: ModelFolder, machine: Machine, *, probe: bool = False, watts: float = 0.0) -> Plan:
    splits = recipe_splits(given)
    planner = local_planner(given, base.folder, base.config, machine, base.fingerprint)
    if probe:
        planner.probe(given)
    return planner.plan(given, splits, watts=watts)


def test_rows_that_the_worker_refuses_are_refused(given: Recipe, workspace: Path) -> None:
    with pytest.raises(DataError, match="prompt fills the window of 8 tokens"):
        measurements.row_lengths(replace(given, data=replace(given.data, max_tokens=8)))
    settings = workspace / "tiny" / "tokenizer_config.json"
    settings.write_text(settings.read_text().replace("{{ message.content }}", "{{ message.content | upper }}"))
    with pytest.raises(TemplateError, match="drops or changes its text"):
        measurements.row_lengths(given)


def test_rows_that_training_skips_are_not_planned(given: Recipe, base: ModelFolder) -> None:
    window = max(row.prompt for row in measurements.row_lengths(given).train)
    short = replace(given, data=replace(given.data, max_tokens=window, too_long="skip"))
    skipped = measurements.row_lengths(short).skipped
    plan, whole = planned(short, base, this_machine()), planned(given, base, this_machine())
    assert (plan.skipped, plan.train, plan.valid) == (sum(skipped), whole.train - skipped[0], whole.valid - skipped[1])
    assert plan.skipped > 0


def test_held_out_pairs_that_cannot_be_compared_are_counted(workspace: Path) -> None:
    pairs = [
        {"prompt": f"Question {number}? " + "word " * (200 * (number % 2)), "chosen": "Yes, gladly.", "rejected": "No."}
        for number in range(40)
    ]
    (workspace / "pairs.jsonl").write_text("".join(f"{json.dumps(pair)}\n" for pair in pairs))
    overrides = ["data.source=../pairs.jsonl", "method.kind=dpo", "data.max_tokens=96", "data.too_long=skip", "data.holdout=0.3"]
    given = load(workspace / "recipes" / "tiny.toml", overrides)
    base = resolve(given.model.base, relative_to=given.folder)
    plan = planned(given, base, this_machine())
    long = sum("word" in str(row.prompt) for row in split(read_source(given.source), given.data).test)
    assert 0 < long < plan.test
    assert (plan.incomparable, plan.compared) == (long, plan.test - long)
    few = planned(replace(given, evaluation=replace(given.evaluation, rows=4)), base, this_machine())
    assert few.evaluated == 4
    assert few.incomparable <= 4


def test_answers_over_the_limit_of_an_evaluation_are_counted(given: Recipe, base: ModelFolder) -> None:
    template = ChatTemplate(load_model(base).tokenizer)
    held_out = split(read_source(given.source), given.data).test
    for count in (0, 4):
        lengths = sorted(template.count_tokens(row.reference) for row in sample_rows(held_out, count))
        for most in (lengths[0] - 1, lengths[len(lengths) // 2], lengths[-1], "auto"):
            recipe = replace(given, evaluation=replace(given.evaluation, max_tokens=most, rows=count))
            longer = 0 if most == "auto" else sum(length > most for length in lengths)
            plan = planned(recipe, base, this_machine())
            assert plan.long_answers == longer


@pytest.mark.parametrize(
    ("kind", "rate", "is_high"), [("dpo", 2e-4, True), ("dpo", 1e-4, False), ("kto", 1e-3, True), ("sft", 1e-3, False)]
)
def test_a_rate_for_sft_is_too_high_for_preferences(kind: Any, rate: float, is_high: bool, given: Recipe) -> None:
    recipe = replace(given, method=replace(given.method, kind=kind), training=replace(given.training, learning_rate=rate))
    assert high_rate(recipe) == (rate if is_high else 0)


def test_plan_counts_and_fits(given: Recipe, base: ModelFolder) -> None:
    plan = planned(given, base, this_machine())
    assert (plan.train + plan.valid + plan.test, plan.epochs, plan.outcome) == (40, 2, "go")
    assert plan.cost.seconds is None
    assert plan.changes == ()
    assert verdict_sentence(plan) == f"This fits: {size(plan.memory)} needed, {size(plan.limit)} available."


@pytest.mark.parametrize("heavy", [False, True], ids=["a step is the peak", "loading is the peak"])
def test_memory_parts_add_up_to_the_total(given: Recipe, base: ModelFolder, heavy: bool) -> None:
    plan = planned(given, base, this_machine())
    step = plan.estimate.step
    plan = replace(plan, estimate=replace(plan.estimate, loading=step + 2**30 if heavy else step // 2))
    parts = plan.memory_parts
    assert sum(parts.values()) == plan.memory
    assert ("loading" in parts) is heavy
    assert ("loading the base" in memory_facts(plan).facts[0].value) is heavy
    assert memory_bars(plan).bars[-1].end == pytest.approx(1)
    tight = replace(plan, limit=plan.memory + 1)
    assert tight.outcome == "warn"
    assert ("make the batch smaller" in verdict_sentence(tight)) is not heavy  # which would not help


def test_a_small_machine_refuses_with_suggestions(given: Recipe, base: ModelFolder) -> None:
    given = replace(given, training=replace(given.training, grad_checkpoint=False))
    need = planned(given, base, this_machine()).memory
    plan = planned(given, base, replace(this_machine(), limit=need - 1))
    assert plan.outcome == "refuse"
    assert plan.changes
    assert verdict_sentence(plan).startswith("This does not fit: ")
    assert planned(given, base, replace(this_machine(), limit=need + 1)).outcome == "warn"


def test_the_windows_of_long_texts_are_counted(given: Recipe, base: ModelFolder, tmp_path: Path) -> None:
    file = tmp_path / "texts.jsonl"
    file.write_text("".join(json.dumps({"text": f"Text {number}. " * 30}) + "\n" for number in range(12)))
    plan = planned(given, base, this_machine())
    assert plan.examples == plan.train + plan.valid
    given = replace(given, data=replace(given.data, source=str(file), format="text", max_tokens=32))
    splits, template = recipe_splits(given), ChatTemplate(load_model(base).tokenizer)
    plan = planned(given, base, this_machine())
    assert plan.examples == sum(len(template.encode(row, 32)) for row in (*splits.train, *splits.valid))
    assert plan.examples > 3 * (plan.train + plan.valid)


def test_a_probe_can_be_stopped_gives_time_and_applies_to_other_batches(
    given: Recipe, base: ModelFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = replace(given, adapter=replace(given.adapter, layers=1))
    planner = local_planner(given, base.folder, base.config, this_machine(), base.fingerprint)
    stages: list[str] = []
    assert planner.probe(given, on_start=lambda process: process.stop()) is None
    assert not planned(given, base, this_machine()).calibrated
    monkeypatch.setattr("mlxtune.planning.plan.busy_load", lambda: 9.0)
    assert planner.probe(given, lambda stage, share: stages.append(stage)) is not None
    steps = [f"step {number} of 2 with the largest batch" for number in (1, 2)]
    assert stages[:3] == ["loading the base", *steps]
    busy = planned(given, base, this_machine())
    assert (busy.calibrated, busy.cost.source) == (True, "busy_probe")
    monkeypatch.setattr("mlxtune.planning.plan.busy_load", lambda: 0.0)
    probed = planned(given, base, this_machine(), probe=True, watts=30.0)
    assert probed.calibrated
    assert (probed.cost.source, probed.basis) == ("probe", "measured")
    assert probed.cost.seconds is not None
    assert make_bill(probed, "sft").kilowatt_hours == pytest.approx(probed.cost.seconds * 30 / 3.6e6)
    other = replace(given, training=replace(given.training, batch_size=2))
    plan = planned(other, base, this_machine())
    assert (plan.cost.source, plan.basis) == ("other_probe", "other_probe")
    assert time_fact(plan.cost).note.endswith("from a probe of another batch")
    assert not planned(replace(given, model=replace(given.model, quantize=4)), base, this_machine()).calibrated
    plain = planned(replace(given, training=replace(given.training, cache_frozen=False)), base, this_machine()).cost.seconds
    assert plain is not None
    assert probed.cost.seconds < plain, "frozen layers cost time once if they are cached"


def test_a_plan_names_the_keys_that_save_time(given: Recipe, base: ModelFolder) -> None:
    cost = replace(planned(given, base, this_machine()).cost, seconds=100.0, sample_answers=0, validation_seconds=2.0)
    evaluation = ("evaluation.rows", "evaluation.max_tokens")
    without = replace(given, evaluation=replace(given.evaluation, regression=""))
    assert _time_keys(without, cost) == ("training.steps", *evaluation)
    cost = replace(cost, sample_answers=4, validation_seconds=20.0)
    assert time_fact(cost).note.startswith("validations 20 s, without 4 sample answers, ")
    keys = ("training.steps", "data.validation", "training.samples")
    assert _time_keys(given, cost) == (*keys, *evaluation, "evaluation.regression")


def test_a_plan_shows_the_bits_of_the_base_and_the_tokens_that_the_log_counts(given: Recipe, base: ModelFolder) -> None:
    plan = replace(planned(given, base, this_machine()), trained=30, read=120, computed=80, bits=4)
    notes = {fact.label: fact.note for fact in run_facts(plan, PowerState(), "", None, None).facts}
    assert notes["tokens"] == "25% of 120"
    assert memory_facts(plan).facts[-1].value == "to 4 bits as saved"
