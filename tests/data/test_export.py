from __future__ import annotations

import hashlib
import json
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlxtune.core.errors import DataError, InputError
from mlxtune.core.hashing import sha256_file
from mlxtune.data import review
from mlxtune.data.decisions import Keyed, keyed, now
from mlxtune.data.export import TARGETS, Target, export, own, shape
from mlxtune.data.formats import parse
from mlxtune.data.groups import question
from mlxtune.data.review import Review
from mlxtune.data.rows import Place, Row
from mlxtune.data.source import read_file, read_source
from mlxtune.data.take import take
from mlxtune.recipe import DataSection

HERE = Place(Path("d.jsonl"), 1)
ALL = DataSection("d", holdout=0.0, validation=0.0)
SOME = DataSection("d", holdout=0.2, validation=0.1)

CALL = {
    "role": "assistant",
    "content": "",
    "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": {"a": "é"}}}],
}
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
CHAT = parse(
    {
        "messages": [
            {"role": "system", "content": "s"}, {"role": "user", "content": "q"}, CALL,
            {"role": "tool", "content": "5", "tool_call_id": "1"}, {"role": "assistant", "content": "a"},
        ],
        "tools": TOOLS, "topic": "x",
    },
    HERE,
)  # fmt: skip
PAIR = parse({"prompt": "q", "chosen": "good", "rejected": "bad", "tools": TOOLS, "topic": "x"}, HERE)
TEXT = parse({"text": "plain", "topic": "x"}, HERE)
UNPAIRED = parse({"prompt": "q", "completion": "a", "label": False, "topic": "x"}, HERE)

SAID = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=12).filter(
    lambda text: text.strip()
)


def _turns(*roles: str) -> st.SearchStrategy[list[dict[str, Any]]]:
    return st.tuples(*(SAID for _ in roles)).map(
        lambda texts: [{"role": role, "content": text} for role, text in zip(roles, texts, strict=True)]
    )


CHATS = st.fixed_dictionaries(
    {
        "messages": _turns("user", "assistant")
        | _turns("system", "user", "assistant")
        | _turns("user", "assistant", "user", "assistant")
    },
    optional={"tools": st.just(TOOLS), "topic": SAID, "tags": st.lists(SAID, max_size=2)},
)
PAIRS = st.fixed_dictionaries({"prompt": _turns("user") | _turns("system", "user"), "chosen": SAID, "rejected": SAID}).filter(
    lambda record: record["chosen"] != record["rejected"]
)
UNPAIREDS = st.fixed_dictionaries({"prompt": _turns("user"), "completion": _turns("assistant"), "label": st.booleans()})
TEXTS = st.fixed_dictionaries({"text": SAID})
KINDS = [
    (CHATS, "chat", TARGETS),
    (PAIRS, "preference", ("trl", "openai")),
    (UNPAIREDS, "unpaired", ("trl",)),
    (TEXTS, "text", ("mlx-lm", "trl")),
]


@pytest.mark.parametrize(("records", "format", "targets"), KINDS, ids=lambda value: value if isinstance(value, str) else "")
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_exporting_then_importing_gives_the_same_rows(records, format, targets, data):
    given_records = data.draw(st.lists(records, min_size=1, max_size=8))
    to: Target = data.draw(st.sampled_from(targets))
    accepted = data.draw(st.sets(st.integers(0, len(given_records) - 1), min_size=1))
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "d.jsonl"
        path.write_text("".join(json.dumps(record) + "\n" for record in given_records))
        rows = read_source(path, format).rows
        rows = list(keyed(rows))
        with Review(path) as window:
            window.decide("accept", [rows[at] for at in accepted])
        wanted = [row for at, (_, row) in enumerate(rows) if at in accepted]
        made = export(read_source(path, format), ALL, to, Path(name) / "out")
        assert sum(made.counts.values()) == len(wanted)
        take(Path(name) / "out", Path(name) / "back.jsonl")
        back = read_source(Path(name) / "back.jsonl", format).rows
        assert [row.hash for row in back] == [row.hash for row in wanted]
        if to == "mlx-lm":
            assert [row.meta for row in back] == [row.meta for row in wanted]


