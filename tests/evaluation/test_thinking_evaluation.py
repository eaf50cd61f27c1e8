"""A contract evaluation of a base that thinks and of its adapter, from the worker to what the command line and the app show."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from in_process_workers import create_run
from scripted_model import make_scripted, make_scripted_adapter
from tiny_model import CHATML

from mlxtune.cli.evaluate import show_report
from mlxtune.evaluation import report, worker
from mlxtune.evaluation.verify import verify
from mlxtune.present.blocks import Fact
from mlxtune.present.report import evaluation_facts, report_document, report_tables
from mlxtune.recipe import load
from mlxtune.runs.worker import Worker
from mlxtune.tui import draw
from mlxtune.tui.rooms.evaluate import render
from mlxtune.tui.rooms.evaluate.service import RowFilter, load_report

GOOD, BAD = '{"category": "a"}', "{category: a}"
# A question ends with a digit, which decides what happens; without thinking, the prompt ends with an empty thought.
TEMPLATE = CHATML.replace(
    "assistant\n{% endif %}",
    "assistant\n{% if enable_thinking %}{{ messages[-1].content[-1] }}{% else %}<think></think>{% endif %}{% endif %}",
)
STOP = "<|im_end|>"
SCRIPT = {
    "<think>": "Hm,", "Hm,": "well,", "well,": "so.", "so.": "</think>", "</think>": GOOD, GOOD: STOP, BAD: STOP,  # 5 tokens of thought
    "[THINK]": "again,", "again,": "again,",  # never ends
    "0": "<think>", "1": "[THINK]", "2": BAD, "3": GOOD,
}  # fmt: skip
TUNED = {"[THINK]": "[/THINK]", "[/THINK]": GOOD, "2": "<think>"}


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """A workspace with a scripted model, its adapter, and twelve held-out questions, three for each digit."""
    make_scripted(tmp_path / "model", TEMPLATE, SCRIPT | {"[/THINK]": STOP})
    make_scripted_adapter(tmp_path / "adapter", tmp_path / "model", TUNED)
    (tmp_path / "data").mkdir()
    for part, count in (("train", 8), ("valid", 2), ("test", 12)):
        questions = [f"A {part} question with a text of its own, number {index * 3 + 8}: {index % 4}" for index in range(count)]
        rows = [{"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": GOOD}]} for text in questions]
        (tmp_path / "data" / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "schema.json").write_text("{}")
    (tmp_path / "recipe.toml").write_text(
        'name = "thinker"\n[model]\nbase = "model"\nthinking = "on"\n[data]\nsource = "data"\n'
        '[evaluation]\nschema = "schema.json"\narms = ["base", "tuned"]\nmax_tokens = 2\nthinking_tokens = 9\nregression = ""\n'
    )
    return tmp_path


@pytest.fixture
def evaluate(workspace: Path) -> Callable[..., Path]:
    def call(*overrides: str, adapter: bool = True) -> Path:
        recipe = load(workspace / "recipe.toml", overrides)
        folder = create_run(workspace, "eval", recipe, **{"adapter": str(workspace / "adapter")} if adapter else {}).folder
        worker.evaluate(Worker(folder))
        return folder

    return call


@pytest.mark.slow
def test_answers_are_judged_behind_the_thoughts_and_thoughts_are_counted_apart(evaluate):
    folder = evaluate()
    result = report.load(folder)
    base, _, _, tuned = (arm.rate("json") for arm in result.arms)
    assert (base.hits, base.total, base.failures) == (6, 12, {"reasoning_cut_off": 3, "unquoted_name": 3})
    assert (tuned.hits, tuned.total, tuned.failures) == (12, 12, {})
    assert result.comparison("contract", "base", "tuned").paired.fixed == 6
    # three answers with 5 tokens of thought each, and three that reached the limit; then six with 5, and three empty thoughts
    assert [arm.thought_tokens for arm in result.arms] == [3 * 5 + 3 * 9, None, None, 6 * 5]
    outputs = [json.loads(line) for line in (folder / "outputs.jsonl").read_text().splitlines()]
    assert {record["output"] for record in outputs} == {GOOD, BAD, ""}
    assert {record.get("thought") for record in outputs} == {None, "Hm,well,so.", "again," * 8}
    assert verify(folder) == []
    assert [arm.cached for arm in report.load(evaluate()).arms] == [True, False, False, True]
    assert [arm.cached for arm in report.load(evaluate("evaluation.thinking_tokens=7", adapter=False)).arms] == [False] * 3


def test_every_renderer_shows_the_tokens_of_thought(evaluate, capsys):
    folder = evaluate()
    result = report.load(folder)
    (answers,) = (table for table in report_tables(result) if table.title == "Answers")
    cells = [[cell.text for cell in row] for row in answers.rows]
    assert [column.label for column in answers.columns] == ["", "perplexity", "thinking tokens", "answered in"]
    assert [row[2] for row in cells] == ["3.5", "0.0", "0.0", "2.5"]
    assert Fact("thinking", "on; at most 9 tokens") in evaluation_facts(result).facts
    show_report(result, folder)
    loaded = load_report(folder)
    pages = [capsys.readouterr().out, "\n".join(row.plain for row in draw.rows(report_document(result), 100))]
    pages += [(folder / page).read_text() for page in ("report.md", "report.html")]
    for page in pages:
        assert "thinking tokens" in page
        assert "3 reasoning cut off" in page
    failed = loaded.drilldown.rows_for("json", "base", passed=False)
    row = next(row for row in failed if row.scores["base"].kind == "unquoted_name")
    shown = [text.plain.strip() for text in render.row_page(loaded, row, RowFilter("json", "base"), 80)]
    assert shown[shown.index("Reasoning  5 tokens") + 1] == "Hm,well,so."


def test_without_thinking_the_empty_thought_of_the_template_is_no_thought(evaluate):
    result = report.load(evaluate("model.thinking=off"))
    assert [arm.rate("json").hits for arm in result.arms] == [12] * 4
    assert [arm.thought_tokens for arm in result.arms] == [None] * 4
    assert Fact("thinking", "off; at most 9 tokens") in evaluation_facts(result).facts
    assert "thinking tokens" not in [column.label for table in report_tables(result) for column in table.columns]
