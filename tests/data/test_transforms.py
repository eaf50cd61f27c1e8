"""Transforms: every verb, and the properties of pipelines: undo restores the rows, most verbs are idempotent, crashes are safe."""

import json
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from keyed_rows import with_keys

from mlxtune.core.errors import InputError
from mlxtune.data import review
from mlxtune.data.browser import SourceBrowser
from mlxtune.data.readers.formats import parse as parse_row
from mlxtune.data.review import Decision, ReviewSession, apply_decision
from mlxtune.data.rows import Location, Row, row_tags
from mlxtune.data.source import read_file, read_source
from mlxtune.data.transforms.pipeline import VERBS, Pipeline, RowEdit, parse
from mlxtune.data.transforms.preview import Outcome, changed_texts, recorded_edits, write_outcome
from mlxtune.data.transforms.text_verbs import normalize
from mlxtune.present.data_files import outcome_text

HERE = Path("shop.jsonl")


def _chat(*texts: str, system: str = "", **meta: Any) -> dict[str, Any]:
    turns = [{"role": ("user", "assistant")[index % 2], "content": text} for index, text in enumerate(texts)]
    return {"messages": [{"role": "system", "content": system}, *turns] if system else turns, **meta}


RECORDS = [
    _chat("Where is my refund?", "Soon: 3 days", system="Be kind.", category="billing", tags=["old"]),
    _chat("Where is my parcel? ", "In 5 days\r\n", category="shipping"),
    _chat("Hello", "Hi", "Price?", "10 USD", category="shipping"),
    {"prompt": "Which?", "chosen": "The blue one", "rejected": "Blue  \u200b", "topic": "color"},
    {"text": "A text with 7 USD in it"},
    {"prompt": "Rate it", "completion": "5 USD", "label": True},
    _chat("Hello", "Hi", "Price?", "10 USD", category="shipping"),  # a copy
]
ROWS: list[Row] = [parse_row(record, Location(HERE, number)) for number, record in enumerate(RECORDS, 1)]


def edits(line: str, rows: list[Row] = ROWS, folder: Path = HERE.parent) -> list[RowEdit]:
    """Apply a pipeline to rows without a review."""

    def row_at(index: int) -> Any:
        row = rows[index]
        return SimpleNamespace(row=row, current=row, decision=Decision(row.hash, row.hash), findings=(), tokens=-1)

    return list(parse(line, folder).edits(range(len(rows)), row_at))


def after(line: str, rows: list[Row] = ROWS, folder: Path = HERE.parent) -> list[Row]:
    changed = {edit.index: edit.after for edit in edits(line, rows, folder)}
    return [*(one for index, row in enumerate(rows) for one in changed.get(index, (row,))), *changed.get(-1, ())]


def texts(line: str, **options: Any) -> list[str]:
    return [json.dumps(row.content, ensure_ascii=False) for row in after(line, **options)]


def test_replace_in_a_role_or_field():
    assert '"10 dollars"' in texts(r"replace /(\d+) USD/\1 dollars/ in answer")[2]
    assert "7 USD" in texts(r"replace /usd/EUR/i in assistant")[4]
    assert "7 EUR" in texts(r"replace /usd/EUR/i")[4]
    assert "7 EUR" in texts(r"replace /usd/EUR/i in text")[4]
    assert "The red one" in texts('replace "blue" "red" in chosen')[3]
    assert "Blue" in texts('replace "blue" "red" in chosen')[3]
    assert after("replace /ship/SHIP/ in meta.category")[1].meta["category"] == "SHIPping"
    assert [edit.index for edit in edits('replace "Where" "When" in prompt')] == [0, 1]
    assert "a/b|c" in texts(r"replace /Hi/a\/b|c/ in answer")[2]


def test_system_turns(tmp_path):
    (tmp_path / "s.txt").write_text("You sell tents.\n")
    rows = after("system set s.txt", folder=tmp_path)
    assert [row.messages[0].content for row in rows[:3]] == ["You sell tents."] * 3
    assert rows[3].prompt[0].role == "system"
    assert rows[4] == ROWS[4]
    assert after("system prepend s.txt", folder=tmp_path)[0].messages[0].content == "You sell tents.\n\nBe kind."
    assert after("system append s.txt", folder=tmp_path)[0].messages[0].content == "Be kind.\n\nYou sell tents."
    assert [edit.index for edit in edits("system drop")] == [0]


