"""Token counts of every record, including bad ones, from the tokenizer process."""

import json
from pathlib import Path

import pytest
from tiny_model import CHATML, make_tiny

from mlxtune.core.errors import ModelError
from mlxtune.data.checks.check_input import TokenCount
from mlxtune.data.split import recipe_splits
from mlxtune.models.load import load as load_model
from mlxtune.models.resolve import resolve
from mlxtune.models.template import ChatTemplate
from mlxtune.planning import measurements
from mlxtune.recipe import load
from mlxtune.training import encode
from mlxtune.training.sft import shared_prefix

pytestmark = pytest.mark.slow


def chatml(*turns: tuple[str, str]) -> int:
    """Count the tokens in turns: start, role, line break, content, end, line break, with one per byte of text."""
    return sum(1 + len(role) + 1 + len(text) + 1 + 1 for role, text in turns)


def test_token_counts_match_the_template_and_skip_bad_rows(workspace: Path) -> None:
    prompt_turns, answer = [("user", "Why?")], ("assistant", "Because it was so.")
    rows = [
        json.dumps({"messages": [{"role": role, "content": text} for role, text in [*prompt_turns, answer]]}),
        "{",
        json.dumps({"prompt": "Why?", "chosen": "Because it was so.", "rejected": "No."}),
        json.dumps({"prompt": "Why?", "completion": "No.", "label": False}),
        json.dumps({"text": "Just text"}),
    ]
    (workspace / "chat.jsonl").write_text("\n".join(rows) + "\n")
    prompt = chatml(*prompt_turns) + 1 + len("assistant") + 1
    total = chatml(*prompt_turns, answer)
    assert measurements.record_tokens(load(workspace / "recipes" / "tiny.toml")) == [
        TokenCount(total, prompt),
        None,
        TokenCount(total - 1, prompt),  # a pair's answer ends with its stop token, without the line break after it
        TokenCount(chatml(*prompt_turns, ("assistant", "No.")), prompt),
        TokenCount(len("Just text") + 1, 1),
    ]


def test_lengths_are_those_of_the_template(workspace: Path) -> None:
    given = load(workspace / "recipes" / "tiny.toml")
    base = resolve(given.model.base, relative_to=given.folder)
    splits = recipe_splits(given)
    template = ChatTemplate(load_model(base).tokenizer)
    train, valid = (
        [one for row in rows for one in template.encode(row, given.data.max_tokens)] for rows in (splits.train, splits.valid)
    )
    lengths = measurements.row_lengths(given)
    assert [row.full for row in (*lengths.train, *lengths.valid)] == [row.full_length for row in (*train, *valid)]
    assert [row.trained for row in lengths.train] == [int(row.trained[1:].sum()) for row in train]
    assert [row.prompt for row in lengths.train] == [int(row.trained.argmax()) for row in train]
    assert lengths.prefix == shared_prefix([*train, *valid])


@pytest.mark.usefixtures("rows_in_process")
def test_the_thinking_mode_and_the_date_are_reported_where_the_template_has_them(workspace: Path, tmp_path: Path) -> None:
    plain = measurements.row_lengths(load(workspace / "recipes" / "tiny.toml"))
    assert (plain.thinking, plain.date) == ("", "")
    head = "{{ strftime_now('%Y') }}{% if enable_thinking is false %}/no_think{% endif %}"
    model = make_tiny(tmp_path / "dated", template=head + CHATML)
    for override, expected in (
        ("training.steps=1", ("off", "the day on which the run starts")),
        ("data.date=2026-11-26", ("off", "2026-11-26")),
        ("model.thinking=on", ("on", "the day on which the run starts")),
    ):
        lengths = measurements.row_lengths(load(workspace / "recipes" / "tiny.toml", [f"model.base={model}", override]))
        assert (lengths.thinking, lengths.date) == expected


@pytest.mark.usefixtures("rows_in_process")
def test_a_missing_model_raises_a_model_error(workspace: Path) -> None:
    recipe = workspace / "recipes" / "tiny.toml"
    recipe.write_text(recipe.read_text().replace("../tiny", str(workspace / "nowhere")))
    with pytest.raises(ModelError):
        measurements.record_tokens(load(recipe))


@pytest.mark.usefixtures("rows_in_process")
def test_a_row_is_counted_again_only_if_it_or_the_template_changed(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def count(*settings: str) -> list[int]:
        counted.clear()
        tokens = measurements.record_tokens(load(workspace / "recipes" / "tiny.toml", list(settings)))
        return [one.total for one in tokens if one]

    def write(*answers: str) -> None:
        rows = [json.dumps({"prompt": "Why?", "completion": answer}) for answer in answers]
        (workspace / "chat.jsonl").write_text("\n".join(rows) + "\n")

    counted: list[str] = []
    counter = encode.count_row_tokens
    monkeypatch.setattr(encode, "count_row_tokens", lambda template, row: counted.append(row.reference) or counter(template, row))
    write("So.", "So.", "No.")
    first = count()
    assert counted == ["So.", "No."]
    assert count() == first
    assert counted == []
    write("So.", "Never.", "No.")
    assert count() == [first[0], first[0] + 3, first[2]]
    assert counted == ["Never."]
    (workspace / "recipes" / "other.jinja").write_text(CHATML.replace("<|im_start|>", "<|im_start|> "))
    changed = count("model.template=other.jinja")
    assert counted == ["So.", "Never.", "No."]
    assert changed[0] > first[0]
    assert count() == [first[0], first[0] + 3, first[2]]
