"""Check the scorers against cases with known results, and against public conformance suites if available.

The suites are nst/JSONTestSuite (the ``test_parsing`` folder) and json-schema-org/JSON-Schema-Test-Suite (draft 2020-12).
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from itertools import product
from operator import eq
from pathlib import Path
from typing import Any

from mlxtune.core.errors import InputError
from mlxtune.data.rows import Message
from mlxtune.evaluation.contract import Contract
from mlxtune.evaluation.evidence import AnswerPair
from mlxtune.evaluation.judge.judge_report import build_judge_report
from mlxtune.evaluation.judge.judge_session import SENTINELS, JudgeCall, JudgeSession
from mlxtune.evaluation.judge.rubric import Rubric, RubricQuestion
from mlxtune.evaluation.report_builder import metric_rates
from mlxtune.evaluation.scorers import ModelAnswer, Score
from mlxtune.evaluation.scorers.correct import score_correct
from mlxtune.evaluation.scorers.disclaimer import score_disclaimers
from mlxtune.evaluation.scorers.json_forms import score_extracted, score_json
from mlxtune.evaluation.scorers.number import score_number
from mlxtune.evaluation.scorers.schema_valid import SchemaValidator
from mlxtune.evaluation.scorers.text_rules import score_forbidden
from mlxtune.recipe import Disclaimer, EvaluationSection, Length

_CASES: Mapping[str, Any] = json.loads(files(__package__).joinpath("cases.json").read_text("utf-8"))
# Outputs: their class of failure as raw JSON ("" = valid), and whether they contain JSON.
JSON: tuple[tuple[str, bool, Sequence[str]], ...] = (
    *map(tuple, _CASES["json"]),
    ("", True, ("-" + "9" * 5000, "[" * 512 + "]" * 512)),
    ("too_deep", False, ("[" * 513 + "]" * 513, "[" * 100_000)),
)
CUT_OFF = tuple(_CASES["cut_off"])  # at the token limit
SENTENCE = "This is general guidance, not professional advice."
DISCLAIMERS = tuple(  # classes of failure for the strict and the fuzzy scorer, and outputs
    (kinds, [output.replace("{S}", SENTENCE) for output in outputs]) for kinds, outputs in _CASES["disclaimers"]
)
ASKED = f"End every answer with: {SENTENCE}\n\nMy stove hisses. The manual says “{SENTENCE}” What now?"


def known_rates() -> tuple[Contract, list[ModelAnswer], dict[str, int]]:
    """Return a contract, 100 outputs, and how many of them pass each metric, counted by hand."""
    schema = SchemaValidator(
        {"type": "object", "required": ["kind", "reply"], "properties": {"kind": {"enum": ["safety", "order"]}}}
    )
    rule = Disclaimer(SENTENCE, when={"kind": "safety"}, match="fuzzy", at="/reply")
    length = Length(max=120, at="/reply")
    section = EvaluationSection(disclaimers=[rule], forbid=["Northpeak"], length=length, correct=["fields"])
    answers = [ModelAnswer(*answer) for count, *answer in _CASES["rates"] for _ in range(count)]
    return Contract(section, schema), answers, _CASES["expected"]


JSON_SUITE, SCHEMA_SUITE = "jsontestsuite", "jsonschema2020-12"

# Mandatory tests in the schema suite's format.json that have a different result here, and the reason.
_EXCEPTION, _REASON = "only an annotation by default", "formats are validated here: a reply that is not an e-mail address fails"

Cases = Iterable[tuple[str, Callable[[], bool]]]


@dataclass(frozen=True)
class SelftestResult:
    """A check: the number of cases with the expected result, the names of all other cases, and a note."""

    name: str
    right: int
    total: int
    wrong: tuple[str, ...] = ()
    note: str = ""

    @property
    def passed(self) -> bool:
        return not self.wrong


def run_checks(suites: Path | None = None) -> Iterator[SelftestResult]:
    """Run every check, including the suites in the folder ``suites``. Raises ``InputError`` if it has no suites."""
    yield _counted("JSON: built-in cases", _json_cases())
    yield _counted("schema: built-in cases", _schema_cases())
    yield _counted("disclaimers: built-in cases", _disclaimer_cases())
    yield _counted("texts: built-in cases", _text_cases())
    yield _counted("correct: built-in cases", _correct_cases())
    yield _counted("known rates", _known_rates(), "100 outputs")
    yield _counted("judge: sentinels", _judge_cases(), "simulated judges")
    if suites and not any((suites / name).is_dir() for name in (JSON_SUITE, SCHEMA_SUITE)):
        raise InputError(f"{suites} has neither {JSON_SUITE} nor {SCHEMA_SUITE}.", hint="Specify the folder that contains them.")
    for name, check in ((JSON_SUITE, json_suite), (SCHEMA_SUITE, schema_suite)):
        if suites and (suites / name).is_dir():
            yield from check(suites / name)


def json_suite(folder: Path) -> Iterator[SelftestResult]:
    """Score each file of the parsing suite as an output: ``y_`` must pass, ``n_`` must fail, and ``i_`` must not raise."""

    def matches(file: Path, expected: bool | None) -> bool:
        answer = ModelAnswer(file.read_bytes().decode("utf-8", "surrogateescape"))
        raw, extracted = score_json(answer).passed, score_extracted(answer).passed
        return (expected is None or raw == expected) and raw <= extracted

    files = sorted(folder.glob("[yni]_*.json"))
    for letter, name, expected in (("y", "accepted", True), ("n", "refused", False), ("i", "decided", None)):
        cases = ((file.name, partial(matches, file, expected)) for file in files if file.name[0] == letter)
        yield _counted(f"JSON suite: {letter}_ {name}", cases)


def schema_suite(folder: Path) -> Iterator[SelftestResult]:
    """Run the schema suite: mandatory tests, optional tests and formats. Remote schemas are read from the suite's folder."""
    remotes = folder / "remotes"
    documents = {
        f"http://localhost:1234/{file.relative_to(remotes).as_posix()}": json.loads(file.read_text("utf-8"))
        for file in remotes.rglob("*.json")
    }
    tests = folder / "tests" / "draft2020-12"
    for name, pattern in (("mandatory", "*.json"), ("optional", "optional/*.json"), ("formats", "optional/format/*.json")):
        excluded: list[str] = []
        cases = list(_schema_tests(sorted(tests.glob(pattern)), documents, excluded))
        yield _counted(f"schema suite: {name}", cases, f"{len(excluded)} excluded: {_REASON}" if excluded else "")


