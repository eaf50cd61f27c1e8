from __future__ import annotations

import pytest

from mlxtune.runs.log_lines import describe


def _line(type: str, **fields) -> str | None:
    line = describe({"v": 1, "seq": 0, "t": 5.0, "type": type, **fields})
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
        ("arm.started", {"arm": "base", "rows": 34, "of": "off-task prompt"}, "· base answers 34 off-task prompts"),
        (
            "arm.finished",
            {"arm": "base", "rows": 34, "cached": False, "seconds": 9.0, "of": "off-task prompt"},
            "✓ base: 34 off-task prompts in 9 s",
        ),
        ("arm.finished", {"arm": "base", "rows": 74, "cached": True, "seconds": 0.1}, "✓ base: 74 answers from the cache"),
        ("arm.finished", {"arm": "tuned", "rows": 74, "cached": False, "seconds": 61.0}, "✓ tuned: 74 answers in 61 s"),
        ("warning", {"text": "two\nlines"}, "! two lines"),
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
        ("run.stopped", {"step": 1204}, "■ stopped at step 1,204"),
        ("run.failed", {"error": "No.", "mend": "Do this.", "code": 2}, "✗ No. Do this."),
        ("run.failed", {"error": "No.", "mend": "", "code": 2}, "✗ No."),
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
    assert line.startswith("· 742 training (answers of 731 conversations), 20 validation, ")


def test_lines_have_the_time_and_no_escape_sequences():
    line = describe({"t": 5.0, "type": "warning", "text": "\x1b[31m"})
    assert line
    assert line.t == 5.0
    assert "\x1b" not in line.text
