from __future__ import annotations

import pytest

from mlxtune.runs.narrate import narrate


def _told(type: str, **fields) -> str | None:
    line = narrate({"v": 1, "seq": 0, "t": 5.0, "type": type, **fields})
    return f"{line.mark} {line.text}" if line else None


@pytest.mark.parametrize(
    ("type", "fields", "words"),
    [
        ("run.started", {"name": "shop", "base": "m"}, "● shop started on m"),
        ("run.resumed", {"name": "shop", "base": "m", "step": 50}, "● resumed from checkpoint 50"),
        ("model.loaded", {"base": "m", "seconds": 1.25, "path": "4-bit"}, "· m loaded in 1.2 s: 4-bit"),
        ("step", {"step": 1204, "loss": 1.234, "speed": 1500.4}, "· step 1,204   loss 1.23   1,500 tokens/s"),
        ("step", {"step": 1, "loss": None, "speed": 9.0}, "· step 1   loss not a number   9 tokens/s"),
        ("validation", {"step": 20, "loss": 1.5}, "◆ validation at 20: 1.500"),
        ("validation", {"step": 20, "loss": None}, "◆ validation at 20: not a number"),
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
        ("run.finished", {"summary": {}}, "✓ finished"),
        ("run.stopped", {"step": 1204}, "■ stopped at step 1,204"),
        ("run.failed", {"error": "No.", "mend": "Do this.", "code": 2}, "✗ No. Do this."),
        ("run.failed", {"error": "No.", "mend": "", "code": 2}, "✗ No."),
    ],
)
def test_event_in_words(type, fields, words):
    assert _told(type, **fields) == words


@pytest.mark.parametrize("type", ["heartbeat", "arm.progress", "sample", "novelty"])
def test_events_that_are_no_news_stay_silent(type):
    assert _told(type) is None


@pytest.mark.parametrize(("cut", "end"), [(0, "tokens train"), (1, "tokens train, 1 row cut"), (3, "tokens train, 3 rows cut")])
def test_data_line_names_cut_rows_only_when_there_are_any(cut, end):
    told = _told("data.ready", train=1204, valid=20, test=70, tokens=9000, trained=5000, truncated=cut, steps=5, epochs=1)
    assert told
    assert told.startswith("· 1,204 train, 20 validation, 70 held-out rows; 5,000 of 9,000 ")
    assert told.endswith(end)


def test_time_is_kept_and_escapes_do_not_get_through():
    line = narrate({"t": 5.0, "type": "warning", "text": "\x1b[31m"})
    assert line
    assert line.t == 5.0
    assert "\x1b" not in line.text