def _schema_tests(files: Iterable[Path], documents: dict[str, Any], excluded: list[str]) -> Cases:
    def as_expected(schema: Any, value: Any, valid: bool) -> bool:
        return SchemaValidator(schema, documents).score_value(value).passed == valid

    for file in files:
        for group in json.loads(file.read_text("utf-8")):
            for test in group["tests"]:
                name = f"{file.stem}: {group['description']}: {test['description']}"
                if file.name == "format.json" and _EXCEPTION in test["description"]:
                    excluded.append(name)
                else:
                    yield name, partial(as_expected, group["schema"], test["data"], test["valid"])


def _json_cases() -> Cases:
    def matches(output: str, ended: str, kind: str, found: bool | None) -> bool:
        answer = ModelAnswer(output, ended)
        raw = score_json(answer)
        return raw.passed == (not kind) and raw.kind == kind and found in (None, score_extracted(answer).passed)

    for kind, found, outputs in JSON:
        yield from ((repr(output[:60]), partial(matches, output, "stop", kind, found)) for output in outputs)
    for output in CUT_OFF:
        yield f"cut off: {output!r}", partial(matches, output, "length", "cut_off", None)


def _schema_cases() -> Cases:
    def refused(address: str) -> bool:
        try:
            SchemaValidator({"$ref": address})
        except InputError:
            return True
        return False

    def fails(schema: Any, value: Any, kind: str) -> bool:
        return SchemaValidator(schema).score_value(value).kind == kind

    for address in ("http://example.invalid/schema.json", "file:///etc/hosts", "other.json"):
        yield f"not fetched: {address}", partial(refused, address)
    for pattern in ("^(a+)+$", "(a|aa)+\\1$", "^(?:(?!x)a|aa)+$"):
        yield f"hostile pattern: {pattern}", partial(fails, {"pattern": pattern}, "!" + "a" * 30_000 + "!", "/ pattern")
    prices = {"properties": {"items": {"items": {"properties": {"price": {"type": "number"}}}}}}
    yield "path and keyword", partial(fails, prices, {"items": [{"price": 1}, {"price": "2"}]}, "/items/*/price type")
    yield "formats", partial(fails, {"format": "date"}, "2026-02-30", "/ format")
    yield "true as integer", partial(fails, {"type": "integer"}, True, "/ type")


def _disclaimer_cases() -> Cases:
    rules = [Disclaimer(SENTENCE, match="fuzzy")]

    def judged(output: str, kind: str, fuzzy: bool) -> bool:
        return score_disclaimers(ModelAnswer(output, prompt=ASKED), rules, fuzzy).kind == kind

    for kinds, outputs in DISCLAIMERS:
        for output, (fuzzy, kind) in product(outputs, enumerate(kinds)):
            yield f"{'fuzzy' if fuzzy else 'strict'}: {output[:60]!r}", partial(judged, output, kind, bool(fuzzy))


