"""The generation worker: ``python -m mlxtune.data.generate.worker GENERATION_DIR``.

A generation is a run. Its journal ``calls.jsonl`` has every question and reply, so that nothing is asked or paid for twice after a
crash, and ``stage-….json`` the prompts that were chosen, so that a resumed run asks the same questions. The rows that pass every filter
are added to the source's generated rows; ``refused.jsonl`` has the others with the reason.
"""

import json
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from mlxtune.core.files import read_json, write_json, write_text
from mlxtune.core.hashing import sha256_json
from mlxtune.core.json_fields import from_json, to_json
from mlxtune.data.checks.check_input import target_text
from mlxtune.data.checks.contract import ContractScorer
from mlxtune.data.checks.corpus import is_label, json_fields
from mlxtune.data.checks.labels import label_set
from mlxtune.data.duplicates import jaccard
from mlxtune.data.generate import questions
from mlxtune.data.generate.context import FirstStage, GenerationContext, first_stage, known_rows, load_context
from mlxtune.data.generate.lineage import KEY, Lineage
from mlxtune.data.generate.prompt_rules import PromptRules
from mlxtune.data.generate.questions import Subject, TeacherQuestion
from mlxtune.data.generate.request import GenerationRequest, TeacherSpec
from mlxtune.data.generate.selection import (
    HELD_OUT,
    SAME_ANSWER,
    KnownTexts,
    Proposal,
    Refusal,
    best_of_each,
    check_row,
    propose,
    ranked,
)
from mlxtune.data.generate.teachers import EndpointTeacher, LocalTeacher, Teacher, TeacherReply
from mlxtune.data.readers.turns import with_calls
from mlxtune.data.rows import Conversation, Location, Message, Preference, PromptRow, Row, assistant_message
from mlxtune.data.source_files import generated_path
from mlxtune.data.split import record_splits
from mlxtune.evaluation.answer_budget import answer_budget
from mlxtune.evaluation.check_process import contract_scorer
from mlxtune.evaluation.contract import Contract
from mlxtune.evaluation.judge import rubric
from mlxtune.evaluation.judge.endpoint import CostCapReached
from mlxtune.evaluation.judge.paid_calls import PaidCall, make_calls, read_calls
from mlxtune.evaluation.scorers import CORRECT, ModelAnswer
from mlxtune.models.cpu import blas
from mlxtune.models.resolve import resolve
from mlxtune.recipe import Recipe
from mlxtune.runs.worker import Worker, run_worker

CALLS, REPORT, REFUSED, SCORES = "calls.jsonl", "report.json", "refused.jsonl", "scores.jsonl"


def generate_rows(worker: Worker) -> dict[str, Any]:
    """Ask the teacher, filter its rows, and propose the rest; return the summary."""
    recipe, request = worker.recipe, from_json(GenerationRequest, worker.request)
    worker.report_start("generate")
    context = load_context(recipe, request)
    record_splits(context.source, recipe.data, context.splits)  # so that generated rows never change the split
    answers = [target_text(row) for row in context.train]
    labels = recipe.evaluation.labels or (label_set(answers) if all(map(is_label, answers)) else ())
    limited = replace(recipe, evaluation=replace(recipe.evaluation, labels=list(labels)))
    teacher, count_tokens = _open_teacher(worker, limited, request.teacher, context)
    run = _Generation(worker, request, context, teacher)
    scorer = contract_scorer(limited, {})
    if request.task == "scores":
        summary = run.score_rows()
    else:
        subjects = run.choose_subjects(first_stage(context, recipe, request))
        summary = run.propose_rows(subjects, scorer, count_tokens)
    return summary | {"teacher": teacher.name, "spent": round(teacher.meter.spent, 6)}


