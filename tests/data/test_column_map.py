"""The map proposed for a file of one's own: from the names of its columns, and from their contents."""

import csv
import json
from pathlib import Path

import pytest

from mlxtune.data.access.records import SourceRecords
from mlxtune.data.column_map import first_records, named_columns, proposed_mapping
from mlxtune.data.readers.columns import column_value, guess_mapping, mapping_option
from mlxtune.data.readers.formats import parse
from mlxtune.data.rows import Location
from mlxtune.data.scaffold import guess
from mlxtune.recipe import DataSection

HEAD = ("ticket_nr", "datum", "kundentext", "agent_answer", "bearbeiter")
ROWS = [
    (str(at), "2026-01-10", f"Wo ist Paket {at} geblieben?", f'{{"note": "Paket {at} ist da."}}', "agent 1") for at in range(12)
]


def written(path: Path, head: tuple[str, ...], rows: list[tuple[str, ...]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter=";").writerows([head, *rows])
    return path


@pytest.mark.parametrize(
    ("head", "mapping"),
    [
        (HEAD, {"prompt": "kundentext", "completion": "agent_answer"}),
        ((*HEAD[:3], "antwort", "bearbeiter"), {"prompt": "kundentext", "completion": "antwort"}),
        (("id", "datum", "question", "spalte", "x"), {"prompt": "question", "completion": "spalte"}),
    ],
)
def test_a_foreign_file_has_its_prompt_and_answer_proposed_from_names_and_contents(tmp_path, head, mapping):
    assert proposed_mapping(first_records(written(tmp_path / "rows.csv", head, ROWS), 100)) == mapping


def test_a_named_answer_may_repeat(tmp_path):
    rows = [(*row[:3], f'{{"reply": "We look into it: {at % 3}."}}', row[4]) for at, row in enumerate(ROWS)]
    proposed = proposed_mapping(first_records(written(tmp_path / "rows.csv", HEAD, rows), 100))
    assert proposed == {"prompt": "kundentext", "completion": "agent_answer"}


@pytest.mark.parametrize("names", [("message", "booking"), ("gast", "daten"), ("daten_gast", "daten")])
def test_an_object_is_proposed_as_the_answer_and_may_be_empty(tmp_path, names):
    answers = [{"time": f"{at} p.m."} if at % 3 else {} for at in range(12)]
    records = [dict(zip(names, (f"A table at {at}, please.", answer), strict=True)) for at, answer in enumerate(answers)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, records)))
    proposed = proposed_mapping(first_records(tmp_path / "rows.jsonl", 100))
    assert proposed == {"prompt": names[0], "completion": names[1]}
    assert column_value(records[0], f"{names[1]}[]") == {}
    read = [parse(record, Location(tmp_path / "rows.jsonl", 1), mapping=proposed) for record in records]
    assert [json.loads(row.messages[-1].content) for row in read] == answers


@pytest.mark.parametrize(
    "record",
    [
        {"question": "Wo ist Paket 7?", "response": "Im Lager."},
        {"prompt": "Wo ist Paket 7?", "completion": "Im Lager."},
        {"messages": [{"role": "user", "content": "Wo ist Paket 7?"}, {"role": "assistant", "content": "Im Lager."}]},
        {"prompt": "Wo ist Paket 7?", "chosen": "Im Lager.", "rejected": "Weg."},
    ],
)
def test_a_system_prompt_in_a_column_of_its_own_is_read(tmp_path, record):
    records = [{"system_prompt": system, **record} for system in ("", "Antworte kurz.")]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, records)))
    section = named_columns(tmp_path / "rows.jsonl", DataSection(source="rows.jsonl"))
    row = parse(records[1], Location(tmp_path / "rows.jsonl", 2), mapping=section.map)
    assert row.prompt[0].content == "Antworte kurz."
    assert row.meta == {}


