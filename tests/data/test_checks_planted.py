import json
from pathlib import Path
from typing import get_args

import pytest
from planted import SAMPLES, SCORER, WINDOW, PlantedFile, make_planted

from mlxtune.data.access.file_bytes import FileNote
from mlxtune.data.checks import template
from mlxtune.data.checks.check_input import TokenCount
from mlxtune.data.checks.registry import CHECKS
from mlxtune.data.checks.report import CheckReport, Improvement, ImprovementCode, Skip, SkipCode
from mlxtune.data.checks.run import CheckRules, check
from mlxtune.present import check as words
from mlxtune.present.words import WORDS


def run_check(planted: PlantedFile, path: Path) -> CheckReport:
    rules = CheckRules(scorer=SCORER, split_of=planted.split_of, tokens=planted.token_counts(), max_tokens=WINDOW)
    return check(planted.write(path), rules=rules)


@pytest.fixture(scope="module")
def dirty(tmp_path_factory: pytest.TempPathFactory) -> tuple[PlantedFile, CheckReport]:
    planted = make_planted(dirty=True)
    return planted, run_check(planted, tmp_path_factory.mktemp("planted") / "dirty.jsonl")


def reported_lines(report: CheckReport, check_id: str) -> list[int]:
    return [report.locations[finding.rows[0]][0].line for finding in report.findings if finding.check == check_id and finding.rows]


@pytest.mark.parametrize("check_id", make_planted(dirty=True).lines)
def test_each_check_reports_only_its_planted_row(check_id: str, dirty: tuple[PlantedFile, CheckReport]) -> None:
    planted, report = dirty
    assert reported_lines(report, check_id) == [planted.lines[check_id]]


def test_every_row_check_has_a_planted_fault() -> None:
    whole_file_checks = {"tier", "coverage", "diversity", "length-bias", "label-spelling", "label-noise", "form", "mismatch"} | {
        check.id for check in template.PER_SOURCE.values()
    }
    planted = {id for id in make_planted(dirty=True).lines if not id.startswith("contract-")}
    assert set(CHECKS) - whole_file_checks - {"too-long"} == planted


def test_a_row_without_room_is_a_warning_if_training_skips_it(tmp_path: Path) -> None:
    planted = make_planted(dirty=True)
    file, line = planted.write(tmp_path / "rows.jsonl"), planted.lines["prompt-fills-window"]
    report = check(file, rules=CheckRules(tokens=planted.token_counts(), max_tokens=WINDOW, skip_too_long=True))
    assert (reported_lines(report, "prompt-fills-window"), reported_lines(report, "too-long")) == ([], [line])
    assert {finding.severity for finding in report.findings if finding.check == "too-long"} == {"warn"}


def test_the_clean_file_has_no_findings(tmp_path: Path) -> None:
    report = run_check(make_planted(dirty=False), tmp_path / "clean.jsonl")
    assert [finding.check for finding in report.findings if finding.severity != "note"] == []
    assert report.verdict.outcome == "clean"


def test_a_planted_row_has_no_other_findings(dirty: tuple[PlantedFile, CheckReport]) -> None:
    planted, report = dirty
    checks_by_line = {line: id for id, line in planted.lines.items()}
    others = {
        (checks_by_line.get(report.locations[finding.rows[0]][0].line), finding.check)
        for finding in report.findings
        if finding.rows and checks_by_line.get(report.locations[finding.rows[0]][0].line) != finding.check
    }
    assert not others


def test_what_the_template_changes_is_reported_once_for_the_source(tmp_path: Path) -> None:
    planted = make_planted(dirty=False)
    planted.tokens |= {line: TokenCount(200, 100, notes=("system-folded", "trimmed")) for line in (1, 2, 3)}
    found = {finding.check: finding for finding in run_check(planted, tmp_path / "rows.jsonl").findings}
    for id in ("system-folded", "trimmed"):
        assert (found[id].rows, found[id].values) == ((), {"rows": 3})


def test_read_rows_are_kept_or_refused(dirty: tuple[PlantedFile, CheckReport]) -> None:
    planted, report = dirty
    assert report.read == len(planted.records) == report.kept + report.refused
    assert report.refused == 6  # the same-pair row is kept: its answers differ in case
    assert sum(report.formats.values()) == report.kept


def test_spans_point_to_the_evidence(dirty: tuple[PlantedFile, CheckReport]) -> None:
    planted, report = dirty
    for id, evidence in (
        ("email", "ada.holm@northpeak.shop"),
        ("phone", "+44 20 7946 0958"),
        ("iban", "GB82 WEST 1234 5698 7654 32"),
    ):
        (span,) = next(finding.spans for finding in report.findings if finding.check == id)
        text = planted.records[planted.lines[id] - 1]["messages"][1]["content"]
        assert (span.part, text[span.start : span.end]) == ("turn 2", evidence)


def test_secrets_are_masked(dirty: tuple[PlantedFile, CheckReport]) -> None:
    _, report = dirty
    (span,) = next(finding.spans for finding in report.findings if finding.check == "secret")
    assert "ghp_…" in span.text
    assert "a1B2" not in span.text


def test_consistently_longer_chosen_answers_are_a_length_bias(tmp_path: Path) -> None:
    pairs = [
        {
            "prompt": f"What is {number} in {word}?",
            "chosen": f"It is {number}, " + "as you see, " * 5 + word,
            "rejected": f"No {number} {word}",
        }
        for number, word in enumerate(["one", "two", "three", "four", "five"] * 6)
    ]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    assert [finding.check for finding in check(path).findings if finding.check == "length-bias"] == ["length-bias"]
    path.write_text("".join(json.dumps({**pair, "rejected": pair["chosen"] + " or not" * 4}) + "\n" for pair in pairs))
    (finding,) = [finding for finding in check(path).findings if finding.check == "length-bias"]
    assert finding.values["direction"] == "shorter"


def test_the_bundled_samples_are_clean() -> None:
    assert {check(SAMPLES / name).verdict.outcome for name in ("support.jsonl", "support-pairs.jsonl")} == {"clean"}


def test_every_finding_and_code_has_words(dirty: tuple[PlantedFile, CheckReport]) -> None:
    """The wording of each check mentions only values that its findings have."""
    _, report = dirty
    for finding in report.findings:
        assert "{" not in words.finding_text(finding) or finding.check == "placeholder", finding
    for code in get_args(ImprovementCode):
        check_id = "secret" if code == "fix" else ""
        assert words.improvement_text(Improvement(code, 3, check_id, ("topic", "tents")))
    assert all(words.skip_text(Skip(code, "why")) for code in get_args(SkipCode))
    assert set(WORDS.file_notes) == set(get_args(FileNote))


def test_words_of_a_finding() -> None:
    values = {"key": "to\npic", "total": 60, "values": {"stoves": 1, "a\x1bb": 2}}
    finding = CHECKS["coverage"].finding(values=values)
    assert words.finding_text(finding) == "Few of 60 rows have these values of to pic: stoves (1), a␛b (2)."
    whole = CHECKS["bad-row"].finding(0, reason="unreadable", values={"error": "e" * 200, "hint": "Correct it."})
    assert words.finding_text(whole) == f"E{'e' * 199} Correct it."
    assert words.finding_text(CHECKS["leak"].finding(1, 2, values={"split": "test"})).startswith("The test split has the same")
