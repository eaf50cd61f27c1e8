"""The evaluation worker on the tiny model in this process: all arms in one run, the cache, rejected input, and a verifiable report."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from in_process_workers import create_run
from judge_stub import serve

from mlxtune.core.errors import InputError, Interrupted, MachineError
from mlxtune.core.files import write_json
from mlxtune.data import split as splits
from mlxtune.data.rows import Message, messages_hash, prompt_hashes
from mlxtune.data.source import read_source
from mlxtune.data.split import record_splits, split
from mlxtune.evaluation import arms, report, report_builder, worker
from mlxtune.evaluation.arms import is_free
from mlxtune.evaluation.evidence import OPTIMIZED_PROMPT, load_evidence
from mlxtune.evaluation.off_task.prompts import OFF_TASK
from mlxtune.evaluation.verify import verify
from mlxtune.models import lora
from mlxtune.models.load import load as load_model
from mlxtune.models.resolve import resolve
from mlxtune.present.report import arms_table, cost_table
from mlxtune.recipe import AdapterSection, load
from mlxtune.runs import events, registry
from mlxtune.runs.registry import Run
from mlxtune.runs.worker import Worker

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("few_off_task_prompts")]

ARMS = 'evaluation.arms=["base", "base+prompt", "base+kshot", "base+grammar", "tuned", "tuned+prompt", "tuned+grammar"]'
SCHEMA = {
    "type": "object", "required": ["category"], "properties": {"category": {"enum": ["a", "b"]}}, "additionalProperties": False,
    "x-guidance": {"whitespace_flexible": False},  # a random model would generate spaces up to the limit
}  # fmt: skip

Evaluate = Callable[..., Path]


@pytest.fixture
def no_off_task_prompts(workspace: Path) -> None:
    """Ask no off-task prompts: their answers take most of an evaluation's time."""
    with (workspace / "recipes" / "tiny.toml").open("a") as recipe:
        recipe.write('regression = ""\n')


@pytest.fixture
def trained(workspace: Path) -> Run:
    """Create a finished training run whose adapter changes answers."""
    recipe = load(workspace / "recipes" / "tiny.toml")
    run = create_run(workspace, "train", recipe)
    read = read_source(recipe.source)
    shares = split(read, recipe.data)
    record_splits(read, recipe.data, shares)
    rows = {part: [row.id for row in getattr(shares, part)] for part in ("train", "valid", "test")}
    prompts = [hash for row in (*shares.train, *shares.valid) for hash in prompt_hashes(row)]
    write_json(run.folder / "data.json", {**rows, "train": [{"id": id} for id in rows["train"]], "prompts": prompts})
    loaded = load_model(resolve(str(workspace / "tiny")))
    config = lora.add(loaded.model, AdapterSection(rank=2, alpha=64), 1)
    lora.save(run.adapter, {name: array + 0.5 for name, array in lora.adapter_arrays(loaded.model).items()}, config)
    return run


@pytest.fixture
def evaluate(workspace: Path) -> Evaluate:
    def call(*overrides: str, run: Run | None = None, seeds: Sequence[Run] = (), last_look: bool = False) -> Path:
        recipe = load(run.folder / "recipe.toml" if run else workspace / "recipes" / "tiny.toml", overrides)
        request: dict[str, Any] = {"run": run.id, "adapter": str(run.adapter)} if run else {}
        if seeds:
            request["seeds"] = [str(seed.adapter) for seed in seeds]
        folder = create_run(workspace, "eval", recipe, **request, last_look=last_look).folder
        worker.evaluate(Worker(folder))
        return folder

    return call


@pytest.fixture
def schema(workspace: Path) -> str:
    """The override that adds a schema to the recipe."""
    (workspace / "schema.json").write_text(json.dumps(SCHEMA))
    return f"evaluation.schema={workspace / 'schema.json'}"


