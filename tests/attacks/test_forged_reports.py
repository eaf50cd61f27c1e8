"""A forger changes a report or its evidence, updates the hashes, and draws the pages again. ``verify`` confirms no changed figure."""

import itertools
import json
import re
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from evaluation_files import BAD, GOOD, add_off_task, write_evaluation
from exhaustive import EXHAUSTIVE

from mlxtune.core.errors import InputError
from mlxtune.core.hashing import sha256_file
from mlxtune.evaluation import evidence, report
from mlxtune.evaluation.verify import unproven, verify
from mlxtune.present.report import render_pages

EVERY = 1 if EXHAUSTIVE else 23  # one of so many tampers
Steps = tuple[str | int, ...]
NO_FIGURE = {
    ("nearest.jsonl",),
    ("outputs.jsonl", "thought"),
    ("questions.jsonl", "line"),
    ("questions.jsonl", "group"),
    ("regression.jsonl", "output"),  # a wrong answer may become another wrong one
}  # what is behind no number of the report


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_evaluation(
        tmp_path_factory.mktemp("report"),
        base=[BAD, GOOD] * 4,
        constant=[BAD] * 8,
        copier=[GOOD, BAD] * 4,
        tuned=[GOOD] * 7 + [BAD],
    )
    add_off_task(folder, base=["yes"] * 8 + ["no"] * 4, tuned=["no"] * 2 + ["yes"] * 6 + ["no"] * 4)
    assert verify(folder) == []
    return folder


