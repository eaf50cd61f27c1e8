from __future__ import annotations

import codecs
import json
import os
import subprocess
from pathlib import Path

import pytest

from mlxtune.core.child_process import python_command, python_environment
from mlxtune.core.errors import DataError
from mlxtune.data.access.layout import FileLayout
from mlxtune.data.access.records import RecordFile
from mlxtune.data.readers.row_format import InvalidRecord
from mlxtune.data.rows import Conversation, Location, Preference, RowError, TextRow

DATA = Path(__file__).parents[3] / "shared" / "data"
GOOD = '{"text": "é %d"}'


def _needs(name: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(not (DATA / name).exists(), reason=f"{name} is missing from ../shared/data")


def _file(folder: Path, data: bytes | str, name: str = "d.jsonl") -> Path:
    (folder / name).write_bytes(data if isinstance(data, bytes) else data.encode())
    return folder / name


def _texts(file: RecordFile) -> list[str]:
    return [row.text if isinstance(row, TextRow) else str(row) for row in file]


def test_records_are_read_by_index(tmp_path):
    path = _file(tmp_path, "\n".join([GOOD % 0, "", "{", GOOD % 3]))
    with RecordFile(path) as file:
        assert len(file) == 3
        assert file.row(2) == file.record(2) == TextRow(Location(path, 4), {}, "é 3", format="text")
        assert [file.location(index).line for index in range(3)] == [1, 3, 4]
        refused = file.record(1)
        assert refused.location == Location(path, 3)
        with pytest.raises(RowError, match="line 3: not valid JSON"):
            file.row(1)
        assert [isinstance(record, DataError) for record in file] == [False, True, False]
        assert file.notes == ()


HOSTILE = {
    "invalid UTF-8": (b'{"text": "\xff"}', "byte 11 (0xff) is not valid UTF-8"),
    "latin-1": ('{"text": "naïve"}'.encode("latin-1"), "is not valid UTF-8"),
    "overlong": (b'{"text": "\xc0\xaf"}', "is not valid UTF-8"),
    "surrogate bytes": (b'{"text": "\xed\xa0\x80"}', "is not valid UTF-8"),
    "half a pair": (b'{"text": "\\ud83d"}', "lone surrogate"),
    "half a pair in a key": (b'{"text": "a", "\\udc00": 1}', "lone surrogate"),
    "NUL bytes": (b'{"text": "a\0b"}', "NUL bytes"),
    "only NUL": (b"\0" * 5000, "NUL bytes"),
    "escaped NUL": (b'{"text": "a\\u0000b"}', "NUL character"),
    "deep arrays": (b'{"text": ' + b"[" * 100_000, "nested deeper"),
    "deep objects": (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "nested deeper"),
    "deep but whole": (b'{"text": "a", "m": ' + b"[" * 600 + b"]" * 600 + b"}", "nested deeper"),
    "NaN": (b'{"text": "a", "n": NaN}', "NaN is not a JSON"),
    "huge number": (b'{"text": "a", "n": 1e999}', "too large"),
    "digits": (b'{"text": "a", "n": ' + b"1" * 5000 + b"}", "Exceeds the limit"),
    "torn": (b'{"text": "a', "not valid JSON: Invalid control character at character 12"),
    "two values": (b'{"text": "a"} {"text": "b"}', "Extra data"),
    "list": (b"[1]", "must be a JSON object, not list"),
    "number": (b"5", "must be a JSON object, not int"),
    "too long": (b'{"text": "' + b"a" * 40_000_000 + b'"}', "the limit is 32 MB"),
}


def test_a_row_that_is_too_long_can_be_replaced(tmp_path, monkeypatch):
    monkeypatch.setattr("mlxtune.data.access.records.LIMIT", 100)
    file = tmp_path / "d.jsonl"
    file.write_text(json.dumps({"prompt": "a" * 200, "completion": "b"}))
    with RecordFile(file) as records:
        with pytest.raises(RowError, match="but the limit is"):
            records.row(0)
        assert records.row(0, '{"prompt": "a", "completion": "b"}').reference == "b"


@pytest.mark.parametrize("case", HOSTILE)
def test_a_bad_record_does_not_affect_others(tmp_path, case):
    bad, words = HOSTILE[case]
    with RecordFile(_file(tmp_path, b"\r\n".join([(GOOD % 0).encode(), bad, b"", (GOOD % 2).encode()]))) as file:
        first, refused, last = file
        assert (first.text, last.text, last.location.line) == ("é 0", "é 2", 4)
        assert words in refused.reason
        assert refused.location.line == 2
        assert refused.hint


@_needs("jsontestsuite")
def test_lines_are_strict_json():
    layout = FileLayout("lines")
    for file in sorted((DATA / "jsontestsuite").glob("[yn]_*.json")):
        try:
            layout.value(file.read_bytes())
            accepted = True
        except InvalidRecord:
            accepted = False
        assert accepted == file.name.startswith("y_"), file.name


@pytest.mark.parametrize("mark", [True, False])
@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("d.jsonl", '{"text": "é 😀"}\r\n{"text": "ऊ\u0a0a"}\r\n'),
        ("d.json", '[{"text": "é 😀"},\n {"text": "ऊ\u0a0a"}]'),
        ("d.csv", 'text,n\n"é 😀",1\n"ऊ\u0a0a",2\n'),
    ],
)
def test_utf16_is_converted_with_a_note(tmp_path, name, text, encoding, mark):
    path = _file(tmp_path, (("\ufeff" if mark else "") + text).encode(encoding), name)
    before = path.read_bytes()
    with RecordFile(path) as file:
        assert _texts(file) == ["é 😀", "ऊ\u0a0a"]
        assert file.notes == ("utf16",)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("raw", "kind"),
    [
        ("Grüße, René – 5 €".encode("cp1252"), "encoding"),
        ("GRÜSSE".encode("latin-1"), "encoding"),
        (b"Gr" + "ü".encode()[:1], "bad-row"),
        (b"so " + "…".encode()[:2], "bad-row"),
        (b"\xff", "bad-row"),
        ("Γειά σου, τι κάνεις;".encode("cp1253"), "bad-row"),
        ("Привет, как дела?".encode("cp1251"), "bad-row"),
        ("Kilka słów, że są.".encode("iso-8859-2"), "bad-row"),
        ("Kilka słów, że są.".encode("cp1250"), "bad-row"),
        ("Prší, je v létě chladno, a že teď.".encode("iso-8859-2"), "bad-row"),
        ("col·lecció a 5 m² ¿que? ±2 ¼ l".encode("cp1252"), "encoding"),
    ],
)
def test_rows_in_another_encoding_are_told_from_damaged_ones(tmp_path, raw, kind):
    with RecordFile(_file(tmp_path, '{"text": "é"}\n'.encode() + b'{"text": "' + raw + b'"}')) as file:
        assert file.record(1).kind == kind
        assert ("data check --fix" in file.record(1).hint) is (kind == "encoding")


