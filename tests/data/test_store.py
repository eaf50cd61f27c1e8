from __future__ import annotations

import codecs
import json
import os
from pathlib import Path

import pytest

from mlxtune.core.errors import DataError
from mlxtune.core.files import home
from mlxtune.data import index, scan, store
from mlxtune.data.layout import Layout
from mlxtune.data.rows import Conversation, Place, Preference, RowError, Text
from mlxtune.data.store import Store, open_store
from mlxtune.data.turns import Refusal

DATA = Path(__file__).parents[3] / "shared" / "data"
GOOD = '{"text": "é %d"}'


def _needs(name: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(not (DATA / name).exists(), reason=f"{name} is not at ../shared/data")


def _file(folder: Path, data: bytes | str, name: str = "d.jsonl") -> Path:
    (folder / name).write_bytes(data if isinstance(data, bytes) else data.encode())
    return folder / name


def _texts(opened: Store) -> list[str]:
    return [row.text if isinstance(row, Text) else str(row) for row in opened]


# records


def test_records_are_found_by_number(tmp_path):
    path = _file(tmp_path, "\n".join([GOOD % 0, "", "{", GOOD % 3]))
    with open_store(path) as opened:
        assert len(opened) == 3
        assert opened.row(2) == opened.record(2) == Text(Place(path, 4), {}, "é 3", format="text")
        assert [opened.place(at).line for at in range(3)] == [1, 3, 4]
        refused = opened.record(1)
        assert isinstance(refused, RowError)
        assert refused.place == Place(path, 3)
        with pytest.raises(RowError, match="line 3: not valid JSON"):
            opened.row(1)
        assert [isinstance(record, DataError) for record in opened] == [False, True, False]
        assert opened.notes == ()


HOSTILE = {
    "invalid UTF-8": (b'{"text": "\xff"}', "byte 11 (0xff) is not UTF-8"),
    "latin-1": ('{"text": "naïve"}'.encode("latin-1"), "is not UTF-8"),
    "overlong": (b'{"text": "\xc0\xaf"}', "is not UTF-8"),
    "surrogate bytes": (b'{"text": "\xed\xa0\x80"}', "is not UTF-8"),
    "half a pair": (b'{"text": "\\ud83d"}', "half of a surrogate pair"),
    "half a pair in a key": (b'{"text": "a", "\\udc00": 1}', "half of a surrogate pair"),
    "NUL bytes": (b'{"text": "a\0b"}', "NUL bytes"),
    "only NUL": (b"\0" * 5000, "NUL bytes"),
    "escaped NUL": (b'{"text": "a\\u0000b"}', "NUL character"),
    "deep arrays": (b'{"text": ' + b"[" * 100_000, "nested deeper"),
    "deep objects": (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "nested deeper"),
    "deep but whole": (b'{"text": "a", "m": ' + b"[" * 600 + b"]" * 600 + b"}", "nested deeper"),
    "NaN": (b'{"text": "a", "n": NaN}', "NaN is no JSON"),
    "huge number": (b'{"text": "a", "n": 1e999}', "too large"),
    "digits": (b'{"text": "a", "n": ' + b"1" * 5000 + b"}", "Exceeds the limit"),
    "torn": (b'{"text": "a', "not valid JSON: Invalid control character at character 12"),
    "two values": (b'{"text": "a"} {"text": "b"}', "Extra data"),
    "list": (b"[1]", "must be a JSON object, not list"),
    "number": (b"5", "must be a JSON object, not int"),
    "too long": (b'{"text": "' + b"a" * 40_000_000 + b'"}', "up to 32 MB are read"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_bad_record_harms_no_other_and_nothing_is_lost(tmp_path, what):
    bad, words = HOSTILE[what]
    with open_store(_file(tmp_path, b"\r\n".join([(GOOD % 0).encode(), bad, b"", (GOOD % 2).encode()]))) as opened:
        first, refused, last = opened
        assert (first.text, last.text, last.place.line) == ("é 0", "é 2", 4)
        assert isinstance(refused, RowError)
        assert words in refused.why
        assert refused.place.line == 2
        assert refused.mend


@_needs("jsontestsuite")
def test_lines_are_json_by_the_letter():
    layout = Layout("lines")
    for file in sorted((DATA / "jsontestsuite").glob("[yn]_*.json")):
        try:
            layout.value(file.read_bytes())
            accepted = True
        except Refusal:
            accepted = False
        assert accepted == file.name.startswith("y_"), file.name


# encodings


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
def test_utf16_is_read_and_said(tmp_path, name, text, encoding, mark):
    path = _file(tmp_path, (("\ufeff" if mark else "") + text).encode(encoding), name)
    before = path.read_bytes()
    with open_store(path) as opened:
        assert _texts(opened) == ["é 😀", "ऊ\u0a0a"]
        assert opened.notes == ("UTF-16 was read as UTF-8.",)
    assert path.read_bytes() == before


def test_damage_in_utf16_stays_in_its_row(tmp_path):
    line = '{"text": "%s"}\n'
    data = (line % "a" + line % "\ud83d" + line % "c" + "{").encode("utf-16-le", "surrogatepass") + b"x"
    with open_store(_file(tmp_path, codecs.BOM_UTF16_LE + data)) as opened:
        first, half, third, torn = opened
        assert (first.text, third.text) == ("a", "c")
        assert "not UTF-8" in half.why
        assert "not UTF-8" in torn.why


@pytest.mark.parametrize(("name", "text"), [("d.jsonl", GOOD % 1), ("d.json", f"[{GOOD % 1}]"), ("d.csv", "text\né 1\n")])
def test_byte_order_mark_is_skipped_and_said(tmp_path, name, text):
    with open_store(_file(tmp_path, codecs.BOM_UTF8 + text.encode(), name)) as opened:
        assert _texts(opened) == ["é 1"]
        assert opened.notes == ("A byte order mark was skipped.",)


# whole files that are not read


@pytest.mark.parametrize("encoding", ["utf-32-le", "utf-32-be"])
def test_utf32_is_refused(tmp_path, encoding):
    with pytest.raises(DataError, match="is UTF-32") as caught:
        open_store(_file(tmp_path, f"\ufeff{GOOD % 1}".encode(encoding)))
    assert caught.value.mend


@pytest.mark.parametrize(("name", "words"), [("d.jsonl.gz", "packed"), ("d.parquet", "a parquet file"), ("d.XLSX", "a xlsx file")])
def test_packed_and_binary_files_are_refused_with_a_way_out(tmp_path, name, words):
    with pytest.raises(DataError, match=words) as caught:
        open_store(_file(tmp_path, b"PK", name))
    assert caught.value.mend


def test_folder_missing_file_and_unknown_words_are_said(tmp_path):
    with pytest.raises(DataError, match="is a folder"):
        open_store(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="is no file"):
        open_store(tmp_path / "pipe")
    with pytest.raises(DataError, match="There is no data at"):
        open_store(tmp_path / "none.jsonl")
    with pytest.raises(DataError, match="There is no format sharegtp") as caught:
        open_store(_file(tmp_path, ""), "sharegtp")
    assert caught.value.mend == "Did you mean sharegpt?"
    with pytest.raises(DataError, match="The map names answer"):
        open_store(_file(tmp_path, ""), mapping={"answer": "x"})


# arrays


def test_array_elements_know_their_line_and_number(tmp_path):
    path = _file(tmp_path, '\n[\n  {"text": "]},\\""},\n\n  5, {"text": "c"}\n]\n', "d.json")
    with open_store(path) as opened:
        assert [opened.place(at) for at in range(3)] == [Place(path, 3, 1), Place(path, 5, 2), Place(path, 5, 3)]
        assert _texts(opened) == [']},"', "d.json, line 5, element 2: a row must be a JSON object, not int.", "c"]


@pytest.mark.parametrize(
    ("text", "good", "bad"),
    [
        ('[{"text": "a"}, {"text": a}, {"text": "c"}]', ["a", "c"], ["not valid JSON"]),
        ('[{"text": "a"}, , {"text": "c"}]', ["a", "c"], ["nothing stands here"]),
        ('[{"text": "a"},]', ["a"], ["nothing stands here"]),
        ('[{"text": "a"}, {"text": "b"', ["a"], ["not valid JSON"]),
        ('[{"text": "a"}, {"text": "b"}', ["a", "b"], ["nothing stands here"]),
        ('[{"text": "a"},', ["a"], ["nothing stands here"]),
        ('[{"text": "a"}] {"text": "b"}', ["a"], ["not valid JSON"]),
        ('[{"text": "a"}]]', ["a"], ["not valid JSON"]),
        ('[{"text": "a"}, ' + "[" * 100_000 + "]" * 100_000 + ', {"text": "c"}]', ["a", "c"], ["nested deeper"]),
        ("[]", [], []),
        ("[ \n ]\n", [], []),
    ],
    ids=range(11),
)
def test_damaged_array_keeps_its_good_elements(tmp_path, text, good, bad):
    with open_store(_file(tmp_path, text, "d.json")) as opened:
        records = list(opened)
    assert [row.text for row in records if isinstance(row, Text)] == good
    reasons = [row for row in records if isinstance(row, RowError)]
    assert len(reasons) == len(bad)
    assert all(words in row.why and row.mend for row, words in zip(reasons, bad, strict=True))


def test_json_file_of_lines_is_read_and_said(tmp_path):
    with open_store(_file(tmp_path, f"{GOOD % 1}\n{GOOD % 2}\n", "d.json")) as opened:
        assert _texts(opened) == ["é 1", "é 2"]
        assert opened.notes == ("The .json file was read as one row per line.",)


# tables


def test_table_is_read_by_its_header_and_a_map(tmp_path):
    path = _file(tmp_path, 'question,answer,n\n"a ""b"", c","d\ne",1\n\nf,g,2\r\n', "d.csv")
    with open_store(path, mapping={"prompt": "question", "completion": "answer"}) as opened:
        one, two = opened
        assert isinstance(one, Conversation)
        assert [turn.content for turn in one.messages] == ['a "b", c', "d\ne"]
        assert (one.place.line, one.meta) == (2, {"n": "1"})
        assert (two.place.line, two.reference) == (5, "g")


def test_broken_records_of_a_table_harm_no_other(tmp_path):
    path = _file(tmp_path, 'text,n\na,1\nb\n"c"d,3\n,\n5" e,5\n\xff,6\n"f,7\n'.encode("latin-1"), "d.csv")
    with open_store(path) as opened:
        records = list(opened)
    assert [row.text for row in records if isinstance(row, Text)] == ["a", '5" e']
    refused = {row.place.line: row.why for row in records if isinstance(row, RowError)}
    assert list(refused) == [3, 4, 5, 7, 8]
    assert "it has 1 field where the header names 2" in refused[3]
    assert "not valid CSV" in refused[4]
    assert "text must be text" in refused[5]
    assert "is not UTF-8" in refused[7]
    assert "not valid CSV: unexpected end of data" in refused[8]


@pytest.mark.parametrize(("name", "divider", "notes"), [("d.csv", ";", 1), ("d.tsv", "\t", 0)])
def test_other_dividers_are_found(tmp_path, name, divider, notes):
    with open_store(_file(tmp_path, f"prompt{divider}completion\na, b{divider}c\n", name)) as opened:
        assert isinstance(opened.row(0), Conversation)
        assert len(opened.notes) == notes


def test_two_columns_of_one_name_are_refused(tmp_path):
    with pytest.raises(DataError, match="two columns named text"):
        open_store(_file(tmp_path, "text,text\na,b\n", "d.csv"))


# the index


@pytest.fixture
def indexed(tmp_path, monkeypatch) -> Path:
    """A file whose index is kept, however small it is."""
    monkeypatch.setenv("MLXTUNE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(index, "WORTH", 0)
    return _file(tmp_path, "\n".join(GOOD % at for at in range(50)))


@pytest.fixture
def scans(monkeypatch) -> list[Path]:
    """The files that were scanned."""
    seen: list[Path] = []
    real = Layout.spans
    monkeypatch.setattr(Layout, "spans", lambda self, data: seen.append(data.path) or real(self, data))
    return seen


def test_index_is_kept_and_used_again(indexed, scans):
    for _ in range(2):
        with open_store(indexed) as opened:
            assert _texts(opened)[::49] == ["é 0", "é 49"]
    assert len(scans) == 1
    assert len(list((home() / "index").iterdir())) == 1


def _same_size(path: Path) -> None:
    state = path.stat()
    path.write_bytes(path.read_bytes().replace(b"}\n{", b"} {", 1))
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert path.stat().st_size == state.st_size


@pytest.mark.parametrize(
    ("change", "rows"),
    [
        (lambda path: path.write_bytes(path.read_bytes() + b"\n" + (GOOD % 50).encode()), 51),
        (lambda path: os.utime(path, ns=(1, 1)), 50),
        (_same_size, 49),
    ],
    ids=["size", "time", "content"],
)
def test_index_of_another_content_is_not_used(indexed, scans, change, rows):
    open_store(indexed).close()
    change(indexed)
    with open_store(indexed) as opened:
        assert len(opened) == rows
    assert len(scans) == 2
    assert len(list((home() / "index").iterdir())) == 1


@pytest.mark.parametrize("damage", [b"", b"\x93NUMPY", b"garbage"])
def test_damaged_index_is_made_anew(indexed, scans, damage):
    open_store(indexed).close()
    (kept,) = (home() / "index").iterdir()
    kept.write_bytes(damage or kept.read_bytes()[:-8])
    with open_store(indexed) as opened:
        assert len(opened) == 50
    assert len(scans) == 2


def test_home_that_takes_nothing_is_no_harm(indexed):
    (home().parent / "home").write_text("a file")
    with open_store(indexed) as opened:
        assert len(opened) == 50


# the file under it


@pytest.mark.parametrize("change", [lambda path: os.truncate(path, 5), lambda path: path.write_text("x" * 4000)])
def test_file_that_changes_meanwhile_is_an_error_and_no_crash(tmp_path, change):
    path = _file(tmp_path, "\n".join(GOOD % at for at in range(2000)))
    with open_store(path) as opened:
        assert isinstance(opened.record(1999), Text)
        change(path)
        record = opened.record(1999)
        assert isinstance(record, DataError)
        assert "changed while it was being read" in str(record)
        assert all(isinstance(one, DataError) for one in opened)


def test_walking_lets_pages_go_and_reads_them_again(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "RELEASE", 4096)
    with open_store(_file(tmp_path, "\n".join(GOOD % at for at in range(2000)))) as opened:
        assert _texts(opened) == _texts(opened) == [f"é {at}" for at in range(2000)]


# real files


@_needs("peers")
def test_real_files_of_others_are_read_whole():
    with open_store(DATA / "peers" / "alpaca.json") as opened:
        rows = list(opened)
        given = json.loads((DATA / "peers" / "alpaca.json").read_bytes())
        assert [row.reference for row in rows] == [one["output"] for one in given]
        assert {row.format for row in rows} == {"alpaca"}
    with open_store(DATA / "peers" / "dpo_sharegpt.json") as opened:
        rows = list(opened)
        given = json.loads((DATA / "peers" / "dpo_sharegpt.json").read_bytes())
        assert all(isinstance(row, Preference) for row in rows)
        assert [row.rejected for row in rows] == [one["rejected"]["value"] for one in given]
        assert [len(row.prompt) for row in rows] == [len(one["conversations"]) for one in given]
    with open_store(DATA / "peers" / "gsm8k_test.jsonl", mapping={"prompt": "question", "completion": "answer"}) as opened:
        assert len(opened) == 1319
        assert all(isinstance(row, Conversation) for row in opened)


@_needs("wikisql")
def test_real_text_rows_are_read_whole():
    with open_store(DATA / "wikisql" / "train.jsonl") as opened:
        assert [row.text for row in opened] == [json.loads(line)["text"] for line in (DATA / "wikisql" / "train.jsonl").open()]


def test_limit_is_what_the_message_says():
    assert scan.LIMIT == 32 * 2**20
