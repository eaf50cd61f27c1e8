"""Send the held-out rows to an installed program, and compare its answers with those of the adapter as trained."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Literal, TypedDict

from mlxtune.adapters.export import fidelity
from mlxtune.adapters.export.compared_rows import EXPORTED, ComparedRows
from mlxtune.adapters.export.endpoint_prompts import rendered_prompt
from mlxtune.adapters.export.fidelity import PromptCheck, PromptDifference, Verification, compare_tokens
from mlxtune.data.rows import PromptRow
from mlxtune.evaluation.arms import TUNED, Arm
from mlxtune.evaluation.endpoint_answers import CALLS, endpoint_answers, row_requests
from mlxtune.evaluation.judge.paid_calls import read_calls
from mlxtune.models import load, lora
from mlxtune.models.resolve import resolve
from mlxtune.models.template import ChatTemplate
from mlxtune.recipe import Endpoint
from mlxtune.runs.events import HELD_OUT_ROW
from mlxtune.runs.worker import Worker

_PROMPT = "prompt"  # progress label while prompts are compared


class VerificationSummary(TypedDict):
    """The summary of ``run.finished``."""

    export: str
    failure: Literal["", "prompts", "contract"]


def verify(worker: Worker) -> VerificationSummary:
    """Compare the program's prompts and answers with the adapter's, and write ``verification.json``."""
    recipe, request = worker.recipe, worker.request
    worker.report_start("export")
    adapter, url, model = Path(request["adapter"]), request["endpoint"], request["model"]
    source = resolve(recipe.model.base, relative_to=recipe.folder)
    rows = ComparedRows(worker)
    loaded = load.load(source, quantize=recipe.model.quantize)
    lora.load(loaded.model, adapter)
    own, tokens = rows.answers(loaded, TUNED, adapter)
    template = rows.template(loaded)

    prompts, difference = _compare_prompts(worker, rows.rows, [prompt for prompt, _ in tokens], template)
    arm = Arm(EXPORTED, endpoint=Endpoint(model, url))
    limit = rows.max_tokens(template) + (0 if recipe.model.thinking == "off" else recipe.evaluation.thinking_tokens)
    worker.emit("arm.started", arm=arm.name, rows=len(rows.rows), of=HELD_OUT_ROW)
    answers, _ = endpoint_answers(
        arm, Endpoint(model, url), rows.rows, max_tokens=limit, cache=worker.folder, tell=partial(worker.progress_reporter, arm.name),
        count_tokens=template.count_tokens,
        workers=1,  # many programs answer one request at a time, and one that waits for three others may be timed out
    )  # fmt: skip
    worker.emit("arm.finished", arm=arm.name, rows=len(rows.rows), cached=False, seconds=answers.seconds, of=HELD_OUT_ROW)
    if prompts == "none":
        prompts, difference = _compare_counts(worker.folder, arm, rows.rows, [len(prompt) for prompt, _ in tokens])
    result = Verification(request["export"], url, model, prompts, difference, rows.compare(own, answers.answers))
    fidelity.save(result, worker.folder)
    return {"export": request["export"], "failure": result.failure}


def _compare_prompts(
    worker: Worker, rows: Sequence[PromptRow], expected: Sequence[list[int]], template: ChatTemplate
) -> tuple[PromptCheck, PromptDifference | None]:
    url, model, tokenizer = worker.request["endpoint"], worker.request["model"], template.tokenizer
    bos = template.added_bos
    tell = worker.progress_reporter(EXPORTED, _PROMPT)
    for done, (row, tokens) in enumerate(zip(rows, expected, strict=True), 1):
        rendered = rendered_prompt(url, model, row, lambda text: tokenizer.encode(bos + text, add_special_tokens=False))
        if rendered is None:
            return "none", None
        if difference := compare_tokens(row.id, tokens, rendered, tokenizer.decode):
            return "tokens", difference
        tell(done, len(rows))
    return "tokens", None


def _compare_counts(
    folder: Path, arm: Arm, rows: Sequence[PromptRow], expected: Sequence[int]
) -> tuple[PromptCheck, PromptDifference | None]:
    """Compare the number of tokens in every prompt, if the program reported it with its answers."""
    replies = {key: reply for file in folder.glob(f"*{CALLS}") for key, reply in read_calls(file).replies.items()}
    for (key, *_), row, count in zip(row_requests(arm, rows), rows, expected, strict=True):
        reported = replies[key].get("prompt_tokens")
        if reported is None:
            return "none", None
        if reported != count:
            return "counts", PromptDifference(row.id, -1, str(count), str(reported))
    return "counts", None
