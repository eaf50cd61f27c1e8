"""Generated rows: their lineage, and the guarantee that they are never held out and never train before they are accepted."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from keyed_rows import with_keys
from texts import WORDS

from mlxtune.core.errors import DataError, InputError
from mlxtune.core.json_fields import to_json
from mlxtune.data.checks.run import check
from mlxtune.data.generate.documents import Passage, find_quote, read_passages, split_passages
from mlxtune.data.generate.lineage import KEY, DocumentSpan, Lineage, lineage_of
from mlxtune.data.generate.questions import Subject, TeacherQuestion, answer_questions, example_groups, read_prompts_reply
from mlxtune.data.generate.selection import Proposal, best_of_each, propose, ranked
from mlxtune.data.review import ReviewSession
from mlxtune.data.rows import Conversation, Location, Message, Row
from mlxtune.data.source import Source, read_file, read_source
from mlxtune.data.source_files import generated_path
from mlxtune.data.split import record_splits, split
from mlxtune.recipe import DataSection, parse
from mlxtune.training import variants as generated_rows

DATA = DataSection("rows.jsonl", holdout=0.25, validation=0.1)


def row(text: str, answer: str = "Yes.", *, examples: tuple[str, ...] = (), generated: bool = False) -> Conversation:
    meta = {KEY: to_json(Lineage("variations", "big", "", "run-1", "Write.", 3, examples))} if generated else {}
    return Conversation(Location(Path("rows.jsonl"), 1), meta, (Message("user", text), Message("assistant", answer)))


def prompts(number: int) -> list[str]:
    return [f"{WORDS[at % 15]} {WORDS[at * 7 % 15]} {WORDS[at * 4 % 15]} {at * at * 7919}?" for at in range(number)]


def names(rows: tuple[Row, ...]) -> set[str]:
    return {one.id for one in rows}


def test_lineage_survives_the_metadata():
    lineage = Lineage(
        "documents", "big", "api.example.org", "run-1", "Write.", 3, ("0123456789ab",), {"send": 0.5}, DocumentSpan("a.md", 2, 9, "seven"), "tone",
    )  # fmt: skip
    stored = json.loads(json.dumps(to_json(lineage)))
    assert lineage_of(replace(row("x"), meta={KEY: stored})) == lineage
    for other in (True, {"v": 2, "task": "answers"}, {"v": 1, "task": "answers", "teacher": 3, "run": "x"}, "yes"):
        assert lineage_of(replace(row("x"), meta={KEY: other})) is None


@pytest.mark.slow
@given(seed=st.integers(0, 2**31), number=st.integers(1, 30), tagged=st.booleans())
def test_generated_rows_are_never_held_out_and_change_no_other_split(seed: int, number: int, tagged: bool):
    own = [replace(row(text), meta={"tags": [text[0]]} if tagged else {}) for text in prompts(60)]
    new = [row(f"{text} and also {at * 31337}", generated=True) for at, text in enumerate(reversed(prompts(90)[60:]))][:number]
    data = replace(DATA, seed=seed, validation=0.3)  # a split of 60 rows is empty for one seed in 10^7
    before = split(Source(Path("d"), {"all": tuple(own)}), data)
    for parts in ({"all": tuple(own), "generated": tuple(new)}, {"all": (*own, *new)}):
        after = split(Source(Path("d"), parts), data)
        assert (after.test, after.valid) == (before.test, before.valid)
        assert not names(tuple(new)) & names((*after.test, *after.valid))
        assert names(after.train) == names(before.train) | (names(tuple(new)) - names(after.set_aside))
        without = split(Source(Path("d"), parts), replace(data, generated=False))
        assert not names(tuple(new)) & names((*without.train, *without.valid, *without.test, *without.set_aside))


def test_rows_close_to_held_out_ones_or_derived_from_them_are_set_aside(tmp_path: Path):
    source = Source(tmp_path / "d.jsonl", {"all": tuple(map(row, prompts(60)))})
    before = split(source, DATA)
    record_splits(source, DATA, before)
    test, train = before.test[0], before.train[0]
    close = row(f"{test.messages[0].content} ", generated=True)
    derived = row("How do whales sleep at night?", examples=(test.id,), generated=True)
    good = row("Why is the moon so bright tonight?", examples=(train.id,), generated=True)
    after = split(replace(source, parts={**source.parts, "generated": (close, derived, good)}), DATA)
    assert names(after.set_aside) == {close.id, derived.id}
    assert good in after.train
    twin = row("why is the moon so bright tonight")  # a new row of the user's own, which could be drawn for any split
    for seed in range(8):
        later = split(replace(source, parts={"all": (*source.rows, twin), "generated": (good,)}), replace(DATA, seed=seed))
        assert twin in later.train


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"prompt": text, "completion": "Yes."}) + "\n" for text in prompts(40)))
    return path


def test_proposals_train_only_after_they_are_accepted(source: Path):
    new = [row(f"Where does the {word} go?", generated=True) for word in ("moss", "fern", "reed")]
    assert propose(source, new) == 3
    assert propose(source, new[:2]) == 0
    assert [one.id for one in read_file(generated_path(source))] == [one.id for one in new]
    assert len(read_source(source).rows) == 40
    recipe = parse(f'name = "r"\n[model]\nbase = "b"\n[data]\nsource = "{source}"')
    with pytest.raises(InputError, match="No generated row"):
        generated_rows.generated_variants(recipe)
    with ReviewSession(source) as session:
        rows = list(with_keys(new))
        session.decide("accept", rows[:2])
        session.decide("reject", rows[2:])
    assert len(read_source(source).rows) == 42
    variants = generated_rows.generated_variants(recipe)
    assert variants.generated == 2
    counts = [len(split(read_source(source), one.data).train) for one in (variants.without, variants.with_generated)]
    assert counts == [variants.own, variants.own + 2]
    with ReviewSession(source) as session:
        session.undo()
        session.undo()
    assert len(read_source(source).rows) == 40


def test_the_check_counts_a_proposal_only_after_it_is_accepted(source: Path):
    new = [row("Where does the moss go?", generated=True)]
    propose(source, new)
    with ReviewSession(source) as session:
        before = check(source, state=session.state)
        assert (before.statistics.rows, len(before.left_out)) == (40, 1)
        session.decide("accept", list(with_keys(new)))
        after = check(source, state=session.state)
    assert (after.statistics.rows, len(after.left_out)) == (41, 0)


def test_both_variants_are_evaluated_with_the_same_answer_limit(source: Path, monkeypatch: pytest.MonkeyPatch):
    recipe = parse(f'name = "r"\n[model]\nbase = "b"\n[data]\nsource = "{source}"')
    own, more = (replace(recipe, data=replace(recipe.data, generated=value)) for value in (False, True))
    variants = generated_rows.GeneratedVariants(own, more, 40, 2)
    limits: list[object] = []

    def evaluated(variant: object, run: SimpleNamespace) -> str:
        limits.append(variant.evaluation.max_tokens)
        return f"evaluation of {run.id}"

    def trained(variant: object) -> SimpleNamespace:
        name, steps = ("with", 9) if variant == variants.with_generated else ("without", 5)
        return SimpleNamespace(id=name, state=lambda: SimpleNamespace(total=steps))

    monkeypatch.setattr(generated_rows.reports, "load", lambda folder: SimpleNamespace(facts={"decoding": {"max_tokens": 77}}))
    monkeypatch.setattr(generated_rows, "find_side", lambda workspace, which: which)
    monkeypatch.setattr(generated_rows, "compare_evaluations", lambda *sides: sides)
    result, steps = generated_rows.compare_generated(source.parent, variants, trained, evaluated)
    assert result == ("evaluation of without", "evaluation of with")
    assert steps == (5, 9)
    assert limits == ["auto", 77]


def test_the_best_candidate_is_kept_and_useful_rows_come_first():
    graded = [Proposal(0, row("a?", "One way."), {"send": 0.0}), Proposal(0, row("a?", "Two ways."), {"send": 1.0})]
    agreed = [Proposal(1, row("b?", text)) for text in ("Blue, mostly.", "Something else entirely.", "Blue, mostly!")]
    best, others = best_of_each([*graded, *agreed])
    assert [one.row.messages[-1].content for one in best if isinstance(one.row, Conversation)] == ["Two ways.", "Blue, mostly."]
    assert len(others) == 3
    train = [row("How do I clean a tent?")]
    rows = [
        Proposal(at, row(text)) for at, text in enumerate(["How do I clean a tents?", "Can dogs swim far?", "Can dogs swim, far?"])
    ]
    assert [one.subject for one in ranked(rows, train)] == [1, 2, 0]


def test_replies_are_read_as_lists_of_prompts():
    assert read_prompts_reply('Sure! ["One?", "", 3, "Two?"] Bye.') == ["One?", "Two?"]
    assert read_prompts_reply('1. One?\n2) Two?\n- "Three?"\nThat is all.') == ["One?", "Two?", "Three?"]
    assert read_prompts_reply("I cannot do that.") == []


@given(st.text(alphabet="ab \n.", max_size=9000))
def test_passages_are_parts_of_the_document(text: str):
    passages = split_passages("a.md", text)
    assert all(text[one.start : one.start + len(one.text)] == one.text and one.text.strip() for one in passages)
    assert "".join("".join(one.text.split()) for one in passages) == "".join(text.split())


def test_quotes_are_found_in_the_document():
    passage = Passage("a.md", 10, "The wax\n  is warm. Use it.")
    assert find_quote(passage, "the wax is  warm.") == (10, 28)
    assert find_quote(passage, "is cold") is None
    assert find_quote(passage, " ") is None


def test_text_of_pdf_files_is_read(tmp_path: Path):
    pytest.importorskip("pypdf")
    stream = b"BT /F1 12 Tf 72 720 Td (Waxed cotton is brushed.) Tj ET"
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>", b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 4 0 R /Resources << /Font << /F1 5 0 R >> >> >>",
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(stream), stream), b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]  # fmt: skip
    data, offsets = b"%PDF-1.4\n", []
    for number, item in enumerate(objects, 1):
        offsets.append(len(data))
        data += b"%d 0 obj\n%s\nendobj\n" % (number, item)
    table = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    end = b"xref\n0 6\n0000000000 65535 f \n%strailer << /Size 6 /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (table, len(data))
    (tmp_path / "care.pdf").write_bytes(data + end)
    assert read_passages(tmp_path) == [Passage("care.pdf", 0, "Waxed cotton is brushed.")]
    (tmp_path / "care.pdf").write_bytes(b"%PDF-1.4 broken")
    with pytest.raises(DataError, match="Cannot read"):
        read_passages(tmp_path)


def test_a_teacher_reads_calls_and_their_results_as_text():
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": {"city": "Rome"}}}
    turns = (
        Message("user", "Weather in Rome?"), Message("assistant", "", {"tool_calls": [call] * 2}),
        *[Message("tool", f"{degrees} °C", {"tool_call_id": "c1"}) for degrees in (20, 21)],
    )  # fmt: skip
    [(_, [question])] = answer_questions([Subject(turns)], [], 1, 0)
    calls = json.dumps([{"name": "weather", "arguments": {"city": "Rome"}}] * 2)
    assert [(turn["role"], turn["content"]) for turn in question.messages] == [
        ("user", "Weather in Rome?"), ("assistant", calls), ("user", "20 °C\n\n21 °C"),
    ]  # fmt: skip


def test_a_teacher_sees_only_examples_with_the_same_tools():
    tools = [({"type": "function", "function": {"name": name, "parameters": {}}},) for name in ("weather", "pay")]
    rows = [replace(row(text), tools=tools[at % 2]) for at, text in enumerate(prompts(8))]
    for group in example_groups(rows, 8, 0):
        assert all(one.tools == group[0].tools for one in group)
    [(subject, _)] = answer_questions([Subject((Message("user", "Weather?"),), tools[0])], rows, 1, 0)
    assert len(subject.examples) == 3
    assert all(one.tools == tools[0] for one in rows if one.id in subject.examples)
    assert len({TeacherQuestion(0, 0, (), tools=own).key for own in tools}) == 2