def test_a_damaged_row_in_another_encoding_keeps_its_key(tmp_path):
    raw = '{"text": "Zürich"'.encode("latin-1")
    with RecordFile(_file(tmp_path, '{"text": "é"}\n'.encode() + raw)) as file:
        error = file.record(1)
    assert (error.kind, error.raw, error.text) == ("bad-row", raw, '{"text": "Zürich"')


def test_damaged_utf16_affects_only_its_row(tmp_path):
    line = '{"text": "%s"}\n'
    data = (line % "a" + line % "\ud83d" + line % "c" + "{").encode("utf-16-le", "surrogatepass") + b"x"
    with RecordFile(_file(tmp_path, codecs.BOM_UTF16_LE + data)) as file:
        first, half, third, torn = file
        assert (first.text, third.text) == ("a", "c")
        assert "not valid UTF-8" in half.reason
        assert "not valid UTF-8" in torn.reason


@pytest.mark.parametrize(
    ("name", "text", "note"),
    [
        ("d.jsonl", "\ufeff" + GOOD % 1, "byte_order_mark"),
        ("d.json", f"\ufeff[{GOOD % 1}]", "byte_order_mark"),
        ("d.csv", "\ufefftext\né 1\n", "byte_order_mark"),
        ("d.json", f"{GOOD % 1}\n", "json_lines"),
        ("d.csv", "text;x\né 1;", "semicolons"),
        ("d.csv", "text\tx\né 1\t", "tabs"),
        ("d.tsv", "text\tx\né 1\t", None),
    ],
)
def test_marks_delimiters_and_json_lines_are_detected_with_a_note(tmp_path, name, text, note):
    with RecordFile(_file(tmp_path, text, name)) as file:
        assert _texts(file) == ["é 1"]
        assert file.notes == ((note,) if note else ())


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("d.jsonl", "\ufeff{}".encode("utf-32-le"), "is encoded in UTF-32"),
        ("d.jsonl", "\ufeff{}".encode("utf-32-be"), "is encoded in UTF-32"),
        ("d.jsonl.gz", b"PK", "is compressed"),
        ("d.XLSX", b"PK", "a xlsx file"),
        ("d.csv", b"text,text\na,b\n", "two columns named text"),
    ],
)
def test_unsupported_files_are_refused_with_a_hint(tmp_path, name, content, words):
    with pytest.raises(DataError, match=words) as caught:
        RecordFile(_file(tmp_path, content, name))
    assert caught.value.hint


