"""Input that ended in an internal error."""

import errno
import json
import os
import sys
import unicodedata
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import regex
from cli.conftest import cli as cli
from cli.conftest import cwd as cwd
from evaluation_files import write_evaluation

from mlxtune.core import journal
from mlxtune.core.errors import InputError, MachineError
from mlxtune.core.files import write_bytes
from mlxtune.core.hashing import sha256_file
from mlxtune.core.text import one_line, safe_text
from mlxtune.data.generate.questions import TeacherQuestion
from mlxtune.data.generate.teachers import EndpointTeacher
from mlxtune.data.transforms import pipeline
from mlxtune.evaluation.judge import endpoint
from mlxtune.runs import launch, registry
from mlxtune.training import checkpoint

Cli = Callable[..., Any]


def test_half_characters_of_a_teacher_are_replaced():
    teacher = object.__new__(EndpointTeacher)
    teacher._client = SimpleNamespace(complete=lambda *_, **__: SimpleNamespace(text="a\ud800b", ended="stop"))  # type: ignore[assignment]
    reply = teacher.ask([TeacherQuestion(0, 1, [{"role": "user", "content": "x"}])], lambda *_: None)
    assert reply["replies"][0]["text"] == "a?b"


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1\x1b[2J/v1", "http://[", "http://127.0.0.1:x/v1", "http://127.0.0.1/\n", "http://ｅ.example"]
)
def test_an_impossible_url_is_bad_input(cli, cwd, url):
    with pytest.raises(InputError):
        endpoint.host(url)
    write_evaluation(cwd)
    for arguments in (("judge", "last", "--model", "m", "--url", url), ("verify-export", "last", "--endpoint", url)):
        result = cli(*arguments)
        assert result.code == 2, result.err
        assert "\x1b[2J" not in result.err


def test_a_pipeline_that_includes_itself_is_bad_input(tmp_path):
    (tmp_path / "a").write_text("@b")
    (tmp_path / "b").write_text("@./a")
    with pytest.raises(InputError, match="includes itself"):
        pipeline.parse("@a", tmp_path)
    (tmp_path / "b").write_text("trim")
    assert len(pipeline.parse("@a", tmp_path).steps) == 1


@pytest.mark.parametrize(
    "change", [{"failed": {"a": 1}}, {"scores": {"json": {"failed": {}}}}, {"scores": []}, {"ended": {}}, {"id": {}}]
)
def test_other_types_in_outputs_are_bad_input(cli, cwd, change):
    folder = write_evaluation(cwd)
    first, *rest = (folder / "outputs.jsonl").read_text().splitlines()
    (folder / "outputs.jsonl").write_text("\n".join([json.dumps(json.loads(first) | change), *rest, ""]))
    for arguments in (("verify",), ("compare", "last", "last"), ("blind", "last"), ("runs", "show", folder.name)):
        result = cli(*arguments)
        assert "Internal error" not in result.err, arguments
        assert "Traceback" not in result.err, arguments


@pytest.mark.parametrize("write", ["file", "journal"])
def test_a_limit_for_files_is_named(tmp_path, monkeypatch, write):
    def too_large(*_: Any) -> int:
        raise OSError(errno.EFBIG, "File too large")

    if write == "file":
        monkeypatch.setattr("mlxtune.core.files.sync_file", too_large)
        with pytest.raises(MachineError, match="larger than the limit for files"):
            write_bytes(tmp_path / "x", b"data")
        assert list(tmp_path.iterdir()) == []
        return
    one = journal.Journal(tmp_path / "x")
    monkeypatch.setattr("os.write", too_large)
    with pytest.raises(MachineError, match="larger than the limit for files"):
        one.append({"a": 1})
    one.close()


@pytest.mark.parametrize("state", ["[]", "null", "{}", '{"step": []}', '"x"', "[" * 100_000, "9"])
def test_a_checkpoint_whose_state_is_no_state_is_damaged(tmp_path, state):
    folder = tmp_path / "checkpoints" / "0000003"
    folder.mkdir(parents=True)
    names = [checkpoint.OPTIMIZER, checkpoint.STATE, checkpoint.lora.WEIGHTS, checkpoint.lora.CONFIG]
    for name in names:
        (folder / name).write_text(state if name == checkpoint.STATE else "x")
    (folder / checkpoint.MANIFEST).write_text(json.dumps({name: sha256_file(folder / name) for name in names}))
    assert checkpoint.newest(tmp_path) is None
    assert checkpoint.damaged_folders(tmp_path) == [folder]


SHOWN = regex.compile(r"\p{Prepended_Concatenation_Mark}")  # format characters that are drawn, such as the Arabic number sign


@pytest.mark.parametrize("content", ["[]", "5", "null", "{}", "[" * 100_000, "9" * 5000, '{"v": 2, "seq": 0, "t": 1, "type": "run.started"}', '{"v": 2, "seq": 0, "t": "x", "type": "step"}'])  # fmt: skip
def test_a_run_with_other_types_in_its_files_is_damaged(cli, cwd, content):
    run = cwd / "runs" / "20261201-0900-shop"
    run.mkdir(parents=True)
    for name in ("events.jsonl", "launch.json", "recipe.toml"):
        (run / name).write_text(f"{content}\n")
    os.utime(run, (1.0, 1.0))  # it is not starting
    for arguments in (
        ("runs",),
        ("runs", "show", "last"),
        ("runs", "resume", "last"),
        ("runs", "stop", "last"),
        ("runs", "attach", "last"),
    ):
        result = cli(*arguments)
        assert "Internal error" not in result.err, arguments
    assert registry.other_host(registry.Run(run)) == ""
    with pytest.raises(InputError):
        launch.read_request(run)


@pytest.mark.parametrize("path", ["/", "", "/proc/self/mem", "/dev/null"])
@pytest.mark.parametrize("verb", ["data check", "data apply", "recipe import", "init --from"])
def test_a_path_of_another_kind_is_a_clear_error(cli, cwd, verb, path):
    result = cli(*verb.split(), path)
    assert "Internal error" not in result.err, result.err


def test_a_folder_that_is_gone_is_a_clear_error(cli, cwd):
    cwd.rmdir()
    result = cli("runs")
    assert result.code == 4
    assert "Internal error" not in result.err, result.err


def test_no_invisible_character_is_passed_on():
    ignorable = regex.compile(r"[\p{Default_Ignorable_Code_Point}\p{Cf}\p{Cc}\p{Cs}\p{Zl}\p{Zp}\u2800]")
    for character in map(chr, range(sys.maxunicode + 1)):
        if ignorable.match(character) and character not in "\n\t" and not SHOWN.match(character) and character != "\u070f":
            assert character not in safe_text(f"a{character}b"), hex(ord(character))
            assert character not in one_line(f"a{character}"), hex(ord(character))


@pytest.mark.parametrize("text", ["می‌خواهم", "👩‍👩‍👧", "❤️‍🔥", "1️⃣", "क्‍ष", "葛󠄀", "ﷺ", "naïve", "☎︎"])
def test_joiners_and_variants_that_text_needs_are_kept(text):
    kept = "".join(character for character in text if not 0xE0000 <= ord(character) < 0xE1000)
    assert safe_text(kept) == kept
    assert all(unicodedata.category(character) != "Co" for character in safe_text(text))


def test_runs_of_joiners_are_shown():
    assert safe_text("é\u200d\u200d\u200dé").count("▯") == 3
    assert safe_text("x\ufe0fy\u200cz") == "x▯y▯z"