def test_turns():
    assert [turn.content for turn in after("turn cut 3")[2].messages] == ["Hello", "Hi"]
    first, second = after("turn split 3")[2:4]
    assert [len(first.messages), len(second.messages)] == [2, 2]
    assert [edit.index for edit in edits("turn split 3")] == [2, 6]
    failed = [edit for edit in edits("turn drop 2") if edit.error]
    assert failed
    assert all(edit.after == (edit.before,) for edit in failed)


def test_choosing_rows():
    assert len(after("keep parcel")) == 1
    assert len(after("drop /par|ref/")) == 5
    assert len(after("sample 3")) == 3
    assert Counter(row.meta.get("category", "") for row in after("sample 1 per category")) == {"billing": 1, "shipping": 1, "": 1}
    assert Counter(row.meta.get("category", "") for row in after("cap category 1")) == {"billing": 1, "shipping": 1, "": 3}
    assert [row.location.line for row in after("sample 2 seed 1")] != [row.location.line for row in after("sample 2 seed 2")]
    assert len(after("where USD | cap category 1")) == 6
    assert len(after("where parcel | drop len>0 | where | sample 4")) == 4


def test_metadata():
    assert row_tags(after("tag new")[0]) == ("old", "new")
    assert row_tags(after("untag old")[0]) == ()
    assert after("set source manual")[4].meta == {"source": "manual"}
    assert after("unset category")[1].meta == {}
    assert after("rename category topic")[1].meta == {"topic": "shipping"}
    assert [edit.error for edit in edits("rename category tags")] == ["the row has both category and tags."] + [""] * 3


def test_where_limits_the_steps_after_it():
    assert [edit.index for edit in edits("where parcel | trim | where | tag x")] == list(range(7))
    assert [edit.index for edit in edits("where parcel | trim | tag x")] == [1]


def test_comments_files_and_lines(tmp_path):
    (tmp_path / "clean.pipeline").write_text("# clean\nnormalize | trim\n\n  # later\nreplace /a|b/x/ in user\n")
    pipeline = parse("@clean.pipeline", tmp_path)
    assert pipeline.text == "normalize | trim | replace /a|b/x/ in user"
    assert len(pipeline.steps) == 3
    assert len(parse(pipeline.text, tmp_path).steps) == 3


def test_merge_adds_the_rows_of_a_file(tmp_path):
    (tmp_path / "more.jsonl").write_text(json.dumps(_chat("New", "Row")) + "\n")
    assert len(after("merge more.jsonl", folder=tmp_path)) == 8


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "no step"), ("fly", "Unknown verb fly"), ("replace", "needs"), ("replace /a/", "write /pattern"), ("replace /(/x/", "regular"),
        (r"replace /a/\1/", "no group 1"), (r"replace /(a)/\g<b>/", "no group b"), ('replace "a" "b', "quote"), ('replace "" "b"', "empty"),
        ("replace /a/b/ in moon", "unknown role"), ("trim x", "unexpected x"), ("sample", "needs"), ("sample many", "not a number"),
        ("sample 0", "at least 1"), ("cap category x", "not a number"), ("keep", "needs a filter"), ("keep status:x", "Unknown status"),
        ("system fly x", "unknown action"), ("system set nothing.txt", "does not exist"), ("turn drop 0", "at least 1"), ("turn fly 2", "unknown"),
        ("merge nothing", "does not exist"), ("@nothing", "cannot be read"), ("set a", "needs a value"), ("dedupe best", "unknown rule best"),
    ],
)  # fmt: skip
def test_errors_name_the_step(line, message, tmp_path):
    with pytest.raises(InputError) as caught:
        parse(line, tmp_path)
    assert message in caught.value.message
    assert caught.value.hint


def test_a_pattern_with_exponential_time_is_stopped(monkeypatch):
    monkeypatch.setattr("mlxtune.data.filters.SearchTime.__init__", lambda self: vars(self).update(seconds=0.05, _left=0.05))
    rows = [parse_row({"text": "a" * 40 + "!"}, Location(HERE, number)) for number in range(40)]
    for line in (r"replace /(a|aa)+$/x/", r"keep /(a|aa)+$/", "where text:/(a|aa)+$/ | trim"):
        with pytest.raises(InputError, match="took longer than"):
            edits(line, rows)