def test_one_run_evaluates_all_arms_and_next_uses_cache(workspace, trained, evaluate, schema):
    (workspace / "best.md").write_text("Answer in JSON.")
    write_json(trained.adapter / "mlxtune.json", {"v": 1, "run": trained.id, "steps": 3})
    how = (ARMS, schema, f"evaluation.prompt={workspace / 'best.md'}", "evaluation.max_tokens=24")
    with events.EventWriter(trained.folder) as writer:
        writer.emit("run.started", kind="train", name="tiny", base="tiny", pid=1, host="h")
        for step, tokens in ((1, 30), (2, 40)):
            writer.emit("step", step=step, epoch=0, loss=1.0, rate=1.0, norm=1.0, tokens=tokens, speed=1.0, memory=1, peak=1)
    first = evaluate(*how, run=trained)
    first_report = report.load(first)
    state = trained.state()
    assert first_report.facts["costs"] == {"tuned": {"tokens": 70, "seconds": state.updated - state.started}}
    cost = {row[0].text: [cell.text for cell in row[1:]] for row in cost_table(first_report).rows}
    assert cost["tuned"][0] == cost["tuned+grammar"][0] == "70"
    assert cost["base+kshot"][:2] == ["–", "–"]
    assert int(cost["base+kshot"][2]) > int(cost["base"][2]) == int(cost["tuned"][2])
    assert cost["constant"] == cost["copier"] == ["–"] * 5
    assert [arm.name for arm in first_report.arms] == [
        "base", "base+prompt", "base+kshot", "base+grammar", "constant", "copier", "tuned", "tuned+prompt", "tuned+grammar",
    ]  # fmt: skip
    assert not any(arm.cached for arm in first_report.arms)
    assert first_report.facts["adapter_step"] == 3
    assert first_report.arms[3].rate("schema").hits == first_report.facts["rows"]
    assert first_report.arms[8].rate("schema").hits == first_report.facts["rows"]
    assert first_report.arms[8].perplexity == first_report.arms[6].perplexity != first_report.arms[7].perplexity
    assert first_report.verdict.grammar
    assert first_report.headline.first == "base+grammar"
    assert first_report.facts["contamination"]["code"] == "unseen"
    generated = [arm for arm in first_report.arms if not is_free(arm.name)]
    assert all(arm.perplexity for arm in generated)
    assert {arm: total for arm, (_, total) in Run(first).state().arms.items()} == {
        arm.name: first_report.facts["rows"] for arm in generated
    }
    off_task = [event for event in events.read_all(first) if event.get("of") == OFF_TASK]
    finished = [event for event in off_task if event["type"] == "arm.finished"]
    assert [event["arm"] for event in finished] == ["base", "tuned"]
    prompts = first_report.off_task.overall.paired.total
    assert {event["rows"] for event in finished} == {prompts}
    counts = [event["done"] for event in off_task if event["type"] == "arm.progress" and event["arm"] == "base"]
    assert counts == sorted(counts), "short and long answers are counted together"
    assert counts[-1] == prompts
    assert verify(first) == []
    table = arms_table(first_report)
    assert [row[0].text for row in table.rows] == [arm.name for arm in first_report.arms]
    assert all(0 < arm.answers.p50 <= arm.answers.p95 for arm in generated)

    again = evaluate(*how, run=trained)
    second = report.load(again)
    assert all(arm.cached != is_free(arm.name) for arm in second.arms)
    assert (again / "report.md").read_text().count("cached") == len(generated)
    assert [arm.rates for arm in second.arms] == [arm.rates for arm in first_report.arms]
    assert second.holdout.evaluations == first_report.holdout.evaluations  # it showed nothing new

    stored = (again / "trained.jsonl").read_text()
    row = json.loads((again / "questions.jsonl").read_text().splitlines()[0])
    asked = messages_hash([Message(turn["role"], turn["content"]) for turn in row["prompt"]])
    (again / "trained.jsonl").write_text(stored.replace('"prompts": [', f'"prompts": ["{asked}", '))
    assert any("was trained on this row" in difference for difference in verify(again))
    (again / "trained.jsonl").write_text("")
    assert any("contamination, rows is stored as" in difference for difference in verify(again))
    (again / "trained.jsonl").write_text(stored)
    assert verify(again) == []

    outputs = (again / "outputs.jsonl").read_bytes()
    at = outputs.index(b'"output": "') + 12
    (again / "outputs.jsonl").write_bytes(outputs[:at] + bytes([outputs[at] ^ 1]) + outputs[at + 1 :])
    assert any("outputs.jsonl" in difference for difference in verify(again))


