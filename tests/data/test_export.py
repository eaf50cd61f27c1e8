import hashlib
import json
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from exhaustive import EXHAUSTIVE
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from keyed_rows import with_keys

from mlxtune.core.errors import DataError, InputError
from mlxtune.core.hashing import sha256_file
from mlxtune.data import review
from mlxtune.data.export import LAYOUTS, TARGETS, Target, export, export_record, native_record
from mlxtune.data.importer import import_rows, locate
from mlxtune.data.readers.formats import parse
from mlxtune.data.review import KeyedRow, ReviewSession, apply_decision
from mlxtune.data.rows import Location, Row, prompt_hash
from mlxtune.data.source import read_file, read_source
from mlxtune.recipe import DataSection

LOCATION = Location(Path("d.jsonl"), 1)
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
    LOCATION,
)  # fmt: skip
PAIR = parse({"prompt": "q", "chosen": "good", "rejected": "bad", "tools": TOOLS, "topic": "x"}, LOCATION)
TEXT = parse({"text": "plain", "topic": "x"}, LOCATION)
UNPAIRED = parse({"prompt": "q", "completion": "a", "label": False, "topic": "x"}, LOCATION)

CONTENT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\ufdd0"), min_size=1, max_size=12).filter(
    lambda text: text.strip()
)


def _turns(*roles: str) -> st.SearchStrategy[list[dict[str, Any]]]:
    return st.tuples(*(CONTENT for _ in roles)).map(
        lambda texts: [{"role": role, "content": text} for role, text in zip(roles, texts, strict=True)]
    )


CHATS = st.fixed_dictionaries(
    {
        "messages": _turns("user", "assistant")
        | _turns("system", "user", "assistant")
        | _turns("user", "assistant", "user", "assistant")
    },
    optional={"tools": st.just(TOOLS), "topic": CONTENT, "tags": st.lists(CONTENT, max_size=2)},
)
PAIRS = st.fixed_dictionaries({"prompt": _turns("user") | _turns("system", "user"), "chosen": CONTENT, "rejected": CONTENT}).filter(
    lambda record: record["chosen"] != record["rejected"]
)
UNPAIREDS = st.fixed_dictionaries({"prompt": _turns("user"), "completion": _turns("assistant"), "label": st.booleans()})
TEXTS = st.fixed_dictionaries({"text": CONTENT})
KINDS = [
    (CHATS, "chat", TARGETS),
    (PAIRS, "preference", ("trl", "openai")),
    (UNPAIREDS, "unpaired", ("trl",)),
    (TEXTS, "text", ("mlx-lm", "trl")),
]


@pytest.mark.slow
@pytest.mark.parametrize(("records", "format", "targets"), KINDS, ids=lambda value: value if isinstance(value, str) else "")
@settings(max_examples=20)
@given(data=st.data())
def test_rows_round_trip_through_export_and_import(records, format, targets, data):
    given_records = data.draw(st.lists(records, min_size=1, max_size=8))
    target: Target = data.draw(st.sampled_from(targets))
    accepted = data.draw(st.sets(st.integers(0, len(given_records) - 1), min_size=1))
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "d.jsonl"
        path.write_text("".join(json.dumps(record) + "\n" for record in given_records))
        rows = read_source(path, DataSection(str(path), format)).rows
        rows = list(with_keys(rows))
        with ReviewSession(path) as session:
            session.decide("accept", [rows[index] for index in accepted])
        expected = [row for index, (_, row) in enumerate(rows) if index in accepted]
        result = export(read_source(path, DataSection(str(path), format)), ALL, target, Path(name) / "out")
        assert sum(result.counts.values()) == len(expected)
        import_rows(Path(name) / "out", Path(name) / "back.jsonl")
        imported = read_source(Path(name) / "back.jsonl", DataSection("back.jsonl", format)).rows
        assert [row.hash for row in imported] == [row.hash for row in expected]
        if target == "mlx-lm":
            assert [row.meta for row in imported] == [row.meta for row in expected]