@pytest.mark.parametrize("line", ["cap categry 5", "sample 1 per categry", "rename categry kind", "trim in meta.categry"])
def test_a_key_that_no_row_has_is_an_error(line):
    with pytest.raises(InputError) as caught:
        edits(line)
    assert (caught.value.message, caught.value.hint) == ("No row has the key categry.", "Did you mean category?")
    assert not edits(f"where nothing | {line}")


def test_one_row_per_prompt_is_kept_by_rules():
    records = [_chat("Q", "long answer"), _chat("Other", "x"), _chat("q", "short"), _chat("Q", "newer")]
    rows = [parse_row(record, Location(HERE, number)) for number, record in enumerate(records)]
    kept = {line: [row.location.line for row in after(line, rows)] for line in ("dedupe", "dedupe length", "dedupe accepted")}
    assert kept == {"dedupe": [1, 3], "dedupe length": [0, 1], "dedupe accepted": [1, 3]}
    records[2]["review_status"] = "accepted"
    rows[2] = parse_row(records[2], Location(HERE, 2))
    assert [row.location.line for row in after("dedupe accepted length", rows)] == [1, 2]
    assert parse("dedupe contract", HERE.parent).fields == {"finding"}


def test_a_conversation_is_split_after_every_few_turns():
    row = parse_row(_chat(*"abcdefgh", system="s"), Location(HERE, 1))
    assert ["".join(turn["content"] for turn in part.content["messages"]) for part in after("turn split every 3", [row])] == [
        "sabcd", "sefgh"
    ]  # fmt: skip
    assert not edits("turn split every 8", [row])


def test_text_changes():
    assert [change.part for edit in edits("replace /USD/EUR/") for change in changed_texts(edit)][:2] == ["turn 4", "text"]
    assert changed_texts(edits("set a b")[4])[0].after == "b"
    cut = next(edit for edit in edits("turn cut 3") if not edit.error)
    assert changed_texts(cut)[0].part == "4 → 2 turns"
    outcome = Outcome(7)
    for edit in edits("drop parcel | replace /USD/EUR/"):
        outcome.add(edit)
    assert outcome_text(outcome) == "4 edited, 1 left out: 7 → 6 rows."


@contextmanager
def source_of(records: list[dict[str, Any]]) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        source = Path(name) / "shop.jsonl"
        source.write_text("".join(json.dumps(record) + "\n" for record in records))
        (Path(name) / "s.txt").write_text("You sell tents.")
        yield source


def apply(session: ReviewSession, pipeline: Pipeline) -> review.ReviewStep | None:
    """Apply a pipeline to all rows of a source, as the command and the app do."""
    browser = SourceBrowser(session.source)
    for _ in browser.scan():
        pass
    browser.apply_review(session.state)
    try:
        found = [edit for edit in pipeline.edits(browser.rows, browser.lazy_row) if not edit.error]
    except InputError:  # no row has a key
        return None
    keyed = [browser.keyed_row(edit.index) for edit in found]
    step = session.decide("apply", keyed, edits=recorded_edits(found, browser.key, "hint"), reason=pipeline.text)
    browser.close()
    return step


def reviewed(source: Path) -> list[tuple[Any, Any]]:
    return [(row.content, {**row.meta, "tags": list(row_tags(row))}) for row in read_source(source).rows]


TEXT = st.text(st.sampled_from("ab 1\n\r\t\u00a0\u200b\u2028éeé\u0301Â\x80x"), min_size=1, max_size=8).map(lambda text: f"q{text}")
RECORD = st.one_of(
    st.builds(lambda *texts: _chat(*texts), TEXT, TEXT),
    st.builds(
        lambda a, b, c, d, k: _chat(a, b, c, d, category=k, system="Be kind."), TEXT, TEXT, TEXT, TEXT, st.sampled_from("xyz")
    ),
    st.builds(lambda p, a, b: {"prompt": p, "chosen": a, "rejected": b + "!", "tag": "old"}, TEXT, TEXT, TEXT),
    st.builds(lambda text: {"text": text, "category": "x"}, TEXT),
)
IDEMPOTENT = (
    "trim", "normalize", "normalize | trim", "trim in answer", "system set s.txt", "system prepend s.txt", "system append s.txt", "system drop",
    "drop a", "keep b", "sample 2", "sample 1 per category", "cap category 1", "tag new", "untag old", "set k v", "unset category",
    "rename category kind", "where a | trim", "where tag:old | set k v", "replace /a+/b/", 'replace "a" "b" in user', "turn cut 3",
)  # fmt: skip
LINE = st.sampled_from((*IDEMPOTENT, "replace /b/bb/ in answer", "turn drop 1", "turn drop 3"))