class _Generation:
    """One generation: asks the teacher in stages, and collects refused rows."""

    def __init__(self, worker: Worker, request: GenerationRequest, context: GenerationContext, teacher: Teacher) -> None:
        self.worker, self.request, self.context, self.teacher = worker, request, context, teacher
        self.refusals: list[Refusal] = []
        self.known = KnownTexts(known_rows(context, worker.recipe))
        self.rules = PromptRules(context.train)
        # the languages of the rows say more than those of one row
        self.muted = {*context.review.muted, *(["language"] if self.rules.languages else [])}
        self.capped = False

    def choose_subjects(self, first: FirstStage) -> list[Subject]:
        """Return the prompts to answer. New ones must not repeat any row of the source, or one another."""
        if first.subjects and self.request.task in ("pairs", "retries"):
            return list(first.subjects)
        file = self.worker.folder / "stage-prompts.json"
        if file.is_file():
            saved = read_json(file)
            self.refusals += [Refusal(**one) for one in saved["refused"]]
            return [from_json(Subject, one) for one in saved["subjects"]]
        candidates = list(first.subjects)
        if first.questions:
            replies = self.ask("prompts", first.questions)
            for question in first.questions:
                if reply := replies.get(question.key):
                    candidates += self._new_subjects(first, question, reply)
        kept: list[Subject] = []
        repeated = self.known.repeated(list(map(self.context.without_answer, candidates)))
        for subject, known in zip(candidates, repeated, strict=True):
            fault = self.rules.fault(subject.prompt[-1].content) if first.questions else ""
            if kind := fault or (f"repeats_{known}" if known else ""):
                self._refuse(kind, subject.prompt[-1].content)
            else:
                kept.append(subject)
        rows = [Proposal(number, self.context.without_answer(subject)) for number, subject in enumerate(kept)]
        kept = [kept[one.subject] for one in ranked(rows, self.context.train)] if first.questions else kept
        kept = kept[: first.most_subjects(self.request.count)]
        record = {"subjects": [asdict(subject) for subject in kept], "refused": [asdict(one) for one in self.refusals]}
        write_json(file, record)
        return kept

    def propose_rows(
        self, subjects: Sequence[Subject], scorer: ContractScorer | None, count_tokens: Callable[[Row], Any]
    ) -> dict[str, Any]:
        """Answer ``subjects``, refuse what breaks a rule, and propose the best answer to each; write the report."""

        def check(row: Row) -> Refusal | None:
            if refusal := check_row(row, scorer, count_tokens(row), self.worker.recipe.data.max_tokens, self.muted):
                return refusal
            if not self.rules.allows(row):
                return Refusal("other_language", target_text(row))
            return Refusal(f"repeats_{HELD_OUT}", target_text(row)) if self.known.copies_held_out(row) else None

        best = self._choose(self._answers(subjects, check))
        order = ranked(best, self.context.train)[: self.request.count]
        rows = [replace(one.row, meta=one.row.meta | {KEY: one.row.meta[KEY] | {"scores": one.scores}}) for one in order]
        return self._propose(rows)

    def _answers(self, subjects: Sequence[Subject], check: Callable[[Row], Refusal | None]) -> list[Proposal]:
        request = self.request
        train = [row for row in self.context.train if isinstance(row, Conversation)]
        knows_task = not self.teacher.uses_examples or request.task == "retries"
        asked = questions.answer_questions(subjects, train, request.candidates, request.seed, knows_task=knows_task)
        replies = self.ask("answers", [question for _, own in asked for question in own])
        proposals = []
        for number, (subject, own) in enumerate(asked):
            texts = set[str]()
            for question in own:
                reply = replies.get(question.key)
                text = reply.text.strip() if reply else ""
                if not reply:
                    self._refuse("no_reply", subject.prompt[-1].content)
                elif not text or reply.ended != "stop":
                    self._refuse("cut_off" if text else "empty", text)
                elif text not in texts:
                    texts.add(text)
                    row = self._row(subject, question, reply)  # a call is still text, which the contract scores
                    if refusal := check(row) or self._judge(subject, text):
                        self.refusals.append(refusal)
                    else:
                        if isinstance(row, Conversation):
                            row = replace(row, messages=with_calls(row.messages, row.tools))
                        proposals.append(Proposal(number, row))
        return proposals

    def _judge(self, subject: Subject, text: str) -> Refusal | None:
        """Return why an answer is refused by the subject's reference: it is not correct, or says the same."""
        if not subject.reference:
            return None
        contract = Contract.from_recipe(self.worker.recipe)
        prompt = "\n\n".join(message.content for message in subject.prompt)
        if contract.section.correct:
            score = contract.score_metric(CORRECT, ModelAnswer(text, reference=subject.reference, prompt=prompt))
            if score is None or not score.passed:
                return Refusal("not_correct", text, score.kind if score else "")
        return Refusal("no_difference", text) if jaccard(text, subject.reference) >= SAME_ANSWER else None

    def _choose(self, proposals: Sequence[Proposal]) -> list[Proposal]:
        """Return the best answer to each subject; refuse the others, and worse answers of pairs that repeat another one."""
        best, others = best_of_each(self._graded(proposals))
        for _ in others:
            self._refuse("not_best", "")
        if self.request.task != "pairs":
            return best
        kinds = self.known.repeated([one.row for one in best])
        for kind in filter(None, kinds):
            self._refuse(f"repeats_{kind}", "")
        return [one for one, kind in zip(best, kinds, strict=True) if not kind]

    def _propose(self, rows: Sequence[Row]) -> dict[str, Any]:
        count = propose(self.context.source.path, rows)
        refused = dict(Counter(one.kind for one in self.refusals).most_common())
        lines = (json.dumps(asdict(one), ensure_ascii=False) + "\n" for one in self.refusals)
        write_text(self.worker.folder / REFUSED, "".join(lines))
        self.worker.emit("rows.proposed", proposed=len(rows), refused=refused)
        summary = {"proposed": len(rows), "refused": refused}
        details = {"new": count, "rows": [row.id for row in rows], "capped": self.capped, "spent": self.teacher.meter.spent}
        write_json(self.worker.folder / REPORT, {"v": 1, "request": to_json(self.request), **summary, **details})
        return summary

    def score_rows(self) -> dict[str, Any]:
        """Grade the example rows by the rubric, worst first; write ``scores.jsonl``."""
        graded = self._graded([Proposal(number, row) for number, row in enumerate(self.context.examples[: self.request.count])])
        graded.sort(key=lambda one: one.grade)
        lines = [{"id": one.row.id, "line": one.row.location.number, "grade": one.grade, "scores": one.scores} for one in graded]
        write_text(self.worker.folder / SCORES, "".join(json.dumps(line) + "\n" for line in lines))
        return {"scored": len(lines), "mean": round(sum(one.grade for one in graded) / max(1, len(graded)), 3)}

    def ask(self, stage: str, asked: Sequence[TeacherQuestion]) -> dict[str, TeacherReply]:
        """Return the replies to the questions of a stage by key. Those that are already in the journal are not asked again."""
        size = self.teacher.batch_size
        batches = [asked[at : at + size] for at in range(0, len(asked), size)]
        file = self.worker.folder / CALLS
        before = read_calls(file)
        name, total = self.teacher.name, len(asked)
        self.worker.emit("arm.started", arm=name, rows=total, of="question")
        report = self.worker.progress_reporter(name, "question")
        done = 0

        def progress(count: int, _: int) -> None:
            nonlocal done
            done = sum(map(len, batches[:count]))
            report(done, total)

        def paid(batch: Sequence[TeacherQuestion]) -> PaidCall:
            key = sha256_json([stage, *(question.key for question in batch)])[:32]
            worst = sum(self.teacher.meter.worst_case(question.messages) for question in batch)
            answered = lambda ended, _: report(min(total, done + ended), total)  # noqa: E731
            return PaidCall(key, {"stage": stage}, worst, lambda: self.teacher.ask(batch, answered))

        calls = list(map(paid, batches))
        try:
            known = {*before.replies, *before.lost}
            make_calls(calls, self.teacher.meter, file, progress, workers=self.teacher.workers, done=known)
        except CostCapReached as error:
            self.capped = True
            self.worker.warn("generation_capped", error=error.message)
        self.worker.emit("arm.finished", arm=name, rows=total, of="question", cached=False, seconds=0.0)
        journal, result = read_calls(file).replies, {}
        for call, batch in zip(calls, batches, strict=True):
            match journal.get(call.key):  # a damaged record has no replies
                case {"replies": [*replies]} if len(replies) == len(batch):
                    for question, one in zip(batch, replies, strict=True):
                        result[question.key] = TeacherReply(str(one["text"]), str(one["ended"]), int(one["seed"]))
        return result

    def _new_subjects(self, first: FirstStage, question: TeacherQuestion, reply: TeacherReply) -> list[Subject]:
        """Return the prompts in a reply. Prompts from a document must quote it."""
        if self.request.task == "variations":
            rows = first.groups[question.about]
            prompts = questions.read_prompts_reply(reply.text)
            if not prompts:
                self._refuse("wrong_form", reply.text)
            return [self.context.new_subject(prompt, rows) for prompt in prompts]
        passage = first.passages[question.about]
        found = questions.read_document_reply(reply.text, passage)
        if not found:
            self._refuse("wrong_form", reply.text)
        subjects = []
        for prompt, span in found:
            if span is None:
                self._refuse("no_source", prompt)
            else:
                context = f"Answer from this passage only:\n{passage.text}"
                subjects.append(replace(self.context.new_subject(prompt), source=span, context=context))
        return subjects

    def _graded(self, proposals: Sequence[Proposal]) -> list[Proposal]:
        if not self.request.rubric:
            return list(proposals)
        chosen = rubric.load_rubric(self.request.rubric)
        asked: dict[tuple[int, str], TeacherQuestion] = {}
        for number, proposal in enumerate(proposals):
            prompt, answer = _graded_answer(proposal.row)
            mark = sha256_json([proposal.row.hash, "grade"])[:8]
            for one in chosen.questions:
                messages = tuple(rubric.grading_messages(one, prompt, answer, mark))
                asked[number, one.name] = TeacherQuestion(number, 0, messages)
        replies = self.ask("grades", list(asked.values()))
        result = []
        for number, proposal in enumerate(proposals):
            scores = {}
            for one in chosen.questions:
                reply = replies.get(asked[number, one.name].key)
                grade = rubric.parse_grade(one, reply.text, _graded_answer(proposal.row)[1]) if reply else None
                if grade is not None and grade.value is not None:
                    low, high = (1, rubric.STEPS) if one.anchors else (0, 1)
                    scores[one.name] = 0.0 if grade.problem else (grade.value - low) / (high - low)
            result.append(replace(proposal, scores=scores))
        return result

    def _row(self, subject: Subject, question: TeacherQuestion, reply: TeacherReply) -> Row:
        """Return the row with its lineage. The teacher's reply is only ever the text of an answer."""
        lineage = Lineage(
            self.request.task, self.teacher.name, self.teacher.host, self.worker.folder.name, question.messages[-1]["content"],
            reply.seed, subject.examples, {}, subject.source, subject.flaw,
        )  # fmt: skip
        text = reply.text.strip()
        fields = {} if subject.good else json_fields(text)
        shared = {key: value for key, value in subject.meta.items() if fields.get(key, value) == value}
        meta = {**shared, KEY: to_json(lineage)}  # metadata that the answer contradicts does not describe the new row
        location = Location(generated_path(self.context.source.path), 1)
        if subject.good:
            return Preference(location, meta, subject.prompt, subject.good, text, subject.tools)
        return Conversation(location, meta, (*subject.prompt, assistant_message(text)), subject.tools)

    def _refuse(self, kind: str, text: str) -> None:
        self.refusals.append(Refusal(kind, text[:500]))