def test_invalid_paths_formats_and_mappings_are_refused(tmp_path):
    with pytest.raises(DataError, match="is a folder"):
        RecordFile(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="is not a file"):
        RecordFile(tmp_path / "pipe")
    with pytest.raises(DataError, match="There is no data at"):
        RecordFile(tmp_path / "none.jsonl")
    with pytest.raises(DataError, match="Unknown format sharegtp") as caught:
        RecordFile(_file(tmp_path, ""), "sharegtp")
    assert caught.value.hint == "Did you mean sharegpt?"
    with pytest.raises(DataError, match="The map has the unknown key answer"):
        RecordFile(_file(tmp_path, ""), mapping={"answer": "x"})


def test_array_elements_have_line_and_number(tmp_path):
    path = _file(tmp_path, '\n[\n  {"text": "]},\\""},\n\n  5, {"text": "c"}\n]\n', "d.json")
    with RecordFile(path) as file:
        assert [file.location(index) for index in range(3)] == [Location(path, 3, 1), Location(path, 5, 2), Location(path, 5, 3)]
        assert _texts(file) == [']},"', "d.json, row 2: a row must be a JSON object, not int.", "c"]


@pytest.mark.parametrize(
    ("text", "good", "bad"),
    [
        ('[{"text": "a"}, {"text": a}, {"text": "c"}]', ["a", "c"], ["not valid JSON"]),
        ('[{"text": "a"}, , {"text": "c"}]', ["a", "c"], ["an element is missing"]),
        ('[{"text": "a"},]', ["a"], ["an element is missing"]),
        ('[{"text": "a"}, {"text": "b"', ["a"], ["not valid JSON"]),
        ('[{"text": "a"}, {"text": "b"}', ["a", "b"], ["an element is missing"]),
        ('[{"text": "a"},', ["a"], ["an element is missing"]),
        ('[{"text": "a"}] {"text": "b"}', ["a"], ["not valid JSON"]),
        ('[{"text": "a"}]]', ["a"], ["not valid JSON"]),
        ('[{"text": "a"}, ' + "[" * 100_000 + "]" * 100_000 + ', {"text": "c"}]', ["a", "c"], ["nested deeper"]),
        ("[]", [], []),
        ("[ \n ]\n", [], []),
    ],
    ids=range(11),
)
def test_a_damaged_array_keeps_its_good_elements(tmp_path, text, good, bad):
    with RecordFile(_file(tmp_path, text, "d.json")) as file:
        records = list(file)
    assert [row.text for row in records if isinstance(row, TextRow)] == good
    reasons = [row for row in records if isinstance(row, RowError)]
    assert len(reasons) == len(bad)
    assert all(words in row.reason and row.hint for row, words in zip(reasons, bad, strict=True))


