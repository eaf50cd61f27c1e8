"""The rows on which an export and its adapter are compared, and the answers to them."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from mlxtune.adapters.export.fidelity import ComparedAnswers
from mlxtune.core.hashing import sha256_file
from mlxtune.data.source import read_source
from mlxtune.data.split import prompt_rows, sample_rows, split
from mlxtune.evaluation.answer_budget import answer_budget
from mlxtune.evaluation.answers import Answer, score_answers
from mlxtune.evaluation.arms import TUNED, Arm
from mlxtune.evaluation.contract import Contract
from mlxtune.evaluation.evidence import grouped_rows
from mlxtune.evaluation.history import contract_hash
from mlxtune.evaluation.holdout import ledger
from mlxtune.evaluation.off_task import prompts
from mlxtune.evaluation.outputs import AnswerOptions, generate_answers
from mlxtune.evaluation.report_builder import both_passed
from mlxtune.evaluation.scorers import CONTRACT
from mlxtune.evaluation.verdict import Comparison, compare
from mlxtune.models.load import LoadedModel
from mlxtune.models.template import ChatTemplate, TemplateSettings, load_template
from mlxtune.runs.events import HELD_OUT_ROW
from mlxtune.runs.worker import Worker

EXPORTED = "exported"
OFF_TASK_PROMPTS = 38  # not all of them: fidelity compares the logits at every token of an answer


class ComparedRows:
    """The rows on which models are compared: held-out rows with their contract, or mlxtune's off-task prompts."""

    def __init__(self, worker: Worker) -> None:
        recipe = worker.recipe
        self.worker, self.section = worker, recipe.evaluation
        if worker.request["rows"] == "held-out":
            source = read_source(recipe.source, recipe.data)
            splits = split(source, recipe.data)
            # all of them if sizes are tried, which hold only on enough rows
            self.rows = sample_rows(prompt_rows(splits.prompts), 0 if worker.request.get("smallest") else recipe.evaluation.rows)
            self.evaluated = grouped_rows(recipe, self.rows, source.rows)
            self.training_rows = [*splits.train, *splits.valid]
            self.contract: Contract | None = Contract.from_recipe(recipe)
        else:
            chosen = prompts.sample_prompts(prompts.read_prompts(recipe.source), OFF_TASK_PROMPTS)
            self.rows = prompt_rows([prompt.row() for prompt in chosen])
            self.contract = None

    def answers(
        self, loaded: LoadedModel, name: str, adapter: Path | None, source: str = "", file: Path | None = None
    ) -> tuple[tuple[Answer, ...], list[tuple[list[int], list[int]]]]:
        """Return greedy answers, and the tokens of each prompt and answer (including the stop token, if there is one).

        ``source`` is the chat template of a model whose own template is frozen; ``file`` is the GGUF file whose weights replaced its own.
        """
        template, tokenizer = self.template(loaded, source), loaded.tokenizer
        arm, kind = Arm(name, adapter), HELD_OUT_ROW if self.contract else prompts.OFF_TASK
        self.worker.emit("arm.started", arm=name, rows=len(self.rows), of=kind)
        own = self.worker.folder / "cache" / (sha256_file(file) if file else "")  # the keys in a cache have only the base's hash
        cache = self.worker.folder.parent.parent / "evals" / "cache" if adapter else own
        section, tell = self.section, partial(self.worker.progress_reporter, name)
        timed = bool(self.worker.request.get("smallest")) and not (adapter or file)  # of a model folder whose size is tried
        options = AnswerOptions(
            template.settings, self.max_tokens(template), section.thinking_tokens, section.batch_size, cache, section.stop_loops,
            self.contract.schema_document if self.contract else None,
        )  # fmt: skip
        answers = generate_answers(arm, loaded, self.rows, options, tell, of=kind, score_references=False, timed=timed)
        self.worker.emit("arm.finished", arm=name, rows=len(self.rows), cached=answers.cached, seconds=answers.seconds, of=kind)
        tokens = []
        for row, output in zip(self.rows, answers.answers, strict=True):
            answer: list[int] = tokenizer.encode(output.output, add_special_tokens=False)
            if output.ended == "stop" or not answer:
                answer = [*answer, tokenizer.eos_token_id]
            tokens.append((template.prompt(arm.prompt_for(row), row.tools), answer))
        return answers.answers, tokens

    def template(self, loaded: LoadedModel, source: str = "") -> ChatTemplate:
        """Return the chat template with which the adapter was trained; ``source`` replaces that of ``loaded``."""
        settings = TemplateSettings.from_recipe(self.worker.recipe)
        return load_template(loaded.source, replace(settings, source=settings.source or source), loaded.tokenizer)

    def max_tokens(self, template: ChatTemplate) -> int:
        if self.contract is None:
            return prompts.MAX_TOKENS
        return answer_budget(self.section, self.training_rows, template.count_tokens).max_tokens

    def compare(self, first: Sequence[Answer], second: Sequence[Answer], name: str = EXPORTED) -> ComparedAnswers:
        """Compare the outputs of the adapter and of the model ``name``, also on each of the contract's required metrics.

        The ledger records each model that answered held-out rows as a look.
        """
        if self.contract is not None:
            folder, recipe, adapter = self.worker.folder, self.worker.recipe, self.worker.request["adapter"]
            result = ledger.result_hash(contract_hash(recipe), {TUNED: first, EXPORTED: second})
            path, rows = folder.parent.parent / "evals" / ledger.FILE, [row.id for row in self.rows]
            ledger.record(path, "fidelity", f"{folder.name} {name}", rows, result=result, adapter=adapter)
        same = sum(one.output == two.output for one, two in zip(first, second, strict=True))
        return ComparedAnswers(len(self.rows), same, self._rates(first, second))

    def _rates(self, first: Sequence[Answer], second: Sequence[Answer]) -> tuple[Comparison, ...]:
        if self.contract is None:
            return ()
        one, two = ([answer.scores for answer in score_answers(self.contract, self.evaluated, own)] for own in (first, second))
        names, groups = (*self.contract.required_metrics, CONTRACT), [row.group for row in self.evaluated]
        compared = ((name, *both_passed(name, one, two, groups)) for name in names)
        return tuple(compare(name, TUNED, EXPORTED, passed, own) for name, passed, own in compared if passed)
