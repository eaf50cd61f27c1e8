"""The words of a run: its log, its warnings, and its work."""

import ast
import re
from string import Formatter
from typing import get_args

import pytest
from package_trees import package_trees

from mlxtune.data.template_notes import TemplateNote
from mlxtune.present.run import answering_text, log_line, pace_text, sample_verdict, warning_text, work_text
from mlxtune.present.search import decision_text, standing_text
from mlxtune.present.words import WORDS
from mlxtune.runs.events import HELD_OUT_ROW, SampleOutcome, WarningCode
from mlxtune.runs.state import Answering, RunState, RunWarning, SampleAnswer


def _line(type: str, **fields) -> str | None:
    line = log_line({"v": 1, "seq": 0, "t": 5.0, "type": type, **fields})
    return f"{line.glyph} {line.text}" if line else None


@pytest.mark.parametrize(
    ("type", "fields", "words"),
    [
        ("run.started", {"name": "shop", "base": "m"}, "● shop started on m"),
        ("run.resumed", {"name": "shop", "base": "m", "step": 50}, "● resumed from checkpoint 50"),
        ("model.loaded", {"base": "m", "seconds": 1.25, "path": "4-bit"}, "· m loaded in 1.2 s: 4-bit"),
        ("step", {"step": 1204, "loss": 1.234, "speed": 1500.4}, "· step 1,204   loss 1.23   1,500 tokens/s"),
        ("step", {"step": 1, "loss": None, "speed": 9.0}, "· step 1   loss NaN   9 tokens/s"),
        ("validation", {"step": 20, "loss": 1.5}, "◆ validation at 20: 1.500"),
        ("validation", {"step": 20, "loss": None}, "◆ validation at 20: NaN"),
        ("checkpoint", {"step": 50, "seconds": 0.25}, "▾ checkpoint 0000050 saved in 0.2 s"),
        ("arm.started", {"arm": "base", "rows": 1}, "· base answers 1 held-out row"),
        ("arm.started", {"arm": "base", "rows": 34, "of": "off_task_prompt"}, "· base answers 34 off-task prompts"),
        (
            "arm.finished",
            {"arm": "base", "rows": 34, "cached": False, "seconds": 9.0, "of": "off_task_prompt"},
            "✓ base: 34 off-task prompts in 9 s",
        ),
        ("arm.finished", {"arm": "base", "rows": 74, "cached": True, "seconds": 0.1}, "✓ base: 74 answers from the cache"),
        ("arm.finished", {"arm": "tuned", "rows": 74, "cached": False, "seconds": 61.0}, "✓ tuned: 74 answers in 61 s"),
        (
            "warning",
            {"code": "checkpoint_damaged", "values": {"folder": "two\nlines"}},
            "! skipped the damaged checkpoint in two lines",
        ),
        ("run.waiting", {"reason": "power"}, "‖ waiting until this machine is connected to power"),
        ("run.continued", {}, "● continued"),
        (
            "run.restarting",
            {"error": "The GPU ran out of memory.", "hint": ""},
            "! The GPU ran out of memory. Resuming from the newest checkpoint with smaller GPU commands.",
        ),
        ("sleep.prevented", {"pid": 7}, "· the Mac stays awake as long as this runs"),
        ("run.finished", {"summary": {}}, "✓ finished"),
        ("run.finished", {"summary": {"steps": 30, "adapter_step": 30}}, "✓ finished"),
        (
            "run.finished",
            {"summary": {"steps": 30, "adapter_step": 15}},
            "✓ finished; the adapter is from step 15, with the lowest validation loss",
        ),
        ("trial.ended", {"trial": 3, "status": "dropped"}, "× trial 3 dropped"),
        ("trial.ended", {"trial": 3, "status": "failed", "error": "No."}, "× trial 3 failed: No."),
        (
            "fidelity",
            {"faithful": True, "lost": 0.012, "same": 9, "rows": 10},
            "✓ faithful: 1.2% of the adapter's effect lost, 9 of 10 greedy answers identical",
        ),
        ("run.stopped", {"step": 1204}, "■ stopped at step 1,204"),
        ("run.failed", {"error": "No.", "hint": "Do this.", "code": 2}, "✗ No. Do this."),
        ("run.failed", {"error": "No.", "hint": "", "code": 2}, "✗ No."),
    ],
)
def test_events_as_text(type, fields, words):
    assert _line(type, **fields) == words


@pytest.mark.parametrize("type", ["heartbeat", "arm.progress", "sample", "novelty"])
def test_minor_events_have_no_line(type):
    assert _line(type) is None


@pytest.mark.parametrize(
    ("truncated", "end"),
    [
        (0, "tokens per epoch are trained on"),
        (1, "tokens per epoch are trained on, 1 row truncated"),
        (3, "tokens per epoch are trained on, 3 rows truncated"),
    ],
)
def test_the_data_line_counts_truncated_rows_if_any(truncated, end):
    line = _line("data.ready", train=1204, valid=20, test=70, tokens=9000, trained=5000, truncated=truncated, steps=5, epochs=1)
    assert line
    assert line.startswith("· 1,204 training, 20 validation, 70 held-out rows; 5,000 of 9,000 ")
    assert line.endswith(end)


def test_the_data_line_explains_more_rows_than_conversations():
    line = _line("data.ready", train=742, conversations=731, valid=20, test=70, tokens=9, trained=5, truncated=0, steps=5, epochs=1)
    assert line
    assert line.startswith("· 742 training (from 731 rows), 20 validation, ")