@pytest.mark.usefixtures("no_off_task_prompts")
def test_validation_chooses_between_seeds(workspace, trained, evaluate):
    twin = registry.create(workspace, "train", "tiny")
    shutil.copytree(trained.folder, twin.folder, dirs_exist_ok=True)
    loaded = load_model(resolve(str(workspace / "tiny")))
    config = lora.add(loaded.model, AdapterSection(rank=2, alpha=64), 1)
    lora.save(twin.adapter, lora.adapter_arrays(loaded.model), config)  # the base itself, which has a higher loss here
    folder = evaluate('evaluation.arms=["base", "tuned"]', "evaluation.max_tokens=8", run=twin, seeds=[twin, trained])
    result = report.load(folder)
    assert [seed.run for seed in result.seeds.seeds] == [twin.id, trained.id]
    assert result.seeds.recommended == result.facts["run"] == trained.id
    assert result.facts["adapter"] == str(trained.adapter)
    assert result.holdout.evaluations == 1
    assert result.arms[-1].perplexity != result.arms[0].perplexity  # the last weights loaded were not the first seed's
    assert {"validation.jsonl", "seeds.jsonl"} <= set(json.loads((folder / "report.json").read_text())["files"])
    assert f"{trained.id}, recommended" in (folder / "report.md").read_text()
    assert verify(folder) == []

    stored = json.loads((folder / "report.json").read_text())
    stored["seeds"]["recommended"] = twin.id
    write_json(folder / "report.json", stored)
    assert any("recommended is stored as" in difference for difference in verify(folder))
    seeds = (folder / "seeds.jsonl").read_text().splitlines(keepends=True)
    forbidden = {**json.loads(seeds[-1]), "output": "Northpeak"}
    (folder / "seeds.jsonl").write_text("".join(seeds[:-1]) + json.dumps(forbidden) + "\n")
    assert any("are not scored like those of tuned" in difference for difference in verify(folder))
    (folder / "seeds.jsonl").write_text("".join(seeds[:-1]))
    assert any("seeds.jsonl lacks an answer" in difference for difference in verify(folder))


@pytest.mark.usefixtures("no_off_task_prompts")
def test_reserved_rows_are_evaluated_once_by_the_last_look(trained, evaluate):
    how = ("data.reserve=0.5", "evaluation.max_tokens=4")
    with pytest.raises(InputError, match="No held-out rows are reserved"):
        evaluate(run=trained, last_look=True)
    first, last = evaluate(*how, run=trained), evaluate(*how, run=trained, last_look=True)
    one, two = report.load(first), report.load(last)
    recipe = load(trained.folder / "recipe.toml", ["data.reserve=0.5"])
    assert {*one.facts["row_ids"], *two.facts["row_ids"]} == {row.id for row in split(read_source(recipe.source), recipe.data).test}
    assert not {*one.facts["row_ids"]} & {*two.facts["row_ids"]}
    assert (one.facts["holdout"]["look"], two.facts["holdout"]["look"], two.facts["last_look"]) == (1, 1, True)
    assert "last_look" not in one.facts
    assert "changed_terms" not in two.facts
    assert "last look at the reserved rows" in (last / "report.md").read_text()
    assert verify(last) == []
    with pytest.raises(InputError, match=f"{last.name} was the last look at the reserved rows"):
        evaluate(*how, run=trained, last_look=True)
    (last.parent / "ledger.jsonl").unlink()
    with pytest.raises(InputError, match="was the last look"):
        evaluate(*how, run=trained, last_look=True)


@pytest.mark.usefixtures("no_off_task_prompts")
def test_changed_contract_requires_new_base_evaluation(workspace, trained, evaluate, schema):
    how = (schema, "evaluation.max_tokens=2", "evaluation.rows=2")
    evaluate(*how)
    (workspace / "schema.json").write_text(json.dumps({**SCHEMA, "required": []}))
    with pytest.raises(InputError, match="The schema changed since the base was evaluated"):
        evaluate(*how, run=trained)
    anew = report.load(evaluate(*how))
    assert [term["term"] for term in anew.facts["changed_terms"]["terms"]] == ["schema"]
    tuned = evaluate(*how, run=trained)
    assert [term["term"] for term in report.load(tuned).facts["changed_terms"]["terms"]] == ["schema"]  # it stays in the report


@pytest.mark.usefixtures("no_off_task_prompts")
def test_changed_token_limit_lets_the_base_answer_again(trained, evaluate):
    evaluate("evaluation.max_tokens=4", "evaluation.rows=2")
    folder = evaluate("evaluation.max_tokens=6", "evaluation.rows=2", run=trained)
    result = report.load(folder)
    assert not any(arm.cached for arm in result.arms)
    assert result.facts["changed_terms"]["terms"] == [{"term": "token_limit", "before": 4, "now": 6}]
    outputs = [json.loads(line) for line in (folder / "outputs.jsonl").read_text().splitlines()]
    assert {record["answer_tokens"] for record in outputs if record["ended"] == "length"} == {6}