SIMPLE = parse({"system": "s", "prompt": "q\n“2”", "completion": "<think>\nhm\n</think>\n\na, b", "topic": "x", "n": 2}, LOCATION)
LONG = parse(
    {"messages": [{"role": role, "content": f"{role} {turn}"} for turn in range(2) for role in ("user", "assistant")]}, LOCATION
)


@pytest.mark.parametrize("target", sorted(LAYOUTS.keys() - TARGETS))
@pytest.mark.parametrize("rows", [[SIMPLE], [SIMPLE, LONG], [CHAT], [PAIR], [UNPAIRED], [TEXT]], ids=str)
def test_files_of_other_tools_are_read_back_as_the_same_rows(target, rows, tmp_path):
    is_held = {
        "alpaca": rows[0] is SIMPLE, "argilla": rows[0] is SIMPLE, "label-studio": rows[0] is SIMPLE, "sharegpt": rows[0] not in (CHAT, TEXT),
        "csv": rows[-1] not in (CHAT, LONG),
    }.get(target, True)  # fmt: skip
    if not is_held:
        with pytest.raises(DataError, match=f"{target} cannot hold this row"):
            LAYOUTS[target].write(rows, target)
        return
    back = _read_back(rows, target, tmp_path)
    assert [row.id for row in back] == [row.id for row in rows]
    assert all(str(one.meta[key]) == str(value) for one, row in zip(back, rows, strict=True) for key, value in row.meta.items())


def _read_back(rows, target, folder):
    file = folder / f"rows{LAYOUTS[target].suffix}"
    file.write_bytes(LAYOUTS[target].write(rows, target))
    import_rows(locate(str(file)), folder / "back.jsonl")
    return read_file(folder / "back.jsonl")


@pytest.mark.parametrize("target", sorted(LAYOUTS.keys() - TARGETS))
def test_metadata_with_the_name_of_a_key_is_kept(target, tmp_path):
    metas = [{"history": 3, "_server_id": "a"}, {"status": "b", "label": True}, {"tools": ["x"], "system": "s"}]
    rows = [parse({"prompt": f"q {number}", "completion": "a", "meta": meta}, LOCATION) for number, meta in enumerate(metas)]
    back = _read_back(rows, target, tmp_path)
    assert [(row.id, row.meta) for row in back] == [(row.id, row.meta) for row in rows]


def test_a_row_that_another_tool_rejected_and_a_person_accepted_is_exported_as_accepted(tmp_path):
    source = tmp_path / "rows.jsonl"
    source.write_text('{"prompt": "q", "completion": "a", "meta": {"review_status": "rejected", "n": 1}}\n')
    with ReviewSession(source) as session:
        session.decide("accept", list(with_keys(read_file(source))))
    result = export(read_source(source), ALL, "mlx-lm", tmp_path / "out")
    back = read_source(result.folder / "train.jsonl")
    assert (back.left_out, [row.meta for row in back.rows]) == (0, [{"n": 1}])


def test_parquet_and_argilla_hold_metadata_as_it_is(tmp_path):
    rows = [parse({"prompt": "q", "completion": "a", "meta": {"n": 2, "tags": ["x"], "ok": True}}, LOCATION)]
    for target in ("parquet", "argilla"):
        (tmp_path / target).mkdir()
        assert [row.meta for row in _read_back(rows, target, tmp_path / target)] == [row.meta for row in rows]