@given(st.lists(RECORD, min_size=1, max_size=6), st.sampled_from(IDEMPOTENT))
def test_applying_twice_is_applying_once(records, line):
    with source_of(records) as source, ReviewSession(source, who="ada") as session:
        pipeline = parse(line, source.parent)
        apply(session, pipeline)
        once = session.state.decisions
        assert apply(session, pipeline) is None
        assert session.state.decisions == once


@pytest.mark.slow
@given(st.lists(RECORD, min_size=1, max_size=6), st.lists(LINE, min_size=1, max_size=4))
@example([RECORDS[0], RECORDS[2], RECORDS[6]], ["tag new", "rename category kind", "cap kind 1", "unset kind"])
def test_undo_restores_the_rows_and_the_source_keeps_its_bytes(records, lines):
    with source_of(records) as source:
        before = source.read_bytes()
        states = [reviewed(source)]
        with ReviewSession(source, who="ada") as session:
            done = []
            for line in lines:
                if apply(session, parse(line, source.parent)):
                    done.append(reviewed(source) if _has_rows(source) else None)
            journal = review.journal_path(source).read_bytes()
            assert journal.count(b"\n") == len(done)  # one event each
            for expected in [*reversed(done[:-1]), states[0]][: len(done)]:
                assert session.undo() is not None
                assert (reviewed(source) if _has_rows(source) else None) == expected
            for expected in done:
                assert session.redo() is not None
                assert (reviewed(source) if _has_rows(source) else None) == expected
        assert source.read_bytes() == before


def _has_rows(source: Path) -> bool:
    return bool(read_source(source).rows)


@settings(max_examples=30)
@given(st.lists(RECORD, min_size=1, max_size=4), st.lists(LINE, min_size=1, max_size=3), st.floats(0, 1))
def test_a_crash_at_any_byte_keeps_whole_events(records, lines, fraction):
    with source_of(records) as source:
        states = [review.ReviewState().decisions]
        with ReviewSession(source, who="ada") as session:
            for line in lines:
                if apply(session, parse(line, source.parent)):
                    states.append(dict(session.state.decisions))
        path = review.journal_path(source)
        data = path.read_bytes() if path.exists() else b""  # an empty one is removed
        cut = round(fraction * len(data))
        path.write_bytes(data[:cut])
        whole = data[:cut].count(b"\n")
        with ReviewSession(source, who="ada") as session:
            assert session.state.decisions == states[whole]
            apply(session, parse("tag after", source.parent))
        decisions = review.load(source).decisions
        for key, row in with_keys(read_file(source)):
            assert apply_decision(row, review.load(source).decision(key)).hash == decisions.get(key, Decision(key, row.hash)).after


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_normalize_is_idempotent(text):
    once = normalize(text)
    assert normalize(once) == once


def test_normalize_restores_latex_commands_that_were_read_as_escapes():
    assert normalize("\x0crac{1}{2} and a\x08 b") == r"\frac{1}{2} and a b"


@given(st.text(st.sampled_from('ab/|\\"x 1.#@\n-:'), max_size=30), st.sampled_from(sorted(VERBS)))
def test_any_line_parses_or_is_invalid_input(text, verb):
    with tempfile.TemporaryDirectory() as name:
        for line in (text, f"{verb} {text}"):
            with suppress(InputError):
                parse(line, Path(name))


def test_a_new_file_has_all_rows(tmp_path):
    with source_of([RECORDS[0], RECORDS[1], RECORDS[2]]) as source:
        browser = SourceBrowser(source)
        for _ in browser.scan():
            pass
        found = list(parse("where Price | turn split 3", source.parent).edits(browser.rows, browser.lazy_row))
        with pytest.raises(InputError, match="new file"):
            recorded_edits(found, browser.key, "hint")
        assert write_outcome(browser, found, tmp_path / "new.jsonl") == 4
        assert [len(row.messages) for row in read_file(tmp_path / "new.jsonl")] == [3, 2, 2, 2]
        browser.close()
