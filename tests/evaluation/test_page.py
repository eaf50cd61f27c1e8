from __future__ import annotations

import os
from dataclasses import asdict, replace
from html.parser import HTMLParser

import pytest
from measured import BAD, GOOD, measured

from mlxtune.evaluation import markdown, page, report, wording
from mlxtune.evaluation.failures import failures
from mlxtune.evaluation.html import Html, el, join
from mlxtune.evaluation.regression import Regression
from mlxtune.evaluation.verdict import compare

SCRIPT = "<script>alert(1)</script>"
HOSTILE = [
    SCRIPT,
    '"><img src=x onerror=alert(1)>',
    "</pre></style><style>*{display:none}</style>\u202eevil\u2066\x1b[31m\x00",
    "````\n# Big\n[link](https://evil.example) <b>| a | b |",
]


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _: None)


class _Seen(HTMLParser):
    """Every element, attribute and text of a page; fails on an element that is closed out of turn."""

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


def test_verdict_comes_first_then_pictures_then_rows_then_facts(tmp_path):
    text = _page(measured(tmp_path))
    words = ["Cannot tell.", "Of 4 rows, 1 were right", "Before and after", "Row by row", "Why answers fail", "Against each other",
             "Rows that fail", "Facts", "mlxtune verify"]  # fmt: skip
    places = [text.index(f">{word}" if word[0].isupper() else word) for word in words]
    assert places == sorted(places)


def test_page_is_whole_in_itself(tmp_path):
    text = _page(measured(tmp_path))
    seen = _Seen(text)
    assert not {"script", "link", "img", "iframe", "object", "form", "a", "base"} & set(seen.elements)
    assert not [name for name, _ in seen.attributes if name.startswith("on") or name in ("src", "href", "srcset", "action")]
    assert "url(" not in text
    assert "@import" not in text
    assert "default-src 'none'" in text


def test_hostile_outputs_are_text(tmp_path):
    plain, hostile = (_Seen(_page(measured(tmp_path / name, base=[BAD] * 4, tuned=tuned))) for name, tuned in
                      (("one", [BAD] * 4), ("two", HOSTILE)) if (tmp_path / name).mkdir() is None)  # fmt: skip
    assert set(hostile.elements) == set(plain.elements)
    text = "".join(hostile.texts)
    assert SCRIPT in text
    assert not set("\u202e\u2066\x1b\x00") & set(text)
    assert "�evil" in text
    assert "␛[31m␀" in text


def test_the_failing_part_of_an_answer_is_marked(tmp_path):
    folder = measured(
        tmp_path, base=[GOOD] * 2, tuned=['{"reply": "See <b>Northpeak</b>"}', '{"reply": "' + "a" * 2000 + 'Northpeak"}']
    )
    text = _page(folder)
    assert "&lt;b&gt;<mark>Northpeak</mark>&lt;/b&gt;" in text
    assert text.count("<mark>") == 1  # what is not shown is not marked


def test_hostile_names_and_classes_are_text(tmp_path):
    folder = measured(tmp_path)
    made = report.load(folder)
    rates = tuple(replace(rate, failures={SCRIPT: 3}) for rate in made.arms[1].rates)
    made = replace(made, facts={**made.facts, "name": SCRIPT, "base": SCRIPT, "ledger": SCRIPT, "run": SCRIPT}, verdict=SCRIPT,
                   arms=(made.arms[0], replace(made.arms[1], rates=rates)))  # fmt: skip
    seen = _Seen(page.render(made, failures(folder, made)))
    assert "script" not in seen.elements
    assert "".join(seen.texts).count(SCRIPT) >= 5


def test_pictures_show_what_the_figures_say(tmp_path):
    text = _page(measured(tmp_path))
    assert '<rect x="0" y="6" width="750.0" height="8" class="bar tuned"></rect>' in text  # 3 of 4 rows
    low, high = 0.300642, 0.954413  # Wilson of 3 in 4
    assert f'x1="{1000 * low:.1f}"' in text
    assert f'x1="{1000 * high:.1f}"' in text
    assert ">75.0 %<" in text
    assert "<b>2</b><span>fixed</span>" in text


def test_base_alone_and_a_run_without_failures_have_a_page(tmp_path):
    for name, arms in (("base", {"base": [BAD, GOOD]}), ("good", {"base": [BAD, BAD], "tuned": [GOOD, GOOD]})):
        (tmp_path / name).mkdir()
        folder = measured(tmp_path / name, **arms)
        text = _page(folder)
        _Seen(text)
        assert ("Row by row" in text) == (name == "good")
        assert ("Rows that fail" in text) == (name == "base")
        assert (folder / "report.md").read_text().startswith("# ")


def test_broken_rows_come_first_and_few_are_shown(tmp_path):
    folder = measured(tmp_path, base=[BAD] * 9 + [GOOD], tuned=[BAD] * 10)
    text = _page(folder)
    assert "6 of 10, broken ones first" in text
    assert text.index("Line 10, held before") < text.index("Line 1<")
    assert "100 % alike" not in text
    assert "% alike: shop.jsonl, line" in text