def test_records_have_the_trainers_formats():
    answers = {"chosen": [{"role": "assistant", "content": "good"}], "rejected": [{"role": "assistant", "content": "bad"}]}
    assert export_record(CHAT, "trl") == {"messages": [message.as_dict() for message in CHAT.messages], "tools": TOOLS}
    assert export_record(CHAT, "mlx-lm") == {**export_record(CHAT, "trl"), "meta": {"topic": "x"}}
    tool_call = export_record(CHAT, "openai")["messages"][2]["tool_calls"][0]
    assert tool_call == {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a": "é"}'}}
    assert CHAT.messages[2].extra["tool_calls"][0]["function"]["arguments"] == {"a": "é"}
    assert export_record(PAIR, "trl") == {"prompt": [{"role": "user", "content": "q"}], **answers, "tools": TOOLS}
    assert export_record(PAIR, "openai") == {
        "input": {"messages": [{"role": "user", "content": "q"}], "tools": TOOLS},
        "preferred_output": answers["chosen"],
        "non_preferred_output": answers["rejected"],
    }
    assert export_record(UNPAIRED, "trl") == {
        "prompt": [{"role": "user", "content": "q"}],
        "completion": [{"role": "assistant", "content": "a"}],
        "label": False,
    }
    assert export_record(TEXT, "mlx-lm") == {"text": "plain", "meta": {"topic": "x"}}
    assert native_record(PAIR) == {**export_record(PAIR, "trl"), "meta": {"topic": "x"}}


@pytest.mark.parametrize(
    ("row", "target", "words"),
    [(PAIR, "mlx-lm", "mlx-lm has no format for pairs"), (UNPAIRED, "mlx-lm", "no format for unpaired rows"), (TEXT, "openai", "openai has no format for plain text"), (UNPAIRED, "openai", "no format")],
)  # fmt: skip
def test_kinds_without_a_target_format_are_refused(row, target, words):
    with pytest.raises(DataError, match=words):
        export_record(row, target)


def _file(path: Path, number: int = 60) -> list[KeyedRow]:
    """Write rows with distinct prompts and return them with their keys."""
    path.write_text(
        "".join(
            json.dumps({"prompt": text, "completion": "a"}) + "\n"
            for text in (hashlib.sha256(str(index).encode()).hexdigest()[:30] for index in range(number))
        )
    )
    return list(with_keys(read_file(path)))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A source of sixty rows with distinct prompts."""
    _file(tmp_path / "shop.jsonl")
    return tmp_path / "shop.jsonl"


def _read(folder: Path, part: str) -> tuple[Row, ...]:
    return read_source(folder).parts[part]


def test_accepted_rows_are_exported_with_a_manifest(path, tmp_path):
    rows = list(with_keys(read_file(path)))
    with ReviewSession(path) as session:
        session.decide("accept", rows[:50])
        session.decide("reject", rows[50:52])
        session.decide("edit", rows[:1], record=parse({"prompt": "another", "completion": "thing"}, LOCATION).content)
    state = review.load(path)
    result = export(read_source(path), SOME, "mlx-lm", tmp_path / "out")
    written = {part: _read(tmp_path / "out", part) for part in ("train", "valid", "test")}
    assert {part: len(rows_of_part) for part, rows_of_part in written.items()} == result.counts
    hashes = {row.hash for rows_of_part in written.values() for row in rows_of_part}
    assert len(hashes) == 50
    assert hashes - {key for key, _ in rows[1:50]} == {state.decision(rows[0][0]).after}
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["whole"] is True
    assert manifest["source"] == {"name": "shop.jsonl", "sha256": {"shop.jsonl": sha256_file(path)}}
    assert manifest["review"] == {
        "sha256": sha256_file(tmp_path / "shop.review.jsonl"), "accepted": 50, "undecided": 8, "left_out": 2, "edited": 1,
    }  # fmt: skip
    assert manifest["split"] == {"seed": 7, "holdout": 0.2, "validation": 0.1, "group_by": "", "set_aside": 0}
    assert manifest["counts"] == result.counts
    assert manifest["files"] == {f"{part}.jsonl": sha256_file(tmp_path / "out" / f"{part}.jsonl") for part in written}
    assert manifest["rows"] == {part: [row.hash for row in rows_of_part] for part, rows_of_part in written.items()}


def test_exports_with_pending_rows_are_reproducible(path, tmp_path):
    rows = list(with_keys(read_file(path)))
    with ReviewSession(path) as session:
        session.decide("reject", rows[:3])
        session.decide("skip", rows[3:5])
    for name in ("one", "two"):
        result = export(read_source(path), SOME, "trl", tmp_path / name, pending=True)
        assert sum(result.counts.values()) == 57
    for file in (tmp_path / "one").iterdir():
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes()


DECISIONS = st.lists(
    st.tuples(
        st.sampled_from(["accept", "accept", "reject", "skip", "edit", "undo", "redo"]), st.sets(st.integers(0, 39), min_size=1)
    ),
    max_size=6,
)


@settings(max_examples=12 if EXHAUSTIVE else 3)
@given(DECISIONS, DECISIONS, st.integers(7, 8))
def test_any_review_exports_its_accepted_rows_and_keeps_test_rows(first, then, seed):
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "shop.jsonl"
        rows = _file(path, 40)
        test_hashes: set[str] = set()
        for turn, decisions in enumerate((first, then)):
            if turn:
                rows = _file(path, 55)  # rows were added
            with ReviewSession(path) as session:
                session.decide("accept", rows[turn * 40 : turn * 40 + 15])
                for action, indexes in decisions:
                    if action in ("undo", "redo"):
                        session.undo() if action == "undo" else session.redo()
                    elif action == "edit":
                        index = min(indexes)
                        session.decide(
                            "edit",
                            [rows[index]],
                            record=parse({"prompt": f"{turn} {rows[index][1].id * 3}", "completion": "b"}, LOCATION).content,
                        )
                    else:
                        session.decide(action, [rows[index] for index in indexes])
                state = session.state
            accepted = [
                apply_decision(row, state.decision(key)).hash for key, row in rows if state.decision(key).status == "accepted"
            ]
            data = DataSection("d", holdout=0.2, validation=0.1, seed=seed if turn else 7)
            if not accepted:
                continue
            try:
                result = export(read_source(path), data, "trl", Path(name) / f"out{turn}")
            except DataError as error:
                if "split is empty" not in error.message:
                    raise
                reject()  # the decisions left no row in a split
            files = {part: read_file(result.folder / f"{part}.jsonl") for part, count in result.counts.items() if count}
            assert sorted(row.hash for part in files.values() for row in part) == sorted(accepted)
            trains = {name for part in ("train", "valid") for row in files.get(part, ()) for name in (row.hash, prompt_hash(row))}
            tested = {name for row in files.get("test", ()) for name in (row.hash, prompt_hash(row))}
            assert not trains & (tested | test_hashes)
            test_hashes |= tested


def test_exported_test_rows_are_never_trained(path, tmp_path):
    rows = list(with_keys(read_file(path)))
    with ReviewSession(path) as session:
        session.decide("accept", rows)
    export(read_source(path), SOME, "mlx-lm", tmp_path / "out")
    sealed = {row.hash for row in _read(tmp_path / "out", "test")}
    export(read_source(path), DataSection("d", holdout=0.1, validation=0.1, seed=8), "mlx-lm", tmp_path / "other")
    assert not sealed & {row.hash for part in ("train", "valid") for row in _read(tmp_path / "other", part)}
    folder = tmp_path / "shop"  # a folder that defines its own splits
    folder.mkdir()
    (folder / "train.jsonl").write_text((tmp_path / "out" / "test.jsonl").read_text())
    (folder / "test.jsonl").write_text('{"prompt": "other", "completion": "a"}\n')
    with pytest.raises(DataError, match="training rows are also in the test split"):
        export(read_source(folder), ALL, "mlx-lm", tmp_path / "third", pending=True)
    assert not (tmp_path / "third").exists()


def test_a_new_export_replaces_an_old_one(path, tmp_path):
    export(read_source(path), SOME, "mlx-lm", tmp_path / "out", pending=True)
    export(read_source(path), DataSection("d", holdout=0.2, validation=0.0), "mlx-lm", tmp_path / "out", pending=True)
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["manifest.json", "test.jsonl", "train.jsonl"]


def test_a_folder_with_other_files_is_refused(path, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "train.jsonl").write_text("mine")
    with pytest.raises(InputError, match="is not empty and is not an export"):
        export(read_source(path), SOME, "mlx-lm", tmp_path / "out", pending=True)
    assert (tmp_path / "out" / "train.jsonl").read_text() == "mine"
    assert not (tmp_path / "shop.split.json").exists()


def test_nothing_accepted_and_mixed_kinds_are_refused(path, tmp_path):
    with pytest.raises(DataError, match=r"No rows of shop\.jsonl have been accepted yet"):
        export(read_source(path), SOME, "mlx-lm", tmp_path / "out")
    with path.open("a") as file:
        file.write('{"text": "plain"}\n')
    with pytest.raises(DataError, match="these are 60 chat, 1 text"):
        export(read_source(path), ALL, "mlx-lm", tmp_path / "out", pending=True)


def test_import_converts_any_format_and_keeps_metadata(tmp_path):
    (tmp_path / "a.jsonl").write_text(
        '{"instruction": "q", "input": "", "output": "a", "topic": "x"}\n{"prompt": "p", "chosen": "c", "rejected": "r"}\n'
    )
    result = import_rows(tmp_path / "a.jsonl", tmp_path / "b.jsonl")
    assert (result.rows, result.formats, result.bad) == (2, {"alpaca": 1, "preference": 1}, ())
    assert [json.loads(line) for line in (tmp_path / "b.jsonl").read_text().splitlines()] == [
        {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}], "meta": {"topic": "x"}},
        {"prompt": [{"role": "user", "content": "p"}], "chosen": [{"role": "assistant", "content": "c"}], "rejected": [{"role": "assistant", "content": "r"}]},
    ]  # fmt: skip


def test_import_refuses_bad_rows_or_leaves_them_out(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "one"}\n{"text": 5}\nnot JSON\n')
    with pytest.raises(DataError, match=r"2 of 3 rows cannot be used:\n  a\.jsonl, line 2"):
        import_rows(tmp_path / "a.jsonl", tmp_path / "b.jsonl")
    assert not (tmp_path / "b.jsonl").exists()
    result = import_rows(tmp_path / "a.jsonl", tmp_path / "b.jsonl", skip_bad=True)
    assert (result.rows, len(result.bad)) == (1, 2)
    with pytest.raises(InputError, match="already exists"):
        import_rows(tmp_path / "a.jsonl", tmp_path / "b.jsonl", skip_bad=True)
    with pytest.raises(InputError, match=r"must end with \.jsonl"):
        import_rows(tmp_path / "a.jsonl", tmp_path / "b.json")


def test_a_text_that_looks_like_a_transcript_gets_a_note(tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "\n\nHuman: q\n\nAssistant: a"}) + "\n")
    assert import_rows(tmp_path / "a.jsonl", tmp_path / "chat.jsonl").transcripts == 0
    result = import_rows(tmp_path / "a.jsonl", tmp_path / "text.jsonl", "text")
    assert result.transcripts == 1


def test_mlx_lm_reads_its_export(path, tmp_path):
    from mlx_lm.tuner import datasets

    result = export(read_source(path), SOME, "mlx-lm", tmp_path / "out", pending=True)
    datasets_by_split = datasets.load_local_dataset(tmp_path / "out", None, SimpleNamespace())
    assert [type(dataset).__name__ for dataset in datasets_by_split] == ["ChatDataset"] * 3
    assert dict(zip(("train", "valid", "test"), map(len, datasets_by_split), strict=True)) == result.counts