def test_shapes_are_those_of_the_trainers():
    answers = {"chosen": [{"role": "assistant", "content": "good"}], "rejected": [{"role": "assistant", "content": "bad"}]}
    assert shape(CHAT, "trl") == {"messages": [message.as_dict() for message in CHAT.messages], "tools": TOOLS}
    assert shape(CHAT, "mlx-lm") == {**shape(CHAT, "trl"), "meta": {"topic": "x"}}
    spelled = shape(CHAT, "openai")["messages"][2]["tool_calls"][0]
    assert spelled == {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a": "é"}'}}
    assert CHAT.messages[2].extra["tool_calls"][0]["function"]["arguments"] == {"a": "é"}
    assert shape(PAIR, "trl") == {"prompt": [{"role": "user", "content": "q"}], **answers, "tools": TOOLS}
    assert shape(PAIR, "openai") == {
        "input": {"messages": [{"role": "user", "content": "q"}], "tools": TOOLS},
        "preferred_output": answers["chosen"],
        "non_preferred_output": answers["rejected"],
    }
    assert shape(UNPAIRED, "trl") == {
        "prompt": [{"role": "user", "content": "q"}],
        "completion": [{"role": "assistant", "content": "a"}],
        "label": False,
    }
    assert shape(TEXT, "mlx-lm") == {"text": "plain", "meta": {"topic": "x"}}
    assert own(PAIR) == {**shape(PAIR, "trl"), "meta": {"topic": "x"}}


@pytest.mark.parametrize(
    ("row", "to", "words"),
    [(PAIR, "mlx-lm", "mlx-lm has no format for pairs"), (UNPAIRED, "mlx-lm", "no format for unpaired rows"), (TEXT, "openai", "openai has no format for plain text"), (UNPAIRED, "openai", "no format")],
)  # fmt: skip
def test_what_a_trainer_has_no_format_for_is_said(row, to, words):
    with pytest.raises(DataError, match=words):
        shape(row, to)


def _file(path: Path, number: int = 60) -> list[Keyed]:
    """Rows whose questions are like no other."""
    path.write_text(
        "".join(
            json.dumps({"prompt": text, "completion": "a"}) + "\n"
            for text in (hashlib.sha256(str(at).encode()).hexdigest()[:30] for at in range(number))
        )
    )
    return list(keyed(read_file(path)))


def _read(folder: Path, part: str) -> tuple[Row, ...]:
    return read_source(folder).parts[part]


def test_only_what_was_accepted_is_exported_and_the_manifest_says_from_what(tmp_path):
    path = tmp_path / "shop.jsonl"
    rows = _file(path)
    with Review(path) as window:
        window.decide("accept", rows[:50])
        window.decide("reject", rows[50:52])
        window.decide("edit", rows[:1], record=parse({"prompt": "another", "completion": "thing"}, HERE).content)
    state = review.load(path)
    made = export(read_source(path), SOME, "mlx-lm", tmp_path / "out")
    written = {part: _read(tmp_path / "out", part) for part in ("train", "valid", "test")}
    assert {part: len(held) for part, held in written.items()} == made.counts
    hashes = {row.hash for held in written.values() for row in held}
    assert len(hashes) == 50
    assert hashes - {key for key, _ in rows[1:50]} == {state.of(rows[0][0]).after}
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["whole"] is True
    assert manifest["source"] == {"name": "shop.jsonl", "sha256": {"shop.jsonl": sha256_file(path)}}
    assert manifest["review"] == {
        "sha256": sha256_file(tmp_path / "shop.review.jsonl"), "accepted": 50, "undecided": 8, "left_out": 2, "edited": 1,
    }  # fmt: skip
    assert manifest["split"] == {"seed": 7, "holdout": 0.2, "validation": 0.1, "group_by": "", "set_aside": 0}
    assert manifest["counts"] == made.counts
    assert manifest["files"] == {f"{part}.jsonl": sha256_file(tmp_path / "out" / f"{part}.jsonl") for part in written}
    assert manifest["rows"] == {part: [row.hash for row in held] for part, held in written.items()}


def test_the_undecided_are_exported_where_that_is_asked_for_and_again_byte_for_byte(tmp_path):
    path = tmp_path / "shop.jsonl"
    rows = _file(path)
    with Review(path) as window:
        window.decide("reject", rows[:3])
        window.decide("skip", rows[3:5])
    for name in ("one", "two"):
        made = export(read_source(path), SOME, "trl", tmp_path / name, pending=True)
        assert sum(made.counts.values()) == 57
    for file in (tmp_path / "one").iterdir():
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes()


DECISIONS = st.lists(
    st.tuples(
        st.sampled_from(["accept", "accept", "reject", "skip", "edit", "undo", "redo"]), st.sets(st.integers(0, 39), min_size=1)
    ),
    max_size=6,
)


@settings(max_examples=12, deadline=None)
@given(DECISIONS, DECISIONS, st.integers(7, 8))
def test_whatever_is_decided_an_export_holds_just_that_and_parts_no_test_row_from_its_share(first, then, seed):
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "shop.jsonl"
        rows = _file(path, 40)
        held: set[str] = set()
        for turn, decisions in enumerate((first, then)):
            if turn:
                rows = _file(path, 55)  # rows were added
            with Review(path) as window:
                window.decide("accept", rows[turn * 40 : turn * 40 + 15])
                for action, which in decisions:
                    if action in ("undo", "redo"):
                        window.undo() if action == "undo" else window.redo()
                    elif action == "edit":
                        at = min(which)
                        window.decide(
                            "edit",
                            [rows[at]],
                            record=parse({"prompt": f"{turn} {rows[at][1].id * 3}", "completion": "b"}, HERE).content,
                        )
                    else:
                        window.decide(action, [rows[at] for at in which])
                state = window.state
            accepted = [now(row, state.of(key)).hash for key, row in rows if state.of(key).status == "accepted"]
            data = DataSection("d", holdout=0.2, validation=0.1, seed=seed if turn else 7)
            if not accepted:
                continue
            made = export(read_source(path), data, "trl", Path(name) / f"out{turn}")
            files = {part: read_file(made.folder / f"{part}.jsonl") for part, count in made.counts.items() if count}
            assert sorted(row.hash for part in files.values() for row in part) == sorted(accepted)
            trains = {name for part in ("train", "valid") for row in files.get(part, ()) for name in (row.hash, question(row))}
            tested = {name for row in files.get("test", ()) for name in (row.hash, question(row))}
            assert not trains & (tested | held)
            held |= tested


def test_what_was_exported_as_test_never_trains(tmp_path):
    path = tmp_path / "shop.jsonl"
    rows = _file(path)
    with Review(path) as window:
        window.decide("accept", rows)
    export(read_source(path), SOME, "mlx-lm", tmp_path / "out")
    held = {row.hash for row in _read(tmp_path / "out", "test")}
    export(read_source(path), DataSection("d", holdout=0.1, validation=0.1, seed=8), "mlx-lm", tmp_path / "other")
    assert not held & {row.hash for part in ("train", "valid") for row in _read(tmp_path / "other", part)}
    folder = tmp_path / "shop"  # files that decide for themselves, with what is beside them
    folder.mkdir()
    (folder / "train.jsonl").write_text((tmp_path / "out" / "test.jsonl").read_text())
    (folder / "test.jsonl").write_text('{"prompt": "other", "completion": "a"}\n')
    with pytest.raises(DataError, match="about to train stand in the held-out share"):
        export(read_source(folder), ALL, "mlx-lm", tmp_path / "third", pending=True)
    assert not (tmp_path / "third").exists()


def test_a_smaller_export_takes_the_place_of_the_whole_older_one(tmp_path):
    path = tmp_path / "shop.jsonl"
    _file(path)
    export(read_source(path), SOME, "mlx-lm", tmp_path / "out", pending=True)
    export(
        read_source(path),
        DataSection("d", holdout=0.2, validation=0.0),
        "mlx-lm",
        tmp_path / "out",
        pending=True,
    )
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["manifest.json", "test.jsonl", "train.jsonl"]


def test_a_folder_with_something_else_in_it_is_refused(tmp_path):
    path = tmp_path / "shop.jsonl"
    _file(path)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "train.jsonl").write_text("mine")
    with pytest.raises(InputError, match="is not empty and no export of ours"):
        export(read_source(path), SOME, "mlx-lm", tmp_path / "out", pending=True)
    assert (tmp_path / "out" / "train.jsonl").read_text() == "mine"
    assert not (tmp_path / "shop.split.json").exists()