@pytest.mark.parametrize("reply", ['{{"note": "wir sind an {}"}}', "Wir kümmern uns um {}."])
def test_an_answer_in_json_or_that_repeats_is_found_without_its_name(tmp_path, reply):
    head = ("spalte", "datum", "kundentext", "bearbeiter")
    rows = [(reply.format(at % 3), row[1], row[2], row[4]) for at, row in enumerate(ROWS)]
    proposed = proposed_mapping(first_records(written(tmp_path / "rows.csv", head, rows), 100))
    assert proposed == {"prompt": "kundentext", "completion": "spalte"}


@pytest.mark.parametrize("key", ["https://a.example/{}", "doc-{}"])
def test_a_column_of_links_or_ids_is_no_prompt(tmp_path, key):
    rows = [[key.format(at), f"The {at}th review is a text of several words."] for at in range(8)]
    assert "prompt" not in proposed_mapping(first_records(written(tmp_path / "rows.csv", ["key", "body"], rows), 100))


def test_one_written_column_is_text(tmp_path):
    rows = [(number, day, text, "ok", agent) for number, day, text, _, agent in ROWS]
    assert proposed_mapping(first_records(written(tmp_path / "rows.csv", HEAD, rows), 100)) == {"text": "kundentext"}


def test_the_error_of_a_row_proposes_the_same_map(tmp_path):
    rows = written(tmp_path / "rows.csv", ("texto", "tipo"), [(f"me dicen {at}", "INSULTO") for at in range(12)])
    mapping = {"prompt": "texto", "completion": "tipo"}
    assert proposed_mapping(first_records(rows, 100)) == mapping
    with SourceRecords(rows, "auto", {}) as records:
        error = records.record(0)
    assert mapping_option(mapping) in error.hint


def test_the_first_of_several_answers_is_read_not_their_list():
    record = {
        "prompt": "Where is it?",
        "completions": [{"model": "a", "completion": "Here."}, {"model": "b", "completion": "There."}],
    }
    assert guess_mapping(record) == {"prompt": "prompt", "completion": "completions[0].completion"}


@pytest.mark.parametrize("column", ["prompt", "input"])
def test_a_list_of_texts_in_a_column_for_prompts_is_no_dialog(column):
    assert guess_mapping({column: ["ski", "mountain", "skier"], "target": "A skier skis."}) == {"text": "target"}
    turns = [{"role": "user", "content": "Where do they ski?"}]
    assert guess_mapping({column: turns, "target": "On the mountain."}) == {"prompt": column, "completion": "target"}


def test_a_list_of_objects_that_some_rows_leave_out_is_read_as_empty_there(tmp_path):
    labels = [{"slot": "people", "span": [4, 8]}]
    rows = [{"text": f"Table {at} for four", **extra} for at, extra in enumerate([{"labels": labels}, {}, {"labels": []}] * 4)]
    file = tmp_path / "slots.json"
    file.write_text(json.dumps(rows))
    mapping = {"prompt": "text", "completion": "labels[]"}
    assert proposed_mapping(first_records(file, 100)) == mapping
    assert guess(file).columns.mapping == mapping
    read = [parse(row, Location(file, 1), mapping=named_columns(file, DataSection("slots.json")).map) for row in rows]
    assert [json.loads(row.reference) for row in read] == [labels, [], []] * 4
    assert all(not row.meta for row in read)
    assert (
        parse({"text": "a", "in": {}}, Location(file, 1), mapping={"prompt": "text", "completion": "in.labels[]"}).reference == "[]"
    )


def test_a_list_of_texts_that_may_be_missing_is_not_an_empty_list(tmp_path):
    file = tmp_path / "texts.json"
    file.write_text(json.dumps([{"question": f"Which {at}?", "answers": ["this"]} for at in range(9)] + [{"question": "Which?"}]))
    assert proposed_mapping(first_records(file, 100)) == {"prompt": "question", "completion": "answers"}


def test_columns_are_known_by_a_record_that_has_their_values(tmp_path):
    rows = [{"id": at, "query": f"Where is parcel {at}?", "answer": f"It is at {at}." if at else None} for at in range(12)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    assert named_columns(path, DataSection(str(path))).map == {"prompt": "query", "completion": "answer"}
