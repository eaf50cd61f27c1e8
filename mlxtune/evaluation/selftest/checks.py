"""Check the scorers against cases with known results, and against public conformance suites if available.

The suites are nst/JSONTestSuite (the ``test_parsing`` folder) and json-schema-org/JSON-Schema-Test-Suite (draft 2020-12).
"""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
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
from mlxtune.evaluation.scorers.disclaimer import score_disclaimers
from mlxtune.evaluation.scorers.json_forms import score_extracted, score_json
from mlxtune.evaluation.scorers.number import score_number
from mlxtune.evaluation.scorers.schema_valid import SchemaValidator
from mlxtune.evaluation.scorers.text_rules import score_forbidden
from mlxtune.recipe import Disclaimer, EvaluationSection, Length

# Outputs by their class of failure as raw JSON ("" = valid), and by whether they contain JSON.
JSON: dict[tuple[str, bool], tuple[str, ...]] = {
    ("", True): ('{"a": [1, 2.5e3, true, null, "x"]}', ' \n[]\t', '"text"', "-0", '{"a": 1, "a": 2}', '{"a": 1, "\\u0061": 2}',
        '"\\ud800"', '{"\\udc00\\ud800": 1}', '"\\uffff"', "1e400", "-" + "9" * 5000, '"\\ud83d\\ude00"', "[" * 512 + "]" * 512),
    ("number_too_large", False): ("1e" + "9" * 30,),
    ("too_deep", False): ("[" * 513 + "]" * 513, "[" * 100_000),
    ("empty", False): ("",),
    ("byte_order_mark", True): ("\ufeff{}",),
    ("not_utf8", False): ('"\ud800"',),
    ("fence", True): ('```json\n{"a": 1}\n```', '~~~~\n{"a": 1}\n~~~~\n', '```json\n{"a": 1}', 'Here:\n```json\n{"a": 1}\n```',
        '```json\n{"a": 1}\n```\nDone.', '```json\n{"a": 1}\n```\n```json\n{"a": 2}\n```'),
    ("fence", False): ('```\n{"a": 1,}\n```',),
    ("prose", True): ('Sure! {"a": 1}', "See [note]: {x} and [1, 2]."),
    ("prose", False): ("No object here.",),
    ("text_after_it", True): ('{"a": 1} Anything else?', '{"a": 1}\n{"a": 2}'),
    ("thinking", True): ('<think>Hm.</think>{"a": 1}',),
    ("trailing_comma", False): ('{"a": 1,}', "[1, 2, ]"),
    ("extra_comma", False): ("[1,, 2]",),
    ("missing_comma", False): ('{"a": 1 "b": 2}',),
    ("missing_colon", False): ('{"a" 1}',),
    ("missing_value", False): ('{"a": }',),
    ("single_quotes", False): ("{'a': 1}",),
    ("curly_quotes", False): ("{“a”: 1}",),
    ("unquoted_name", False): ("{a: 1}",),
    ("nan_or_infinity", False): ('{"a": NaN}', "[-Infinity]"),
    ("bad_word", False): ('{"a": True}',),
    ("bad_number", False): ("[01]", "[+1]", "[.5]", "[1.]"),
    ("control_character", False): ('["a\nb"]',),
    ("bad_escape", False): ('["a\\qb"]',),
    ("comment", False): ('{"a": 1 // one\n}',),
    ("unbalanced", False): ('{"a": [1, 2}', '{"a": {"b": 1}', '{"a": "b'),
    ("unbalanced", True): ("[1]]",),
}  # fmt: skip

CUT_OFF = ('{"a": "b', '{"a": tru', '{"a": 1', '["\\u00', "[1.", '{"a"', "[", '{"a": {"b": []}, ')  # at the token limit

SENTENCE = "This is general guidance, not professional advice."
ASKED = f"End every answer with: {SENTENCE}\n\nMy stove hisses. The manual says “{SENTENCE}” What now?"

# Outputs by their class of failure for the strict and the fuzzy scorer ("" = pass).
DISCLAIMERS: dict[tuple[str, str], tuple[str, ...]] = {
    ("", ""): (f"Close the valve. {SENTENCE}", "Close it. THIS is general\nguidance, not professional advice.",
        json.dumps({"reply": f"Close it.\n{SENTENCE}"}), f"I'm not a plumber, and so: {SENTENCE}", f"Don't forget: {SENTENCE}",
        f"What you said was wrong: {SENTENCE}"),
    ("missing", ""): ("Close it. This is generel guidance and not professional advice.",),
    ("missing", "missing"): ("Close it.", "Close it. This is professional advice.",
        "Close it. This is general guidance, professional advice.",
        "Close it. This is not general guidance, not professional advice."),
    ("negated", "negated"): (f"It is not true that {SENTENCE}", f"I will not add: {SENTENCE}", f"{SENTENCE} That is not true."),
    ("quoted", "quoted"): (f"Your manual says “{SENTENCE}” Close the valve.", f"> {SENTENCE}\n\nClose the valve.",
        f"End every answer with: {SENTENCE}"),
    ("only_thought", "only_thought"): (f"<think>I must say: {SENTENCE}</think>Close it.", f"<think>{SENTENCE}"),
    ("cut_off", "cut_off"): ("Close it. This is general guidance, not profess",
        '{"reply": "Close it. This is general guidance, not'),
}  # fmt: skip