def test_pairs_have_margins_and_their_own_failures(tmp_path):
    folder = measured(tmp_path, pairs=True)
    text = _page(folder)
    assert "nats a token" in text
    assert "the rejected answer is likelier by" in text
    assert "right preference" in text


def test_pairs_of_arms_come_with_the_verdicts_first_and_others_with_its_metric_only(tmp_path):
    arms = {"base": [BAD] * 12, "base+prompt": [GOOD] * 2 + [BAD] * 10, "base+kshot": [GOOD] * 3 + [BAD] * 9, "tuned": [GOOD] * 12}
    folder = measured(tmp_path, **arms)
    made = report.load(folder)
    pairs = wording.compared(made)
    assert [name for name, _ in pairs] == [
        "tuned over base+kshot",
        "tuned over base",
        "base+prompt over base",
        "base+kshot over base",
    ]
    assert [len(items) for _, items in pairs] == [4, 4, 1, 1]
    assert {items[0].metric for _, items in pairs} == {"contract"}
    text = _page(folder)
    places = [text.index(f'<th scope="rowgroup" colspan="7">{name}</th>') for name, _ in pairs]
    assert places == sorted(places)
    assert "The whole contract: valid JSON, fits the schema, no forbidden phrase." in text


def test_off_task_prompts_that_were_unlearned_are_said_at_the_top(tmp_path):
    folder = measured(tmp_path)
    made = report.load(folder)
    for tuned, where in ((13, "header"), (19, "section")):
        told = replace(made, facts={**made.facts, "regression": asdict(Regression(34, 20, tuned, ("capital",), ()))})
        text = page.render(told, failures(folder, told))
        assert ('class="lede blocked"' in text) == (where == "header")
        assert "Broken: capital." in text
        assert "## Off task" in markdown.render(told, failures(folder, told))


def test_an_answer_that_fails_stands_beside_the_one_that_held_or_the_datas_own(tmp_path):
    folder = measured(tmp_path, base=[GOOD, BAD], tuned=["Broken now", "Failed before too"])
    seen = _Seen(_page(folder))
    first, second = (seen.texts.index(text) for text in ("Broken now", "Failed before too"))
    assert GOOD in seen.texts[first:second]
    assert "the data's own answer" in seen.texts[second:]
    assert BAD not in seen.texts


def test_what_the_rows_are_is_said_and_nothing_that_is_not_known(tmp_path):
    folder = measured(tmp_path)
    made = report.load(folder)
    assert wording.hold_out(made) == "4 held-out rows. First look at these rows."
    known = {"untouched": "None of them trained it.", "groups": 3, "moved": "The terms are not those of one: the schema changed."}
    told = replace(made, facts={**made.facts, **known})
    assert wording.hold_out(told) == (
        "4 held-out rows. None of them trained it. Some ask nearly the same, and count as 3 groups of rows. First look at these rows. "
        "The terms are not those of one: the schema changed."
    )
    assert wording.method(told).endswith("exact sign flips of whole groups, adjusted (Holm)")
    assert wording.method(made) == "same rows; Newcombe intervals; exact McNemar p, adjusted (Holm)"
    (tmp_path / "base").mkdir()
    alone = report.load(measured(tmp_path / "base", base=[BAD] * 20))
    assert "A rise shows, four times in five, from 37 points if nothing breaks, 46 if 5 % do." in wording.hold_out(alone)


def test_a_p_that_holm_raised_is_told_with_both(tmp_path):
    item = compare("contract", "base", "tuned", [(False, True)] * 7 + [(True, True)] * 9)
    made = report.load(measured(tmp_path))
    assert "with p 0.016 (exact McNemar test)" in wording.in_words(made, item)
    assert "with p 0.016, 0.047 after Holm (exact McNemar test)" in wording.in_words(made, replace(item, adjusted=3 * item.p))
    grouped = replace(made, facts={**made.facts, "groups": 3})
    assert "with p 0.016 (exact sign flips of whole groups)" in wording.in_words(grouped, item)


def test_text_is_escaped_unless_it_is_markup():
    assert join("<", Html("<br>"), None, "&") == "&lt;<br>&amp;"
    assert el("p", "a", class_='"x', aria_hidden="true", title=None) == '<p class="&quot;x" aria-hidden="true">a</p>'


def test_markdown_tells_the_same(tmp_path):
    text = (measured(tmp_path) / "report.md").read_text()
    assert text.startswith("# Cannot tell. Whole contract changed by between")
    assert "| whole contract | 25.0 % (5–70) | 75.0 % (30–95) |" in text
    assert "| base fails | 2 fixed | 1 still fail |" in text


def test_markdown_cannot_be_broken_out_of(tmp_path):
    text = (measured(tmp_path, base=[BAD] * 4, tuned=HOSTILE) / "report.md").read_text()
    assert "`````text\n````\n# Big" in text  # a fence that is longer than the one inside
    assert not set("\u202e\u2066\x1b\x00") & set(text)
    assert markdown.plain("a|b <i>*x*</i> [y](https://z.example) www.z.example a@z.example\n# no") == (
        r"a\|b \<i\>\*x\*\</i\> \[y\](https\://z.example) www\.z.example a\@z.example \# no"
    )
