import json
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from evaluation_files import BAD, GOOD, write_evaluation

from mlxtune.core.errors import InputError
from mlxtune.core.json_fields import to_json
from mlxtune.data.rows import Location
from mlxtune.evaluation import evidence, history, report
from mlxtune.evaluation.answers import AnswerStatistics
from mlxtune.evaluation.drilldown import failed_rows
from mlxtune.evaluation.evidence import EvaluatedRow
from mlxtune.evaluation.history import ChangedTerm, ChangedTerms, Evaluation
from mlxtune.evaluation.holdout.contamination import Contamination
from mlxtune.evaluation.off_task.prompts import OffTaskChange, OffTaskPrompt, OffTaskResult, compare_off_task
from mlxtune.evaluation.seed_report import SeedMean, SeedReport, SeedResult
from mlxtune.evaluation.statistics.intervals import Estimate, PairedCounts
from mlxtune.evaluation.verdict import RecipeGain
from mlxtune.present import html, markdown
from mlxtune.present.report import arms_table, comparison_tables, report_document
from mlxtune.present.verdict import report_facts

SCRIPT = "<script>alert(1)</script>"
HOSTILE = [
    SCRIPT,
    '"><img src=x onerror=alert(1)>',
    "</pre></style><style>*{display:none}</style>\u202eevil\u2066\x1b[31m\x00",
    "````\n# Big\n[link](https://evil.example) <b>| a | b |",
]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An evaluation, for tests that only read it."""
    return write_evaluation(tmp_path_factory.mktemp("plain"))


class _Seen(HTMLParser):
    """Collect every element, attribute and text of a page; fail on badly nested elements."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in ("meta", "col"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def _page(folder) -> str:
    return (folder / "report.html").read_text()


def _html(loaded, failures=()) -> str:
    return html.render(report_document(loaded, failures=failures), str(loaded.facts["name"]), str(loaded.facts["base"]))


def _facts(loaded) -> dict[str, tuple[str, str]]:
    return {fact.label: (fact.value, fact.note) for fact in report_facts(loaded).facts}


def test_page_order_is_verdict_charts_rows_facts(plain):
    text = _page(plain)
    words = ["Cannot tell.", "1 → 3 of 4", "Rates", "Row by row", "Failures", "tuned over base", "Answers", "Failed rows",
             "Facts", "mlxtune verify"]  # fmt: skip
    places = [text.index(f">{word}" if word[0].isupper() else word) for word in words]
    assert places == sorted(places)


def test_page_is_self_contained(plain):
    text = _page(plain)
    seen = _Seen(text)
    assert not {"script", "link", "img", "iframe", "object", "form", "a", "base"} & set(seen.elements)
    assert not [name for name, _ in seen.attributes if name.startswith("on") or name in ("src", "href", "srcset", "action")]
    assert "url(" not in text
    assert "@import" not in text
    assert "default-src 'none'" in text


def test_hostile_outputs_are_escaped(tmp_path):
    plain, hostile = (_Seen(_page(write_evaluation(tmp_path / name, base=[BAD] * 4, tuned=tuned))) for name, tuned in
                      (("one", [BAD] * 4), ("two", HOSTILE)) if (tmp_path / name).mkdir() is None)  # fmt: skip
    assert set(hostile.elements) == set(plain.elements)
    text = "".join(hostile.texts)
    assert SCRIPT in text
    assert not set("\u202e\u2066\x1b\x00") & set(text)
    assert "▯evil" in text
    assert "␛[31m␀" in text


def test_failing_part_of_answer_is_highlighted(tmp_path):
    folder = write_evaluation(
        tmp_path, base=[GOOD] * 2, tuned=['{"reply": "See <b>Northpeak</b>"}', '{"reply": "' + "a" * 2000 + 'Northpeak"}']
    )
    text = _page(folder)
    assert "&lt;b&gt;<mark>Northpeak</mark>&lt;/b&gt;" in text
    assert text.count("<mark>") == 1  # hidden answers are not highlighted