# Each output, a forbidden phrase, and whether the output contains it.
PHRASES: tuple[tuple[str, str, bool], ...] = (
    ("Try _Northpeak_ instead.", "Northpeak", True), ('{"reply": "a\\nNorth\\u0070eak"}', "Northpeak", True),
    ("我们推荐北峰帐篷。", "北峰", True), ("It is **not** safe.", "not safe", True), ("Safe to use? It is not", "not safe", False),
    ('["It is not", "safe"]', "not safe", False), ("Northpeaks", "Northpeak", False),
)  # fmt: skip
# Each output, its reference, and whether their final numbers are equal.
NUMBERS: tuple[tuple[str, str, bool], ...] = (
    ("So it is $1,234.50.", "#### 1234.5", True),
    ("#### 1/3", "1/2", False),
    ("9.1e10", "2.5e10", False),
    ("5 ½", "5", False),
    ("5 ½", "5.5", True),
    ("#### 2√3", "#### 2√5", False),
    ("\\boxed{2\\sqrt{3}}", "2√3", True),
)


def known_rates() -> tuple[Contract, list[ModelAnswer], dict[str, int]]:
    """Return a contract, 100 outputs, and how many of them pass each metric, counted by hand."""
    schema = SchemaValidator(
        {"type": "object", "required": ["kind", "reply"], "properties": {"kind": {"enum": ["safety", "order"]}}}
    )
    rule = Disclaimer(SENTENCE, when={"kind": "safety"}, match="fuzzy", at="/reply")
    length = Length(max=120, at="/reply")
    section = EvaluationSection(disclaimers=[rule], forbid=["Northpeak"], length=length, correct=["fields"])
    safety = json.dumps({"kind": "safety", "reply": f"Close it. {SENTENCE}"})
    order = json.dumps({"kind": "order", "reply": "It is on its way."})
    outputs = (
        [(safety, safety)] * 40
        + [(order, order)] * 10
        + [(f"```json\n{safety}\n```", safety)] * 10  # in a fence
        + [(f"Sure! {safety}", safety)] * 8  # after prose
        + [(safety[:-12], safety)] * 6  # cut off inside the disclaimer
        + [(order[:-1] + ', "kind": "order"}', order)] * 5  # a duplicate name
        + [(order.replace("order", "other"), order)] * 4  # violates the schema
        + [(safety.replace(SENTENCE, ""), safety)] * 4  # no disclaimer
        + [(safety.replace("guidance", "guidence"), safety)] * 3  # a typo
        + [(safety.replace("This", "It is not true that this"), safety)] * 3  # negated
        + [(order.replace("It", SENTENCE), order)] * 3  # an unwanted disclaimer
        + [(safety.replace("Close", "Northpeak"), safety)] * 2  # a competitor
        + [(order.replace("way", "way" + " by mule" * 20), order)] * 2  # too long
    )
    answers = [ModelAnswer(output, "length" if output == safety[:-12] else "stop", reference) for output, reference in outputs]
    expected = {
        "json": 76, "extracted": 94, "schema": 72, "disclaimer": 81, "disclaimer_fuzzy": 84,
        "forbidden": 98, "length": 92, "correct": 73, "contract": 55,
    }  # fmt: skip
    return Contract(section, schema), answers, expected


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
    yield _counted("phrases and numbers: built-in cases", _text_cases())
    yield _counted("known rates", _known_rates(), "100 outputs with known rates")
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

    for (kind, found), outputs in JSON.items():
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
    yield "true is not an integer", partial(fails, {"type": "integer"}, True, "/ type")


def _disclaimer_cases() -> Cases:
    rules = [Disclaimer(SENTENCE, match="fuzzy")]

    def judged(output: str, kind: str, fuzzy: bool) -> bool:
        return score_disclaimers(ModelAnswer(output, prompt=ASKED), rules, fuzzy).kind == kind

    for kinds, outputs in DISCLAIMERS.items():
        for output, (fuzzy, kind) in product(outputs, enumerate(kinds)):
            yield f"{'fuzzy' if fuzzy else 'strict'}: {output[:60]!r}", partial(judged, output, kind, bool(fuzzy))


def _text_cases() -> Cases:
    def matches(scorer: Callable[..., Score], answer: ModelAnswer, passes: bool, **options: Any) -> bool:
        return scorer(answer, **options).passed == passes

    for output, phrase, found in PHRASES:
        yield f"{phrase} in {output!r}", partial(matches, score_forbidden, ModelAnswer(output), not found, phrases=[phrase])
    for output, reference, equal in NUMBERS:
        yield f"{reference} as {output!r}", partial(matches, score_number, ModelAnswer(output, reference=reference), equal)


def _known_rates() -> Cases:
    contract, answers, expected = known_rates()
    hits = {rate.metric: rate.hits for rate in metric_rates([contract.score(answer) for answer in answers])}
    for metric in expected | hits:
        yield f"{metric}: {hits.get(metric)}, not {expected.get(metric)}", partial(eq, hits.get(metric), expected.get(metric))


_RUBRIC = Rubric(
    (RubricQuestion("thanks", "Does it thank?"), RubricQuestion("voice", "How warm is it?", ("1", "2", "3", "4", "5")))
)
_TARGETS = ("thanks", "voice", "a pair")
_ROWS = tuple(
    AnswerPair(
        f"row {number}", (Message("user", f"Where is parcel {number}?"),), f"Dear customer, {number}", f"{number}",
        f"plain {number}", f"Thank you, {number}",
    )
    for number in range(4)
)  # fmt: skip


def _judge_cases() -> Cases:
    """Simulated judges: one that approves a sentinel must be reported as unreliable, and an honest one must not."""
    yield "an honest judge is reliable", partial(_reported, _honest, {})
    for name in SENTINELS:
        for target in _TARGETS:
            yield f"{name} passed on {target}", partial(_reported, partial(_fooled, name, target, True), {name: (target,)})
        yield f"{name} passed without evidence", partial(_reported, partial(_fooled, name, "thanks", False), {name: ("thanks",)})
    yield "a judge with unreadable replies", partial(_reported, lambda call: "Yes, certainly.", {}, unusable=True)


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