def leaves(value: Any, steps: Steps = ()) -> Iterator[Steps]:
    """Yield the way to every value of a JSON document that contains no other."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from leaves(item, (*steps, key))
    if not items:
        yield steps


def other(value: Any) -> list[Any]:
    """Return values of the same kind and of another."""
    match value:
        case bool():
            return [not value]
        case int():
            return [value + 1, max(0, value - 1) if value else 7]
        case float():
            return [value * 0.9 + 0.01, 0.5]
        case str():
            return [f"{value}x", "better"]
        case None:
            return [1, 0.5]
    return [["x"], {"x": 1}]


def change(document: Any, steps: Steps, value: Any) -> None:
    for step in steps[:-1]:
        document = document[step]
    document[steps[-1]] = value


def forge(folder: Path, stored: dict[str, Any]) -> None:
    """Write the report, its pages, and all hashes."""
    stored["files"] = {name: sha256_file(folder / name) for name in stored["files"] if (folder / name).is_file()}
    (folder / report.FILE).write_text(json.dumps(stored))
    with suppress(
        InputError, KeyError, TypeError, ValueError, AttributeError, StopIteration, ZeroDivisionError
    ):  # no page can show it
        for name, text in render_pages(report.load(folder), folder).items():
            (folder / name).write_text(text)
            stored["files"][name] = sha256_file(folder / name)
        (folder / report.FILE).write_text(json.dumps(stored))


def is_confirmed(folder: Path, *names: str) -> bool:
    """Return whether ``verify`` finds no difference, and names nothing of ``names`` as unproven."""
    return not verify(folder) and not {*names} & {*unproven(folder)}


def restored(original: Path, folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    return shutil.copytree(original, folder)


def test_every_changed_key_of_a_report_is_found_or_named(original, tmp_path):
    text = (original / report.FILE).read_text()
    stored = json.loads(text)
    ways = [(steps, value) for steps in leaves(stored) if steps[0] != "v" for value in other(_at(stored, steps))]
    ways += [(("facts", name), 9) for name in ("wording", "checks", "verified")]
    assert len(ways) > 500
    confirmed = []
    for steps, value in itertools.islice(ways, 0, None, EVERY):
        folder = restored(original, tmp_path / "copy")
        forged = json.loads(text)
        change(forged, steps, value)
        (folder / report.FILE).write_text(json.dumps(forged)) if steps[0] == "files" else forge(folder, forged)
        if is_confirmed(folder, str(steps[1]), str(steps[-1])):
            confirmed.append((steps, value))
    assert confirmed == []


def _at(document: Any, steps: Steps) -> Any:
    for step in steps:
        document = document[step]
    return document


def test_every_removed_key_of_a_report_is_found_or_named(original, tmp_path):
    text = (original / report.FILE).read_text()
    facts = [("facts", name) for name in json.loads(text)["facts"]]
    for *parents, key in [*facts, ("arms", 0), ("comparisons", 0), ("verdict", "free"), ("margins",)]:
        folder = restored(original, tmp_path / "copy")
        forged = json.loads(text)
        del _at(forged, tuple(parents))[key]
        forge(folder, forged)
        assert verify(folder) or key in {"made", *_RECORDED}, key


_RECORDED = {"base_fingerprint", "run", "adapter", "source", "compute", "left_out"}  # without them, a report says less


def test_every_changed_line_of_the_evidence_is_found_or_named(original, tmp_path):
    confirmed, count = [], 0
    for file in sorted(original.glob("*.jsonl")):
        records = [json.loads(line) for line in file.read_text().splitlines()]
        ways = [(number, steps) for number, record in enumerate(records) for steps in leaves(record)]
        for number, steps in itertools.islice(ways, 0, None, EVERY):
            for value in other(_at(records[number], steps)):
                count += 1
                folder = restored(original, tmp_path / "copy")
                changed = json.loads(json.dumps(records))
                change(changed[number], steps, value)
                (folder / file.name).write_text(evidence.to_jsonl(changed))
                forge(folder, json.loads((folder / report.FILE).read_text()))
                names = (file.name,) if NO_FIGURE & {(file.name,), (file.name, steps[0])} else ()
                if is_confirmed(folder, *names):
                    confirmed.append((file.name, number, steps, value))
    assert not confirmed, confirmed
    assert count > 500 / EVERY


@pytest.mark.parametrize(
    "name", ["recipe.toml", "schema.json", "questions.jsonl", "outputs.jsonl", "regression.jsonl", "holdout.jsonl"]
)
def test_a_removed_file_is_found_or_named(original, tmp_path, name):
    """The report was made without it, as far as anybody can see."""
    folder = restored(original, tmp_path / "copy")
    (folder / name).unlink()
    stored = json.loads((folder / report.FILE).read_text())
    gone = {"holdout.jsonl": ("holdout", "look"), "regression.jsonl": ("off_task",)}.get(name, ())
    stored["facts"] = {key: value for key, value in stored["facts"].items() if key not in gone}
    forge(folder, stored)
    assert not is_confirmed(folder, name, *gone)


def test_every_changed_number_on_a_page_is_found(original, tmp_path):
    unseen = []
    for page in report.PAGES:
        text = (original / page).read_text()
        body = text.index("<body") if "<body" in text else 0
        numbers = [
            found
            for found in re.finditer(r"(?<![#\w])\d+", text)
            if found.start() > body and "mlxtune " not in text[: found.start()][-12:]
        ]
        for found in itertools.islice(numbers, 0, None, 5 * EVERY):
            folder = restored(original, tmp_path / "copy")
            (folder / page).write_text(f"{text[: found.start()]}{int(found[0]) + 1}{text[found.end() :]}")
            stored = json.loads((folder / report.FILE).read_text())
            stored["files"][page] = sha256_file(folder / page)
            (folder / report.FILE).write_text(json.dumps(stored))
            if not verify(folder):
                unseen.append((page, text[found.start() - 40 : found.end() + 20]))
    assert not unseen, repr(unseen)


def with_page(original: Path, folder: Path, name: str, old: str, new: str) -> Path:
    """Return a copy of the report with a changed page and its hash."""
    page = restored(original, folder) / name
    assert old in page.read_text()
    page.write_text(page.read_text().replace(old, new, 1))
    stored = json.loads((folder / report.FILE).read_text())
    stored["files"][name] = sha256_file(page)
    (folder / report.FILE).write_text(json.dumps(stored))
    return folder


@pytest.mark.parametrize("added", [
    "<style>td::after {content: '99.9%'}</style>", "<script>show()</script>", '<p onclick="show()">',
    "<style>tr td:nth-child(2) {position: absolute; left: 9em}</style>", '<img src="data:image/png;base64,QQ==">', "<p>ninety percent</p>",
    "ninety percent", "①", "\u202e", "Better",
])  # fmt: skip
def test_a_page_that_shows_another_figure_is_found_or_named(original, tmp_path, added):
    assert is_confirmed(original, "report.html")
    assert not is_confirmed(with_page(original, tmp_path / "copy", "report.html", "</body>", f"{added}</body>"), "report.html")


@pytest.mark.parametrize("added", ["<!--", "![](99.png)", "<b hidden>", "&#57;", "ninety percent", "②", "\u202e", "worse"])
def test_a_markdown_page_that_shows_another_figure_is_found_or_named(original, tmp_path, added):
    assert is_confirmed(original, "report.md")
    assert not is_confirmed(with_page(original, tmp_path / "copy", "report.md", "## ", f"{added}\n\n## "), "report.md")


@pytest.mark.parametrize("page", report.PAGES)
def test_a_page_in_other_words_is_confirmed(original, tmp_path, page):
    old, new = "of rows that pass", "of the rows, namely of those which pass"
    assert is_confirmed(with_page(original, tmp_path / "copy", page, old, new), page)


def test_rows_are_compared_with_the_source(original, tmp_path):
    assert "questions.jsonl" in unproven(original)  # the splits of the test's report are its own
    lines = (original / "questions.jsonl").read_text().splitlines()
    folder = restored(original, tmp_path / "copy")
    row = json.loads(lines[0])
    row["reference"] = '{"reply": "better"}'
    (folder / "questions.jsonl").write_text("\n".join([json.dumps(row), *lines[1:], ""]))
    forge(folder, json.loads((folder / report.FILE).read_text()))
    assert f"questions.jsonl, {row['id']}: the source has another prompt or reference." in verify(folder)


def test_an_evaluation_of_the_base_lacks_no_tuned_arm(tmp_path: Path) -> None:
    named = unproven(write_evaluation(tmp_path, base=[BAD, GOOD], constant=[BAD] * 2, copier=[GOOD, BAD]))
    assert "outputs.jsonl" in named
    assert not {"tuned", "tuned+grammar", "contamination", "off_task"} & {*named}
    assert "base+kshot" in named  # a strong baseline may have been removed