@pytest.mark.usefixtures("no_off_task_prompts")
def test_cut_answers_that_would_decide_are_continued_without_the_adapter(trained, evaluate, schema, monkeypatch):
    looks, build = [], report_builder.build
    monkeypatch.setattr(report_builder, "build", lambda facts, *rest: looks.append(facts["holdout"]["look"]) or build(facts, *rest))
    how = (schema, "evaluation.max_tokens=8")
    before = load_evidence(evaluate(*how, 'evaluation.arms=["base"]')).answers["base"]
    folder = evaluate(*how, 'evaluation.arms=["base", "tuned", "tuned+grammar"]', run=trained)
    answers, result = load_evidence(folder).answers["base"], report.load(folder)
    assert {one.answer_tokens for one in before if one.ended == "length"} == {8}
    assert all(longer.output.startswith(one.output) for one, longer in zip(before, answers, strict=True))
    assert result.facts["continued"] == {"base": 32, "tuned": 32}
    assert looks[-1] == looks[-2] == 1, "whether they decide is asked at the level of the report"
    assert verify(folder) == []
    stored = (folder / "report.json").read_text()
    (folder / "report.json").write_text(stored.replace('"continued"', '"kontinued"'))
    assert verify(folder)


@pytest.mark.usefixtures("no_off_task_prompts")
def test_automatic_token_limit_is_the_same_for_all_arms_and_verified(workspace, trained, evaluate):
    folder = evaluate("evaluation.max_tokens=auto", "evaluation.rows=2", run=trained)
    facts = report.load(folder).facts
    recipe = load(folder / "recipe.toml")
    shares = split(read_source(recipe.source), recipe.data)
    tokenizer = load_model(resolve(str(workspace / "tiny"))).tokenizer
    longest = max(len(tokenizer.encode(row.reference, add_special_tokens=False)) for row in [*shares.train, *shares.valid])
    assert facts["longest_reference"] == longest
    assert facts["decoding"]["max_tokens"] == max(2 * longest, longest + 64)
    assert verify(folder) == []
    stored = (folder / "report.json").read_text()
    (folder / "report.json").write_text(stored.replace(f'"longest_reference": {longest}', f'"longest_reference": {longest + 90}'))
    assert any("decoding, max_tokens" in difference for difference in verify(folder))


@pytest.mark.usefixtures("no_off_task_prompts")
def test_endpoint_is_a_rival_and_its_report_is_verified(workspace, trained, evaluate, schema, monkeypatch):
    monkeypatch.setenv("MLXTUNE_ENDPOINT_KEY", "sk-canary-90ab")
    with serve() as stub:
        stub.answer = lambda messages: '{"category": "a"}'
        endpoint = f'evaluation.endpoints.big={{ model = "big-1", url = "{stub.url}" }}'
        how = (endpoint, schema, "evaluation.max_tokens=8", "evaluation.rows=4")
        arms = 'evaluation.arms=["base", "endpoint:big", "tuned"]'
        folder = evaluate(*how, arms, run=trained)
        again = evaluate(*how, arms, run=trained)
    result = report.load(folder)
    assert [arm.name for arm in result.arms] == ["base", "endpoint:big", "constant", "copier", "tuned"]
    assert (result.headline.first, result.headline.second, result.outcome) == ("endpoint:big", "tuned", "cannot_tell")
    assert result.arms[1].answers
    assert result.facts["endpoints"]["endpoint:big"] == {"url": stub.url, "model": "big-1", "spent": 0.0}
    assert report.load(again).arms[1].cached
    assert len(stub.bodies) == 4
    assert verify(folder) == []
    files = [file for file in workspace.rglob("*") if file.is_file()]
    assert not any(b"sk-canary-90ab" in file.read_bytes() for file in files)


@pytest.mark.usefixtures("no_off_task_prompts")
@pytest.mark.parametrize("model", ["base", "big"])
def test_optimized_prompt_is_evidence_with_its_cost(evaluate, schema, model):
    pytest.importorskip("gepa")
    arms = 'evaluation.arms=["base", "base+optimized"]'
    how = [arms, schema, "evaluation.max_tokens=4", "evaluation.rows=2"]
    with serve() as stub:
        stub.answer = lambda messages: "```\nAnswer in JSON.\n```"
        if model == "big":
            endpoint = f'evaluation.endpoints.big={{ model = "big-1", url = "{stub.url}" }}'
            how += [endpoint, "evaluation.optimizer=big"]
        folder = evaluate(*how, "evaluation.optimizer_calls=12")
    facts = report.load(folder).facts["optimizer"]
    assert (facts["model"], facts["reflections"], facts["spent"]) == (model, len(stub.bodies) or facts["reflections"], 0.0)
    assert facts["reflections"]
    assert facts["calls"] >= 12
    assert facts["tokens"] > 0 < facts["seconds"]
    assert (folder / "optimized.md").read_text().strip()
    assert OPTIMIZED_PROMPT in (folder / "report.md").read_text()
    assert verify(folder) == []
    (folder / "optimized.md").write_text("Answer well.")
    assert any("optimized.md was changed" in difference for difference in verify(folder))
    assert Run(folder).state().arms["base+optimized"] == (2, 2)


