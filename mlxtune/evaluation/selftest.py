"""Are the scorers right? Known cases and planted rates, and the public conformance suites where they are at hand.

The suites are nst/JSONTestSuite (its ``test_parsing``) and json-schema-org/JSON-Schema-Test-Suite (draft 2020-12, with ``remotes``).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from operator import eq
from pathlib import Path
from typing import Any

from mlxtune.core.errors import InputError
from mlxtune.evaluation import planted
from mlxtune.evaluation.judge import selfcheck
from mlxtune.evaluation.report import rates
from mlxtune.evaluation.scorers import Answer
from mlxtune.evaluation.scorers.disclaimer import right_disclaimer
from mlxtune.evaluation.scorers.json_extracted import json_extracted
from mlxtune.evaluation.scorers.json_fenced import json_fenced
from mlxtune.evaluation.scorers.json_ijson import ijson_valid
from mlxtune.evaluation.scorers.json_valid import json_valid
from mlxtune.evaluation.scorers.schema_valid import Schema
from mlxtune.recipe import Disclaimer

JSON_SUITE, SCHEMA_SUITE = "jsontestsuite", "jsonschema2020-12"

# Mandatory tests of the schema suite that are not as it expects, each for a reason.
EXCEPTIONS = {
    "format.json": ("only an annotation by default", "formats are asserted here: a reply that is no e-mail address is a failure"),
}

Cases = Iterable[tuple[str, Callable[[], bool]]]


@dataclass(frozen=True)
class Check:
    """What was checked, how many cases came out right, the others by name, and a remark."""

    name: str
    right: int
    total: int
    wrong: tuple[str, ...] = ()
    note: str = ""

    @property
    def holds(self) -> bool:
        return not self.wrong


def checks(suites: Path | None = None) -> Iterator[Check]:
    """Every check in turn, those of a suite when its folder is in ``suites``. Raises ``InputError`` for a folder without one."""
    yield _counted("JSON: built-in cases", _json_cases())
    yield _counted("schema: built-in cases", _schema_cases())
    yield _counted("disclaimers: built-in cases", _disclaimer_cases())
    yield _counted("planted rates", _planted_rates(), "100 outputs, every rate known")
    yield _counted("judge: sentinels", selfcheck.cases(), "judges whose mind is known")
    found = 0
    for folder, check in ((JSON_SUITE, json_suite), (SCHEMA_SUITE, schema_suite)):
        if suites and (suites / folder).is_dir():
            found += 1
            yield from check(suites / folder)
    if suites and not found:
        raise InputError(f"{suites} has neither {JSON_SUITE} nor {SCHEMA_SUITE}.", mend="Name the folder that they are in.")


def json_suite(folder: Path) -> Iterator[Check]:
    """The parsing suite: each file as an output. ``y_`` must be accepted and ``n_`` refused; what is left open may not raise."""
    files = sorted(folder.glob("[yni]_*.json"))
    for letter, name, wanted in (("y", "accepted", True), ("n", "refused", False), ("i", "decided", None)):
        cases = ((file.name, partial(_as_suite, file, wanted)) for file in files if file.name[0] == letter)
        yield _counted(f"JSON suite: {letter}_ {name}", cases)


def _as_suite(file: Path, wanted: bool | None) -> bool:
    answer = Answer(file.read_bytes().decode("utf-8", "surrogateescape"))
    raw, ijson, extracted = (scorer(answer).holds for scorer in (json_valid, ijson_valid, json_extracted))
    return (wanted is None or raw == wanted) and ijson <= raw <= extracted and not json_fenced(answer).holds


def schema_suite(folder: Path) -> Iterator[Check]:
    """The schema suite: mandatory tests, then the optional ones and the formats. Its remote schemas are read from its folder."""
    remotes = folder / "remotes"
    documents = {
        f"http://localhost:1234/{file.relative_to(remotes).as_posix()}": json.loads(file.read_text("utf-8"))
        for file in remotes.rglob("*.json")
    }
    tests = folder / "tests" / "draft2020-12"
    for name, pattern in (("mandatory", "*.json"), ("optional", "optional/*.json"), ("formats", "optional/format/*.json")):
        excused: list[str] = []
        cases = list(_schema_tests(sorted(tests.glob(pattern)), documents, excused))
        note = f"{len(excused)} apart: {EXCEPTIONS['format.json'][1]}" if excused else ""
        yield _counted(f"schema suite: {name}", cases, note)


def _schema_tests(files: Iterable[Path], documents: dict[str, Any], excused: list[str]) -> Cases:
    def as_expected(schema: Any, value: Any, valid: bool) -> bool:
        return Schema(schema, documents).judge(value).holds == valid

    for file in files:
        words, _ = EXCEPTIONS.get(file.name, ("", ""))
        for group in json.loads(file.read_text("utf-8")):
            for test in group["tests"]:
                name = f"{file.stem}: {group['description']}: {test['description']}"
                if words and words in test["description"]:
                    excused.append(name)
                else:
                    yield name, partial(as_expected, group["schema"], test["data"], test["valid"])


def _json_cases() -> Cases:
    def as_known(output: str, ended: str, kind: str, *forms: bool) -> bool:
        answer = Answer(output, ended)
        raw, *found = (scorer(answer) for scorer in (json_valid, ijson_valid, json_fenced, json_extracted))
        return raw.holds == (not kind) and raw.kind == kind and (not forms or [score.holds for score in found] == list(forms))

    for output, kind, *forms in planted.JSON:
        yield repr(output[:60]), partial(as_known, output, "stop", kind, *forms)
    for output in planted.CUT_OFF:
        yield f"cut off: {output!r}", partial(as_known, output, "length", "cut off")


def _schema_cases() -> Cases:
    def refused(address: str) -> bool:
        try:
            Schema({"$ref": address})
        except InputError:
            return True
        return False

    def fails(schema: Any, value: Any, kind: str) -> bool:
        return Schema(schema).judge(value).kind == kind

    for address in ("http://example.invalid/schema.json", "file:///etc/hosts", "other.json"):
        yield f"not fetched: {address}", partial(refused, address)
    for pattern in ("^(a+)+$", "(a|aa)+\\1$", "^(?:(?!x)a|aa)+$"):
        yield f"hostile pattern: {pattern}", partial(fails, {"pattern": pattern}, "!" + "a" * 30_000 + "!", "/ pattern")
    prices = {"properties": {"items": {"items": {"properties": {"price": {"type": "number"}}}}}}
    yield "path and keyword", partial(fails, prices, {"items": [{"price": 1}, {"price": "2"}]}, "/items/*/price type")
    yield "formats", partial(fails, {"format": "date"}, "2026-02-30", "/ format")
    yield "true is no integer", partial(fails, {"type": "integer"}, True, "/ type")


def _disclaimer_cases() -> Cases:
    rules = [Disclaimer(planted.SENTENCE, match="fuzzy")]

    def judged(output: str, kind: str, fuzzy: bool) -> bool:
        return right_disclaimer(Answer(output, prompt=planted.ASKED), rules, fuzzy).kind == kind

    for output, strict, fuzzy in planted.DISCLAIMERS:
        yield f"strict: {output[:60]!r}", partial(judged, output, strict, False)
        yield f"fuzzy: {output[:60]!r}", partial(judged, output, fuzzy, True)


def _planted_rates() -> Cases:
    contract, answers, expected = planted.planted()
    hits = {rate.metric: rate.hits for rate in rates([contract.score(answer) for answer in answers])}
    for metric in expected | hits:
        yield f"{metric}: {hits.get(metric)}, not {expected.get(metric)}", partial(eq, hits.get(metric), expected.get(metric))


def _counted(name: str, cases: Cases, note: str = "") -> Check:
    """Run the cases. One that raises is wrong: a scorer has a verdict on anything."""
    wrong, total = [], 0
    for case, right in cases:
        total += 1
        try:
            problem = "" if right() else case
        except Exception as error:
            problem = f"{case}: {type(error).__name__}: {error}"
        wrong += [problem] if problem else []
    if not total:
        wrong.append("there is nothing to check")
    return Check(name, total - len(wrong) if total else 0, total, tuple(wrong), note)
