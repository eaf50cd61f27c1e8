"""A whole plan on the tiny model: its lengths, its verdicts, its probe."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from mlxtune.core.errors import DataError, TemplateError
from mlxtune.data.source import read_source
from mlxtune.data.split import split
from mlxtune.models.load import load as load_model
from mlxtune.models.resolve import ModelFolder, resolve
from mlxtune.models.template import ChatTemplate
from mlxtune.planning import ask, calibration, wording
from mlxtune.planning.machine import Machine, machine
from mlxtune.planning.plan import Plan, plan
from mlxtune.recipe import Recipe, load
from mlxtune.training.batches import shared_prefix


@pytest.fixture(autouse=True)
def own_calibration(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(calibration, "home", lambda: tmp_path / "measured")


@pytest.fixture
def given(workspace: Path) -> Recipe:
    return load(workspace / "recipes" / "tiny.toml")


@pytest.fixture
def base(given: Recipe) -> ModelFolder:
    return resolve(given.model.base, near=given.folder)


def planned(given: Recipe, base: ModelFolder, where: Machine, **more) -> Plan:
    shares = split(read_source(given.source, given.data.format), given.data)
    return plan(given, shares, base.folder, base.config, where, fingerprint=base.fingerprint, **more)


def test_lengths_are_those_of_the_template(given: Recipe, base: ModelFolder) -> None:
    shares = split(read_source(given.source, given.data.format), given.data)
    template = ChatTemplate(load_model(base).tokenizer)
    train, valid = ([template.encode(row, given.data.max_tokens) for row in rows] for rows in (shares.train, shares.valid))
    found = ask.lengths(given)
    assert [row.full for row in (*found.train, *found.valid)] == [row.full for row in (*train, *valid)]
    assert [row.trained for row in found.train] == [int(row.trained[1:].sum()) for row in train]
    assert [row.first for row in found.train] == [int(row.trained.argmax()) for row in train]
    assert found.prefix == shared_prefix([*train, *valid])


def test_rows_that_the_worker_would_refuse_are_refused_now(given: Recipe, workspace: Path) -> None:
    with pytest.raises(DataError, match="prompt fills the window of 8 tokens"):
        ask.lengths(replace(given, data=replace(given.data, max_tokens=8)))
    settings = workspace / "tiny" / "tokenizer_config.json"
    settings.write_text(settings.read_text().replace("{{ message.content }}", "{{ message.content | upper }}"))
    with pytest.raises(TemplateError, match="changes the answer"):
        ask.lengths(given)


def test_plan_counts_and_fits(given: Recipe, base: ModelFolder) -> None:
    found = planned(given, base, machine())
    assert (found.train + found.valid + found.test, found.epochs, found.word) == (40, 2, "go")
    assert found.cost.seconds is None
    assert found.changes == ()
    assert found.sentence.startswith("This fits: ")


@pytest.mark.parametrize("heavy", [False, True], ids=["a step is the peak", "loading is the peak"])
def test_the_parts_that_are_shown_add_up_to_the_whole(given: Recipe, base: ModelFolder, heavy: bool) -> None:
    found = planned(given, base, machine())
    step = found.estimate.step
    found = replace(found, estimate=replace(found.estimate, loading=step + 2**30 if heavy else step // 2))
    shown = wording.parts(found)
    assert sum(count for _, count, _ in shown) == found.memory
    assert ("loading" in [name for name, *_ in shown]) is heavy
    assert ("while the base is loaded" in wording.moment(found)) is heavy
    tight = replace(found, limit=found.memory + 1)
    assert tight.word == "warn"
    assert ("make the batch smaller" in tight.sentence) is not heavy  # which would bring nothing


def test_a_small_machine_refuses_and_says_what_to_change(given: Recipe, base: ModelFolder) -> None:
    given = replace(given, training=replace(given.training, grad_checkpoint=False))
    need = planned(given, base, machine()).memory
    found = planned(given, base, replace(machine(), limit=need - 1))
    assert found.word == "refuse"
    assert found.changes
    assert found.sentence.startswith("This does not fit: ")
    assert planned(given, base, replace(machine(), limit=need + 1)).word == "warn"


def test_a_probe_gives_time_and_is_kept_for_other_batches(given: Recipe, base: ModelFolder) -> None:
    probed = planned(given, base, machine(), probe=True, watts=30.0)
    assert probed.calibrated
    assert probed.cost.seconds is not None
    assert probed.cost.kilowatt_hours == pytest.approx(probed.cost.seconds * 30 / 3.6e6)
    other = replace(given, training=replace(given.training, batch_size=2))
    assert planned(other, base, machine()).cost.source == "probe"
    assert not planned(replace(given, model=replace(given.model, quantize=4)), base, machine()).calibrated


def test_frozen_layers_cost_once_where_they_are_cached_and_every_time_where_not(given: Recipe, base: ModelFolder) -> None:
    given = replace(given, adapter=replace(given.adapter, layers=1), training=replace(given.training, epochs=20))
    cached = planned(given, base, machine(), probe=True).cost.seconds
    plain = planned(replace(given, training=replace(given.training, cache_frozen=False)), base, machine()).cost.seconds
    assert cached is not None
    assert plain is not None
    assert cached < plain