@pytest.mark.usefixtures("no_off_task_prompts")
def test_training_rows_are_refused_and_not_sealed(workspace, trained, evaluate):
    with pytest.raises(InputError, match=r"trained or validated on \d+ of the \d+ rows"):
        evaluate("data.seed=8", run=trained)
    assert not splits.load_membership(workspace / "chat.jsonl").sealed
    evaluate("evaluation.max_tokens=2", run=trained)
    assert splits.load_membership(workspace / "chat.jsonl").sealed


@pytest.mark.usefixtures("no_off_task_prompts")
def test_a_split_that_cannot_be_recorded_is_a_warning(evaluate, monkeypatch):
    def fail(*_: Any, **__: Any) -> None:
        raise MachineError("The disk is full.")

    monkeypatch.setattr(worker, "record_splits", fail)
    folder = evaluate('evaluation.arms=["base"]', "evaluation.max_tokens=2")
    assert "split_not_recorded" in [warning.code for warning in Run(folder).state().warnings]


@pytest.mark.usefixtures("no_off_task_prompts")
@pytest.mark.parametrize(("limit", "code"), [("4", ""), ("300", "no_room"), ("auto", "")])
def test_default_arms_are_left_out_where_their_examples_leave_no_room(workspace, evaluate, schema, monkeypatch, limit, code):
    """A prompt without examples has 30 tokens, and one with examples about 250."""
    monkeypatch.setattr(arms, "find_spec", lambda name: None)
    config = workspace / "tiny" / "config.json"
    write_json(config, {**json.loads(config.read_text()), "max_position_embeddings": 450})
    how = (schema, f"evaluation.max_tokens={limit}", "evaluation.rows=1", "evaluation.arms=[]")
    folder = evaluate(*how)
    result = report.load(folder)
    assert result.facts["left_out"] == {
        **({"base+kshot": code} if code else {}),
        "base+grammar": "no_llguidance",
        "base+grammar+kshot": "no_llguidance",
    }
    assert [arm.name for arm in result.arms] == ["base", *([] if code else ["base+kshot"]), "constant", "copier"]
    assert "base+grammar: llguidance is not installed" in (folder / "report.md").read_text()


@pytest.mark.usefixtures("no_off_task_prompts")
def test_validation_rows_choose_the_strongest_untrained_arm(evaluate, schema):
    how = (schema, "evaluation.max_tokens=24", "evaluation.rows=3")
    folder = evaluate(*how, 'evaluation.arms=["base", "strongest"]')
    result = report.load(folder)
    assert result.facts["strongest"] == {
        "arm": "base+grammar",
        "hits": {"base+kshot": 0, "base+grammar": 2, "base+grammar+kshot": 2},
        "rows": 2,
    }
    assert [arm.name for arm in result.arms] == ["base", "base+grammar", "constant", "copier"]
    assert verify(folder) == []
    assert "base+grammar on 2 validation rows: base+kshot 0," in (folder / "report.md").read_text()
    text = (folder / "candidates.jsonl").read_text()
    (folder / "candidates.jsonl").write_text(text.replace("category", "kategory"))
    assert any("facts, strongest, hits, base+grammar is stored as 2" in difference for difference in verify(folder))


@pytest.mark.usefixtures("no_off_task_prompts")
def test_free_arms_are_in_every_report_and_computed_again_from_unchanged_rows(evaluate):
    folder = evaluate("evaluation.max_tokens=4", 'evaluation.arms=["base"]')
    result = report.load(folder)
    assert [arm.name for arm in result.arms] == ["base", "constant", "copier"]
    assert result.subject.name == "base"
    assert verify(folder) == []
    outputs = [json.loads(line) for line in (folder / "outputs.jsonl").read_text().splitlines()]
    rows = len(outputs) // 3
    for name, first in (("constant", rows), ("copier", 2 * rows)):
        forged = [{**one, "output": "Forged."} if one["arm"] == name else one for one in outputs]
        (folder / "outputs.jsonl").write_text("".join(json.dumps(one) + "\n" for one in forged))
        assert f"outputs.jsonl, {name}, {outputs[first]['id']}: the training rows give another answer." in verify(folder)


def test_stop_request_interrupts_generation(evaluate, monkeypatch):
    monkeypatch.setattr(Worker, "stopping", True)
    with pytest.raises(Interrupted):
        evaluate()