def test_nothing_accepted_and_mixed_kinds_are_refused(tmp_path):
    path = tmp_path / "shop.jsonl"
    _file(path)
    with pytest.raises(DataError, match=r"No row of shop\.jsonl is accepted yet"):
        export(read_source(path), SOME, "mlx-lm", tmp_path / "out")
    with path.open("a") as file:
        file.write('{"text": "plain"}\n')
    with pytest.raises(DataError, match="these are 60 chat, 1 text"):
        export(read_source(path), ALL, "mlx-lm", tmp_path / "out", pending=True)


def test_import_makes_one_file_of_any_format_and_keeps_the_metadata(tmp_path):
    (tmp_path / "a.jsonl").write_text(
        '{"instruction": "q", "input": "", "output": "a", "topic": "x"}\n{"prompt": "p", "chosen": "c", "rejected": "r"}\n'
    )
    taken = take(tmp_path / "a.jsonl", tmp_path / "b.jsonl")
    assert (taken.rows, taken.formats, taken.bad) == (2, {"alpaca": 1, "preference": 1}, ())
    assert [json.loads(line) for line in (tmp_path / "b.jsonl").read_text().splitlines()] == [
        {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}], "meta": {"topic": "x"}},
        {"prompt": [{"role": "user", "content": "p"}], "chosen": [{"role": "assistant", "content": "c"}], "rejected": [{"role": "assistant", "content": "r"}]},
    ]  # fmt: skip