def _open_teacher(
    worker: Worker, recipe: Recipe, spec: TeacherSpec, context: GenerationContext
) -> tuple[Teacher, Callable[[Row], Any]]:
    """Return the teacher, and a function that counts a row's tokens with the recipe's own tokenizer."""
    from mlxtune.models import load, lora  # these import mlx, which must be loaded after the BLAS
    from mlxtune.models.template import TemplateSettings, load_template
    from mlxtune.training.encode import count_row_tokens

    template = load_template(resolve(recipe.model.base, relative_to=recipe.folder), TemplateSettings.from_recipe(recipe))
    if spec.model:
        return EndpointTeacher(spec), lambda row: count_row_tokens(template, row)
    loaded = load.load(resolve(spec.base, relative_to=recipe.folder), quantize=recipe.model.quantize if spec.adapter else 0)
    worker.emit("model.loaded", **loaded.event)
    if spec.adapter:
        lora.load(loaded.model, Path(spec.adapter))
    loaded.model.eval()
    budget = answer_budget(recipe.evaluation, context.train, template.count_tokens)
    return LocalTeacher(spec, recipe, loaded, budget.max_tokens), lambda row: count_row_tokens(template, row)


def _graded_answer(row: Row) -> tuple[tuple[Message, ...], str]:
    assert isinstance(row, PromptRow)
    return row.prompt, row.rejected if isinstance(row, Preference) else row.reference or ""


if __name__ == "__main__":
    blas.preload()
    sys.exit(run_worker(Path(sys.argv[1]), generate_rows))