def test_a_csv_is_read_by_its_header_and_a_mapping(tmp_path):
    path = _file(tmp_path, 'question,answer,n\n"a ""b"", c","d\ne",1\n\nf,g,2\r\n', "d.csv")
    with RecordFile(path, mapping={"prompt": "question", "completion": "answer"}) as file:
        first, second = file
        assert [turn.content for turn in first.messages] == ['a "b", c', "d\ne"]
        assert (first.location.line, first.meta) == (2, {"n": "1"})
        assert (second.location.line, second.reference) == (5, "g")


def test_broken_csv_records_do_not_affect_others(tmp_path):
    path = _file(tmp_path, 'text,n\na,1\nb\n"c"d,3\n,\n5" e,5\n\xff,6\n"f,7\n'.encode("latin-1"), "d.csv")
    with RecordFile(path) as file:
        records = list(file)
    assert [row.text for row in records if isinstance(row, TextRow)] == ["a", '5" e']
    refused = {row.location.line: row.reason for row in records if isinstance(row, RowError)}
    assert list(refused) == [3, 4, 5, 7, 8]
    assert "the row has 1 field, but the header has 2" in refused[3]
    assert "not valid CSV" in refused[4]
    assert "text must be a non-empty string" in refused[5]
    assert "is not valid UTF-8" in refused[7]
    assert "not valid CSV: unexpected end of data" in refused[8]


@pytest.mark.parametrize("change", [lambda path: os.truncate(path, 5), lambda path: path.write_text("x" * 4000)])
def test_a_file_changed_while_open_raises_an_error(tmp_path, change):
    path = _file(tmp_path, "\n".join(GOOD % index for index in range(2000)))
    with RecordFile(path) as file:
        assert isinstance(file.record(1999), TextRow)
        change(path)
        record = file.record(1999)
        assert "changed while it was being read" in str(record)
        assert all(isinstance(row, DataError) for row in file)


TRUNCATE = """
import os, sys
from pathlib import Path
from mlxtune.core.errors import DataError
from mlxtune.data.access.records import RecordFile
path, fstat = Path(sys.argv[1]), os.fstat

def fstat_then_truncate(handle):
    result = fstat(handle)
    os.truncate(path, 10)
    return result

with RecordFile(path) as file:
    os.fstat = fstat_then_truncate
    for _ in range(2):
        record = file.record(len(file) - 1)
    assert isinstance(record, DataError), record
    print(record)
"""


def test_a_file_truncated_at_any_moment_does_not_kill_the_reader(tmp_path):
    """A file that was mapped into memory did: right after its size had been checked."""
    path = _file(tmp_path, "\n".join(GOOD % index for index in range(20_000)))
    command = python_command("x")[:-2]
    result = subprocess.run([*command, "-c", TRUNCATE, str(path)], env=python_environment(), capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "changed while it was being read" in result.stdout


@_needs("peers")
def test_real_peer_files_are_read_completely():
    with RecordFile(DATA / "peers" / "alpaca.json") as file:
        rows = list(file)
        expected = json.loads((DATA / "peers" / "alpaca.json").read_bytes())
        assert [row.reference for row in rows] == [item["output"] for item in expected]
        assert {row.format for row in rows} == {"alpaca"}
    with RecordFile(DATA / "peers" / "dpo_sharegpt.json") as file:
        rows = list(file)
        expected = json.loads((DATA / "peers" / "dpo_sharegpt.json").read_bytes())
        assert all(isinstance(row, Preference) for row in rows)
        assert [row.rejected for row in rows] == [item["rejected"]["value"] for item in expected]
        assert [len(row.prompt) for row in rows] == [len(item["conversations"]) for item in expected]
    with RecordFile(DATA / "peers" / "gsm8k_test.jsonl", mapping={"prompt": "question", "completion": "answer"}) as file:
        assert len(file) == 1319
        assert all(isinstance(row, Conversation) for row in file)


@_needs("wikisql")
def test_real_text_rows_are_read_completely():
    with RecordFile(DATA / "wikisql" / "train.jsonl") as file:
        assert [row.text for row in file] == [json.loads(line)["text"] for line in (DATA / "wikisql" / "train.jsonl").open()]