def test_import_refuses_bad_rows_or_leaves_them_out(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "one"}\n{"text": 5}\nnot JSON\n')
    with pytest.raises(DataError, match=r"2 rows of 3 cannot be used:\n  a\.jsonl, line 2"):
        take(tmp_path / "a.jsonl", tmp_path / "b.jsonl")
    assert not (tmp_path / "b.jsonl").exists()
    taken = take(tmp_path / "a.jsonl", tmp_path / "b.jsonl", skip_bad=True)
    assert (taken.rows, len(taken.bad)) == (1, 2)
    with pytest.raises(InputError, match="is there already"):
        take(tmp_path / "a.jsonl", tmp_path / "b.jsonl", skip_bad=True)
    with pytest.raises(InputError, match=r"must end with \.jsonl"):
        take(tmp_path / "a.jsonl", tmp_path / "b.json")


def test_a_text_that_looks_like_a_transcript_is_pointed_out(tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "\n\nHuman: q\n\nAssistant: a"}) + "\n")
    assert take(tmp_path / "a.jsonl", tmp_path / "chat.jsonl").notes == ()
    taken = take(tmp_path / "a.jsonl", tmp_path / "text.jsonl", "text")
    assert taken.notes == ('1 text would be taken for a transcript: read text.jsonl with the format "text".',)


def test_mlx_lm_reads_what_is_exported_to_it(tmp_path):
    from mlx_lm.tuner import datasets

    path = tmp_path / "shop.jsonl"
    _file(path)
    made = export(read_source(path), SOME, "mlx-lm", tmp_path / "out", pending=True)
    shares = datasets.load_local_dataset(tmp_path / "out", None, SimpleNamespace())
    assert [type(share).__name__ for share in shares] == ["ChatDataset"] * 3
    assert dict(zip(("train", "valid", "test"), map(len, shares), strict=True)) == made.counts