def test_lines_have_the_time_and_no_escape_sequences():
    line = log_line({"t": 5.0, "type": "warning", "code": "checkpoint_damaged", "values": {"folder": "\x1b[31m"}})
    assert line
    assert line.t == 5.0
    assert "\x1b" not in line.text


@pytest.mark.parametrize("code", sorted(WORDS.warnings))
def test_every_warning_has_words(code):
    fields = {name: spec for _, name, spec, _ in Formatter().parse(WORDS.warnings[code]) if name}
    values = {name: "x" if spec in ("", "all") else 2 for name, spec in fields.items()} | {"rows": ["a", "b"]}
    if code == "template_note":
        values = {"note": TemplateNote.CUT.value, "rows": 1}
    text = warning_text(RunWarning(code, values))
    assert text != code.replace("_", " ")
    assert not re.search("[{}]", text)


def test_workers_give_each_warning_its_values():
    given = {}
    for tree in package_trees().values():
        for node in ast.walk(tree):
            match node:
                case ast.Call(func=ast.Attribute(attr="warn" | "_warn"), args=[ast.Constant(value=code)], keywords=items):
                    given[code] = {item.arg for item in items}
    computed = {"sentence"}  # by warning_text
    others = {"template_note", "export_note"}  # have words of their own
    given = {code: names for code, names in given.items() if code not in others and None not in names}
    needed = {code: {name for _, name, _, _ in Formatter().parse(WORDS.warnings[code]) if name} - computed for code in given}
    assert len(given) > 10
    assert needed == given


def test_a_warning_lists_few_rows():
    assert set(get_args(WarningCode)) == {*WORDS.warnings, "export_note"}, "an export's notes have words of their own"
    text = warning_text(RunWarning("rows_truncated", {"rows": list("abcdefg"), "max_tokens": 2048}))
    assert text == "7 rows truncated at 2,048 tokens: a, b, c, d, e, 2 more"


@pytest.mark.parametrize("outcome", get_args(SampleOutcome))
def test_every_sample_has_a_verdict(outcome):
    assert sample_verdict(SampleAnswer(1, "q", "a", outcome, "json", 8)).text


def _state(now: float, **fields) -> RunState:
    return RunState(updated=now, answering=Answering("base", fields.pop("kind", HELD_OUT_ROW), **fields))


@pytest.mark.parametrize(
    ("state", "text"),
    [
        (RunState(), ""),
        (_state(120.0, done=95, total=600, started=100.0, advanced=120.0), "base answers 95 of 600 held-out rows, 20 s so far"),
        (_state(120.0, done=200, total=600, started=100.0, advanced=120.0), "base answers 200 of 600 held-out rows, 40 s left"),
        (_state(100.9, done=599, total=600, started=100.0, advanced=100.9), "base answers 599 of 600 held-out rows"),
        (
            _state(120.0, kind="prompt", done=1, total=8, started=119.0, advanced=120.0),
            "base reads 1 of 8 prompts to find similar rows",
        ),
        (
            _state(101.0, done=0, total=70, started=100.0, advanced=100.0, most=500),
            "base answers 0 of 70 held-out rows, reading the prompts",
        ),
        (
            _state(150.0, done=0, total=70, started=100.0, advanced=100.0, longest=100, most=500, batch_started=130.0, waiting=3),
            "base answers 0 of 70 held-out rows, the longest of this batch at token 100 of at most 500, "
            "up to 80 s more for the batch, then 3 more rows",
        ),
    ],
)
def test_the_work_of_a_model_that_answers(state, text):
    assert answering_text(state) == text
    assert text.endswith(pace_text(state))


def test_the_work_before_a_step():
    assert work_text(("validating", 2, 1)) == ("computing the validation loss", "1 batch")
    assert work_text(("reading_pairs", 4, 16)) == ("the reference model reads validation pairs", "16 pairs")


@pytest.mark.parametrize(
    ("decision", "text"),
    [
        (("improved", 2, 1, 4), "Trial 2 is better than the recipe."),
        (("improved", 3, 2, 3), "Trial 3 is better than the recipe. It is the cheapest of 2 that cannot be told apart."),
        (("no_difference", 1, 3, 3), "3 trials cannot be told apart. Trial 1 is the recipe itself and is the cheapest."),
        (("no_difference", 1, 1, 2), "2 trials cannot be told apart. Trial 1 is the recipe itself and was trained longest."),
        (("no_difference", 1, 1, 1), "Only trial 1 has a result, so there is nothing to compare it with."),
        (("not_improved", 1, 1, 3), "No trial is better than the recipe."),
        (("not_improved", 2, 1, 3), "Trial 2 is selected, but it cannot be told apart from the recipe."),
    ],
)
def test_decisions_of_a_search(decision, text):
    assert decision_text(*decision) == text


@pytest.mark.parametrize(
    ("is_worse", "text"), [(True, "12 points below trial 2 (7 to 17)"), (False, "ranked 5 of 8; cannot be told apart from trial 2")]
)
def test_why_a_trial_was_pruned(is_worse, text):
    standing = {"place": 5, "trials": 8, "best": 2, "is_worse": is_worse, "low": 0.07, "change": 0.12, "high": 0.17}
    assert standing_text(standing) == text