def test_hostile_names_and_kinds_are_escaped(plain):
    loaded = report.load(plain)
    rates = tuple(replace(rate, failures={SCRIPT: 3}) for rate in loaded.arms[1].rates)
    loaded = replace(loaded, facts={**loaded.facts, "name": SCRIPT, "base": SCRIPT, "source": SCRIPT, "run": SCRIPT},
                   arms=(loaded.arms[0], replace(loaded.arms[1], rates=rates)))  # fmt: skip
    seen = _Seen(_html(loaded, failed_rows(plain, loaded)))
    assert "script" not in seen.elements
    assert "".join(seen.texts).count(SCRIPT) >= 5


def test_charts_match_numbers(plain):
    text = _page(plain)
    low, high = 300.6, 954.4  # Wilson interval of 3 out of 4
    assert f'<rect x="{low}" y="6" width="{high - low:.1f}" height="8" class="bar primary"/>' in text
    assert '<line x1="750.0" y1="2" x2="750.0" y2="18" class="tick"/>' in text
    assert ">75.0%<" in text
    assert "<b>2</b><span>fixed</span>" in text


def test_page_works_for_base_only_and_without_failures(tmp_path):
    for name, arms in (("base", {"base": [BAD, GOOD]}), ("good", {"base": [BAD, BAD], "tuned": [GOOD, GOOD]})):
        (tmp_path / name).mkdir()
        folder = write_evaluation(tmp_path / name, **arms)
        text = _page(folder)
        _Seen(text)
        assert ("Row by row" in text) == (name == "good")
        assert ("Failed rows" in text) == (name == "base")
        assert (folder / "report.md").read_text().startswith("# ")


def test_regressed_rows_come_first_and_are_limited(tmp_path):
    folder = write_evaluation(tmp_path, base=[BAD] * 9 + [GOOD], tuned=[BAD] * 10)
    text = _page(folder)
    assert "6 of 10, broken ones first" in text
    assert text.index("Line 10, passed before") < text.index("Line 1<")
    assert "100% similar" not in text
    assert "% similar: shop.jsonl, line" in text


def test_pairs_show_margins_and_failures(tmp_path):
    folder = write_evaluation(tmp_path, pairs=True)
    text = _page(folder)
    assert "nats per token" in text
    assert "the rejected answer is more likely by" in text
    assert "preference accuracy" in text


def test_headline_pairs_come_first_and_others_show_headline_metric_only(tmp_path):
    arms = {"base": [BAD] * 12, "base+prompt": [GOOD] * 2 + [BAD] * 10, "base+kshot": [GOOD] * 3 + [BAD] * 9, "tuned": [GOOD] * 12}
    folder = write_evaluation(tmp_path, **arms)
    loaded = report.load(folder)
    first, second, others = comparison_tables(loaded)
    assert [len(table.rows) for table in (first, second)] == [4, 4]
    assert [row[0].text for row in others.rows] == ["base+prompt over base", "base+kshot over base"]
    text = _page(folder)
    places = [text.index(f"<h2>{title}</h2>") for title in ("tuned over base+kshot", "tuned over base", "Other arms")]
    assert places == sorted(places)
    assert "base+prompt over base" in text[places[-1] :]
    assert _facts(loaded)["contract"] == ("valid JSON, fits the schema, no forbidden phrase", "")


def test_the_only_pair_is_not_called_another_one(tmp_path):
    loaded = report.load(write_evaluation(tmp_path, base=[BAD] * 12, tuned=[GOOD] * 12))
    loaded = replace(loaded, comparisons=[item for item in loaded.comparisons if item.metric == "contract"])
    assert [table.title for table in comparison_tables(loaded)] == ["tuned over base"]


def test_off_task_regression_is_stated_at_top(plain):
    loaded = report.load(plain)
    prompts = [OffTaskPrompt(str(at), "Which?", ("yes",), Location(plain, 1)) for at in range(34)]
    for broken, dropped in ((9, True), (0, False)):
        result = compare_off_task(prompts, ["yes"] * 20 + ["no"] * 14, ["no"] * broken + ["yes"] * (20 - broken) + ["no"] * 14)
        regressed = replace(loaded, facts={**loaded.facts, "off_task": to_json(result)})
        (fact,) = (fact for fact in report_facts(regressed).facts if fact.label == "off-task")
        assert (fact.mark == "error") == dropped
        assert fact.value == f"58.8% → {100 * (20 - broken) / 34:.1f}%"
        assert "## Off-task prompts" in markdown.render(report_document(regressed, failures=failed_rows(plain, regressed)))