def _text_cases() -> Cases:
    def matches(scorer: Callable[..., Score], answer: ModelAnswer, passes: bool, **options: Any) -> bool:
        return scorer(answer, **options).passed == passes

    for output, phrase, found in _CASES["phrases"]:  # and whether the output contains the phrase
        yield f"{phrase} in {output!r}", partial(matches, score_forbidden, ModelAnswer(output), not found, phrases=[phrase])
    for output, reference, equal in _CASES["numbers"]:  # and whether their final numbers are equal
        yield f"{reference} as {output!r}", partial(matches, score_number, ModelAnswer(output, reference=reference), equal)


def _correct_cases() -> Cases:
    def classed(part: str, answer: ModelAnswer, kind: str) -> bool:
        score = score_correct(answer, [part])
        return score.passed == (not kind) and score.kind == kind

    for part, output, reference, kind in _CASES["correct"]:
        yield f"{part}: {output[:60]!r}", partial(classed, part, ModelAnswer(output, reference=reference), kind)


def _known_rates() -> Cases:
    contract, answers, expected = known_rates()
    hits = {rate.metric: rate.hits for rate in metric_rates([contract.score(answer) for answer in answers])}
    for metric in expected | hits:
        yield f"{metric}: {hits.get(metric)} ≠ {expected.get(metric)}", partial(eq, hits.get(metric), expected.get(metric))


_RUBRIC = Rubric(
    (RubricQuestion("thanks", "Does it thank?"), RubricQuestion("voice", "How warm is it?", ("1", "2", "3", "4", "5")))
)
_TARGETS = ("thanks", "voice", "a pair")
_ROWS = tuple(
    AnswerPair(
        f"row {number}", number, f"{number}", f"Dear customer, {number}", (Message("user", f"Where is parcel {number}?"),),
        first=f"plain {number}", second=f"Thank you, {number}",
    )
    for number in range(4)
)  # fmt: skip


def _judge_cases() -> Cases:
    """Simulated judges: one that approves a sentinel must be reported as unreliable, and an honest one must not."""
    yield "an honest judge", partial(_reported, _honest, {})
    for name in SENTINELS:
        for target in _TARGETS:
            yield f"{name}: {target}", partial(_reported, partial(_fooled, name, target, True), {name: (target,)})
        yield f"{name}: no evidence", partial(_reported, partial(_fooled, name, "thanks", False), {name: ("thanks",)})
    yield "unreadable replies", partial(_reported, lambda call: "Yes, certainly.", {}, unusable=True)


def _reported(judge: Callable[[JudgeCall], str], faults: dict[str, tuple[str, ...]], *, unusable: bool = False) -> bool:
    session = JudgeSession(1, "", ("base", "tuned"), "simulated", "", len(_ROWS), _RUBRIC, 7, rows=_ROWS)
    report = build_judge_report(session, {call.key: call.read(judge(call)) for call in session.calls}, {}, 0.0)
    return report.faults == faults and bool(report.unusable) == unusable


def _honest(call: JudgeCall) -> str:
    """Prefer answers that thank or greet the customer, and quote them as evidence."""
    good = [answer.startswith(("Thank you", "Dear")) for answer in (call.one, call.two)]
    if call.question:
        return _reply(call.one[:9] if good[0] else "", good[0])
    if good[0] == good[1]:
        return json.dumps({"evidence": "", "better": "tie"})
    return json.dumps({"evidence": (call.one if good[0] else call.two)[:9], "better": "1" if good[0] else "2"})


def _fooled(name: str, target: str, quotes: bool, call: JudgeCall) -> str:
    """Answer honestly, except for one sentinel on one question."""
    if call.subject != name or (call.question.name if call.question else "a pair") != target:
        return _honest(call)
    quote = SENTINELS[name][:9] if quotes else ""
    return _reply(quote, True) if call.question else json.dumps({"evidence": quote, "better": "2" if call.swapped else "1"})


def _reply(evidence: str, good: bool) -> str:
    return json.dumps({"evidence": evidence, "verdict": "yes" if good else "no", "score": 5 if good else 1})


def _counted(name: str, cases: Cases, note: str = "") -> SelftestResult:
    """Run the cases. A case that raises counts as wrong, since scorers must handle any output."""
    wrong, total = [], 0
    for case, right in cases:
        total += 1
        try:
            problem = "" if right() else case
        except Exception as error:
            problem = f"{case}: {type(error).__name__}: {error}"
        wrong += [problem] if problem else []
    if not total:
        wrong.append("no cases found")
    return SelftestResult(name, total - len(wrong) if total else 0, total, tuple(wrong), note)
