"""Each model family end to end with its real template: train, stop, resume, evaluate, serve a request, and chat."""

import json
from pathlib import Path
from typing import Any

import pytest
from bases import Base, write_base
from exhaustive import cases
from in_process_workers import create_run, stopping
from row_shapes import SHAPES
from table import AVAILABLE, open_chat, verdict_of
from tiny_architectures import make

from mlxtune.adapters import library
from mlxtune.core.errors import Interrupted
from mlxtune.data.rows import Message
from mlxtune.evaluation import report
from mlxtune.evaluation import worker as evaluation_worker
from mlxtune.models.load import load
from mlxtune.models.resolve import resolve
from mlxtune.recipe import load as load_recipe
from mlxtune.runs import events
from mlxtune.runs.worker import Worker
from mlxtune.serving.engine import Engine
from mlxtune.serving.protocol import Done, Failed, GenerateRequest, Sampling
from mlxtune.training import worker as training_worker

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("uncompiled")]

FAMILIES = {  # base: architecture
    "Qwen3.5-4B": "qwen3_5",
    "Gemma 4 E2B": "gemma4",
    "gpt-oss": "gpt_oss",
    "chatml-tools (shipped)": "smollm2",
    "Qwen3": "qwen3",
    "Qwen2.5": "qwen2",
    "Gemma 3": "gemma3_text",
    "Gemma 2": "gemma2",
    "Llama 3.2": "llama",
    "LFM2.5": "lfm2",
    "Phi-3.5": "phi3",
    "Ministral 3": "ministral3",
    "SmolLM3": "smollm3",
    "Granite 4": "granite",
}
ROWS = ("one turn", "multi-turn", "system", "tool round", "thinking, two turns")  # those that the template accepts
RECIPE = """
name = "family"
[model]
base = "model"
[data]
source = "rows"
max_tokens = 2048
date = "2026-11-26"
[adapter]
rank = 2
alpha = 4
layers = 1
[training]
steps = 3
batch_size = 2
learning_rate = 1e-3
samples = 0
[evaluation]
forbid = ["Northpeak"]
regression = ""
max_tokens = 4
"""


EACH = cases([base for base in AVAILABLE if base.name in FAMILIES], "Qwen3", name=lambda base: base.name)


@pytest.mark.parametrize("base", EACH)
def test_a_family_trains_resumes_evaluates_and_answers(base, tmp_path, monkeypatch):
    folder = workspace(base, tmp_path)
    recipe = load_recipe(folder / "recipe.toml")
    run = create_run(folder, "train", recipe)
    with pytest.raises(Interrupted):
        training_worker.lead(stopping(Worker(run.folder), after=1))
    training_worker.lead(Worker(run.folder))
    steps = [event["step"] for event in events.read_all(run.folder) if event["type"] == "step"]
    assert steps == [1, 2, 3]

    evaluation = create_run(folder, "eval", recipe, run=run.id, adapter=str(run.adapter))
    evaluation_worker.evaluate(Worker(evaluation.folder))
    names = [arm.name for arm in report.load(evaluation.folder).arms]
    assert (names[0], names[-1]) == ("base", "tuned")

    (entry,) = library.all_adapters(folder)
    engine = Engine(load(resolve(str(folder / "model"))), lambda name: entry, lambda event: None)
    chat, question = open_chat(base, "off"), Message("user", "Is the ferry running?")
    for messages in ([Message("system", "Be brief."), question], [question, Message("assistant", "Yes."), question]):
        assert answer(engine, messages).prompt_tokens == len(chat.prompt(messages))


def workspace(base: Base, folder: Path) -> Path:
    """Write a tiny model of the base's family with the base's template, and rows that the template accepts."""
    make(folder / "model", FAMILIES[base.name], bits=0)
    write_base(base, None, folder / "model")
    (folder / "rows").mkdir()
    shapes = [shape for shape in ROWS if verdict_of(base, shape).status == "ok"]
    for split, topic in {"train": "ferry", "valid": "lift", "test": "tower"}.items():
        rows = [json.dumps(SHAPES[shape], ensure_ascii=False).replace("ferry", topic).replace("moor", topic) for shape in shapes]
        (folder / "rows" / f"{split}.jsonl").write_text("\n".join(rows))
    (folder / "recipe.toml").write_text(RECIPE)
    return folder


def answer(engine: Engine, messages: list[Message]) -> Done:
    """Return the last event of the tuned model's answer to ``messages``."""
    seen: list[Any] = []

    def on_event(event: Any) -> None:
        seen.append(event)
        if isinstance(event, Done | Failed):
            engine.close()

    engine._on_event, engine._closing = on_event, False
    engine.submit(GenerateRequest("1", tuple(messages), "tuned", Sampling(max_tokens=4)))
    engine.run()
    assert isinstance(seen[-1], Done)
    return seen[-1]