def test_failing_answer_is_shown_with_passing_answer_or_reference(tmp_path):
    folder = write_evaluation(tmp_path, base=[GOOD, BAD], tuned=["Broken now", "Failed before too"])
    seen = _Seen(_page(folder))
    first, second = (seen.texts.index(text) for text in ("Broken now", "Failed before too"))
    assert GOOD in seen.texts[first:second]
    assert "reference" in seen.texts[second:]
    assert BAD not in seen.texts


def test_only_known_facts_about_the_held_out_rows_are_stated(plain, tmp_path):
    loaded = report.load(plain)
    facts = _facts(loaded)
    assert (facts["rows"], facts["evaluated"]) == (("4 held out", ""), ("1 time", ""))
    assert not {"trained on", "changed", "pairs"} & set(facts)
    known = {
        "contamination": to_json(Contamination("unseen", "a", 6)), "groups": 3,
        "changed_terms": to_json(ChangedTerms("one", (ChangedTerm("schema"),))),
    }  # fmt: skip
    described = replace(loaded, facts={**loaded.facts, **known})
    facts = _facts(described)
    assert facts["rows"] == ("4 held out", "3 groups: near-duplicates count as one")
    assert facts["trained on"] == ("none of them", "compared with 6 rows")
    assert facts["changed"] == ("The schema", "since one")
    assert "exact sign-flip test over groups, p after Holm" in comparison_tables(described)[0].note
    assert comparison_tables(loaded)[0].note == "same rows; Newcombe intervals; exact McNemar test, p after Holm"
    preferred = replace(loaded.arms[0], rates=(report.Rate("preference", 1, 3, 0.06, 0.79),))
    pairs = replace(loaded, facts={**loaded.facts, "headline": "preference"}, arms=(preferred,), comparisons=())
    assert _facts(pairs)["pairs"] == ("3 of 4", "compared; the others do not fit in data.max_tokens")
    assert _facts(pairs)["detects"] == ("no change", "3 rows: too few")
    alone = report.load(write_evaluation(tmp_path, base=[BAD] * 20))
    assert _facts(alone)["detects"] == ("≥ 37 points", "46 if 5% of rows regress; 20 rows, 1 baseline, 80% power")


def test_markdown_report_matches_page(plain):
    text = (plain / "report.md").read_text()
    assert text.startswith("# Cannot tell. Whole contract: ")
    assert "| whole contract | base | 25.0% | 5–70 |" in text
    assert "|  | tuned | 75.0% | 30–95 |" in text
    assert "| base fails | 2 fixed | 1 still fail |" in text


def test_markdown_injection_is_escaped(tmp_path):
    text = (write_evaluation(tmp_path, base=[BAD] * 4, tuned=HOSTILE) / "report.md").read_text()
    assert "`````text\n````\n# Big" in text  # the outer fence is longer than the one inside
    assert not set("\u202e\u2066\x1b\x00") & set(text)
    assert markdown.plain("a|b <i>*x*</i> [y](https://z.example) www.z.example a@z.example\n# no") == (
        r"a\|b \<i\>\*x\*\</i\> \[y\](https\://z.example) www\.z.example a\@z.example \# no"
    )


def test_arms_show_latency_and_lengths_and_the_form_of_answers_is_a_diagnostic(plain):
    loaded = report.load(plain)
    arms = (replace(loaded.arms[0], answers=AnswerStatistics(1, 2, 400, 0.5, 12.4)), *loaded.arms[1:])
    row, _ = arms_table(replace(loaded, arms=arms)).rows
    assert [cell.text for cell in row if not cell.bar] == ["base", "25.0%", "5–70", "0.50", "12", "100", "25.0%", "50.0%"]
    assert row[7].style == "error"
    page = _page(plain)
    rates, diagnostics = page.index("<h2>Rates</h2>"), page.index("<h2>Diagnostics</h2>")
    assert rates < page.index("fits the schema", rates) < diagnostics < page.index("contains JSON", diagnostics)


def test_pictures_show_latency_the_margin_and_the_rival_of_seeds(plain):
    loaded = report.load(plain)
    mean = SeedMean(Estimate(0.3, 0.5, 0.7), 0.1, 0.2)
    seeds = SeedReport(
        tuple(SeedResult(f"r{seed}", seed, 3, 4, None, 3, 4, 0.3, 0.95) for seed in (7, 8)),
        "r8",
        mean,
        RecipeGain(2, "base", 0.3, 0.5, 0.7, 0.05),
        nearness=4,
        looks_spent=False,
    )
    paired = PairedCounts(200, 12, 9, 79)
    change = OffTaskChange("", 300, paired, 300.0, -0.035, -0.01, 0.015, 0.7, "held")
    off_task = OffTaskResult(0.05, change, (replace(change, category="reading", low=-0.2, outcome="dropped"),), (), (), 4)
    arms = tuple(replace(arm, answers=AnswerStatistics(0, 0, 90, 0.5, 0.5 + at)) for at, arm in enumerate(loaded.arms))
    rich = replace(loaded, arms=arms, seeds=seeds, facts={**loaded.facts, "off_task": to_json(off_task)})
    page = _html(rich, failed_rows(plain, rich))
    _Seen(page)
    rival = loaded.arms[0].rate("contract").share
    assert page.count(f'<line x1="{1000 * rival:.1f}" y1="-4"') == 3  # two seeds and the recipe
    assert page.count(f'<line x1="{1000 * (0.2 - 0.05) / 0.4:.1f}" y1="-4"') == 2  # the margin, on a scale of ±20 points
    assert 'class="bar success"' in page
    assert 'class="bar error"' in page
    assert f'<rect x="{1000 * 0.5 / 1.5:.1f}" y="6" width="{1000 * 1.0 / 1.5:.1f}"' in page  # median to 95th percentile
    assert "seed 8 recommended by the validation rows alone" in page
    text = markdown.render(report_document(rich))
    assert "| seed 8 | 3 of 4 |" in text
    assert "Dashed" not in text


def test_lines_are_written_without_separators(tmp_path):
    folder = write_evaluation(tmp_path)
    records = [json.loads(row) for row in (folder / evidence.QUESTIONS).read_text().splitlines()]
    (folder / evidence.QUESTIONS).write_text("".join(json.dumps({**row, "line": row["line"] + 1200}) + "\n" for row in records))
    loaded = report.load(folder)
    failures = failed_rows(folder, loaded)
    text = markdown.render(report_document(loaded, failures=failures))
    assert "### Line 12" in text
    assert "Line 1,2" not in text


def test_rows_of_an_array_are_numbered():
    row = EvaluatedRow("a", 1204, "a", None, ())
    assert (row.location.place, replace(row, element=28).location.place) == ("line 1,204", "row 28")


@pytest.mark.parametrize("element", ["28", 2.5])
def test_an_invalid_position_is_reported(tmp_path, element):
    folder = write_evaluation(tmp_path)
    first, *others = (folder / evidence.QUESTIONS).read_text().splitlines()
    (folder / evidence.QUESTIONS).write_text("\n".join([json.dumps({**json.loads(first), "element": element}), *others]))
    with pytest.raises(InputError, match="line 1: unexpected format"):
        evidence.load_rows(folder)


def test_a_report_without_row_ids_is_part_of_no_other(tmp_path):
    folder = write_evaluation(tmp_path)
    stored = json.loads((folder / report.FILE).read_text())
    ids = [*stored["facts"]["row_ids"], "another"]

    def evaluation(**facts: Any) -> Evaluation:
        (folder / report.FILE).write_text(json.dumps({**stored, "facts": {**stored["facts"], **facts}}))
        return history._read(folder)

    own = evaluation()
    assert own.is_part_of(evaluation(row_ids=ids))
    assert not evaluation(row_ids=ids).is_part_of(own)
    assert not evaluation(row_ids=[]).is_part_of(own)
    assert not own.is_part_of(evaluation(row_ids=ids, adapter_step=9))
