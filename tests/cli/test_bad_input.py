"""Whatever a user gets wrong: one clear message on stderr, nothing on stdout, exit code 2."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mlxtune.recipe import dump, load
from mlxtune.runs import launch

GOOD = 'name = "shop"\n[model]\nbase = "smollm2-135m"\n[data]\nsource = "data.jsonl"\n'
OUTPUT = '{"id": 1, "output": "{}"}\n'

FILES = {
    "data.jsonl": "".join(json.dumps({"prompt": f"q{number}", "completion": "a"}) + "\n" for number in range(60)),
    "good.toml": GOOD,
    "nodata.toml": GOOD.replace("data.jsonl", "nowhere.jsonl"),
    "broken.toml": 'name = "shop\n',
    "key.toml": GOOD + "[training]\nlerning_rate = 1e-4\n",
    "section.toml": GOOD + "[trainig]\nepochs = 1\n",
    "type.toml": GOOD + '[adapter]\nrank = "sixteen"\n',
    "value.toml": GOOD + "[adapter]\nrank = 0\n",
    "model.toml": GOOD.replace("smollm2-135m", "smollm2-153m"),
    "folder.toml": GOOD.replace("smollm2-135m", "./no-such-model"),
    "empty-model.toml": GOOD.replace("smollm2-135m", "./folder"),
    "outputs.jsonl": OUTPUT,
    "empty.jsonl": "",
    "blank.jsonl": "\n\n",
    "bad-line.jsonl": OUTPUT + "not json\n",
    "no-output.jsonl": OUTPUT + '{"id": 2}\n',
    "some-ids.jsonl": OUTPUT + '{"output": "x"}\n',
    "number.jsonl": '{"id": 1, "output": 5}\n',
    "list.jsonl": "[1]\n",
    "reference.jsonl": '{"id": 1, "output": "x", "reference": 5}\n',
    "deep.jsonl": "[" * 100_000 + "\n",
    "bad-schema.json": '{"type": "nonsense"}',
    "broken-schema.json": "{",
    "remote-schema.json": '{"$ref": "http://example.invalid/x"}',
    "file": "",
}


@pytest.fixture
def files(place: Path) -> Path:
    for name, text in FILES.items():
        (place / name).write_text(text)
    (place / "bytes.jsonl").write_bytes(b'{"id": 1, "output": "\xff"}\n')
    (place / "bytes.toml").write_bytes(b"\xff\xfe")
    (place / "folder").mkdir()
    return place


CASES = [
    ("train none.toml", "There is no recipe at none.toml"),
    ("train folder", "folder is a folder, not a recipe"),
    ("train broken.toml", "broken.toml is not valid TOML"),
    ("train bytes.toml", "bytes.toml cannot be read"),
    ("train key.toml", "key.toml, line 7: unknown key lerning_rate in [training]. | Did you mean learning_rate?"),
    ("train section.toml", "section.toml, line 6: unknown key trainig. | Did you mean training?"),
    ("train type.toml", 'type.toml, line 7: adapter.rank must be a whole number, not "sixteen"'),
    ("train value.toml", "value.toml, line 7: adapter.rank must be at least 1, not 0"),
    ("train good.toml --set training.epoch=3", "unknown key epoch in [training] | Did you mean epochs?"),
    ("train good.toml --set training.epochs", "is not of the form key=value"),
    ("train good.toml --set adapter.rank=x", "adapter.rank must be a whole number"),
    ("train model.toml", "There is no model called smollm2-153m. | Did you mean smollm2-135m?"),
    ("train folder.toml", "There is no model called ./no-such-model"),
    ("train empty-model.toml", "is not a model: it has no config.json"),
    ("train", "Missing argument 'recipe'. | mlxtune train --help shows what there is."),
    ("train good.toml --epochs 3", "--epochs"),
    ("eval none.toml", "There is no recipe at none.toml"),
    ("eval", "There are no runs in"),
    ("eval nothing", "There are no runs in"),
    ("score none.jsonl", "none.jsonl cannot be read"),
    ("score folder", "folder has no outputs"),
    ("score bytes.jsonl", "bytes.jsonl cannot be read"),
    ("score empty.jsonl", "empty.jsonl has no outputs"),
    ("score blank.jsonl", "blank.jsonl has no outputs"),
    ("score bad-line.jsonl", "bad-line.jsonl, line 2: not of the form"),
    ("score no-output.jsonl", "no-output.jsonl, line 2: not of the form"),
    ("score some-ids.jsonl", "some-ids.jsonl, line 2: some lines have an id and some have none. | Give each line one, or none."),
    ("score number.jsonl", "number.jsonl, line 1: not of the form"),
    ("score list.jsonl", "list.jsonl, line 1: not of the form"),
    ("score deep.jsonl", "deep.jsonl, line 1: not of the form"),
    ("score reference.jsonl --disclaimer d", "reference.jsonl, line 1"),
    ("score outputs.jsonl --schema none.json", "none.json does not exist"),
    ("score outputs.jsonl --schema broken-schema.json", "broken-schema.json cannot be read as JSON"),
    ("score outputs.jsonl --schema bad-schema.json", "The schema cannot be used"),
    ("score outputs.jsonl --schema remote-schema.json", "The schema cannot be used"),
    ("score outputs.jsonl --forbid=", "forbid"),
    ("score outputs.jsonl --disclaimer=", "disclaimer"),
    ("score", "Missing argument 'outputs'"),
    ("data check nofile.jsonl", "There is no data at nofile.jsonl. | Name a file or folder of rows, or a recipe."),
    ("data check nodata.toml", "nowhere.jsonl. | Check data.source in nodata.toml; it is relative to the recipe."),
    ("data review nofile.jsonl", "There is no data at nofile.jsonl. | Name a file or folder of rows, or a recipe."),
    ("verify", "There are no evaluations in | Make one: mlxtune eval RECIPE"),
    ("verify nofile.json", "There is no report at nofile.json. | Make one: mlxtune eval RECIPE"),
    ("verify nowhere/report.json", "There is no report at nowhere/report.json."),
    ("verify evals/none", "There is no evaluation at evals/none."),
    ("blind last", "There are no evaluations in | Make one: mlxtune eval RECIPE"),
    ("compare last good", "There are no evaluations in | Make one: mlxtune eval RECIPE"),
    ("compare nofile.json last", "There is no report at nofile.json."),
    ("runs show runs/none", "There is no run at runs/none. | mlxtune train RECIPE"),
    ("runs show", "There are no runs in | mlxtune train RECIPE"),
    ("runs attach x", "There are no runs in"),
    ("runs stop", "There are no runs in"),
    ("runs resume", "There are no runs in"),
    ("runs remove last --yes", "There are no runs in"),
    ("runs shwo", "shwo | mlxtune runs --help"),
    ("init file", "file"),
    ("init", "Missing argument 'folder'"),
    ("demo good.toml", "good.toml"),
    ("demo --set training.epoch=3", "Did you mean epochs?"),
    ("trian good.toml", "trian | mlxtune --help"),
    ("--nonsense", "--nonsense"),
    ("", "The app needs a terminal. | mlxtune --help"),
]


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize(("command", "words"), CASES, ids=[command or "(alone)" for command, _ in CASES])
def test_mistake_is_said_once_and_plainly(cli, monkeypatch, command, words):
    monkeypatch.setattr(launch, "start", lambda *_: pytest.fail("a run was started"))
    ended = cli(*command.split())
    assert ended.code == 2, ended
    assert ended.out == ""
    for part in words.replace(". |", " |").split(" | "):
        assert part in ended.err
    assert "Traceback" not in ended.err
    assert "fault of ours" not in ended.err
    assert ended.err.count("✗") == 1
    assert len(ended.err.strip().splitlines()) <= 3


@pytest.mark.usefixtures("files")
def test_wrong_arguments_leave_no_folder_behind(cli, place):
    before = sorted(place.iterdir())
    for command, _ in CASES:
        if command.split()[:1] != ["demo"]:
            cli(*command.split())
    assert sorted(place.iterdir()) == before


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (None, "There is no data at"),
        ("", "has no rows"),
        ('{"messages": [{"role": "user", "content": "q"}]}\n', "line 1: no assistant turn at the end"),
        ("not json\n", "line 1: not valid JSON"),
        ('{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}\n', "too few"),
    ],
    ids=["missing", "empty", "no assistant turn", "not JSON", "too few rows"],
)
def test_bad_data_is_said_before_a_run_is_made(cli, place, tiny, data, words):
    (place / "recipe.toml").write_text(GOOD.replace("smollm2-135m", str(tiny)))
    if data is not None:
        (place / "data.jsonl").write_text(data)
    ended = cli("train", "recipe.toml")
    assert ended.code == 2, ended
    assert words in ended.err
    assert ended.out == ""
    assert "Traceback" not in ended.err
    assert not (place / "runs").exists()


def test_missing_schema_of_a_recipe_is_said_before_an_evaluation_is_made(cli, place, tiny):
    (place / "recipe.toml").write_text(GOOD.replace("smollm2-135m", str(tiny)) + '[evaluation]\nschema = "none.json"\n')
    (place / "data.jsonl").write_text("".join(json.dumps({"prompt": f"q{n}", "completion": "a"}) + "\n" for n in range(40)))
    ended = cli("eval", "recipe.toml")
    assert ended.code == 2, ended
    assert "none.json does not exist" in ended.err
    assert not (place / "evals").exists()


def test_eval_of_a_run_without_an_adapter_says_how_it_is(cli, place):
    run = place / "runs" / "20261124-1412-shop"
    run.mkdir(parents=True)
    (place / "good.toml").write_text(GOOD)
    (run / "recipe.toml").write_text(dump(load(place / "good.toml")))
    ended = cli("eval", "last")
    assert ended.code == 2
    assert "has no adapter: it is starting" in ended.err


def test_escape_bytes_from_a_file_do_not_reach_the_terminal(cli, place):
    (place / "r.toml").write_text('name = "\\u001b[31m"\n[model]\nbase = "m"\n[data]\nsource = "d"\n')
    assert "\x1b[31m" not in cli("train", "r.toml").err


@pytest.mark.parametrize("verb", ["train", "plan", "eval", "advise", "data check"])
@pytest.mark.parametrize("named", ["support-json.toml", "recipes/suport-json.toml", "suppotr-json.toml"])
def test_a_recipe_that_is_near_is_offered_by_every_verb(cli, place, verb, named):
    (place / "recipes").mkdir()
    for name in ("support-json", "brand-voice"):
        (place / "recipes" / f"{name}.toml").write_text(GOOD)
    ended = cli(*verb.split(), named)
    assert (ended.code, ended.out) == (2, "")
    assert f"There is no recipe at {named}." in ended.err
    assert "Did you mean recipes/support-json.toml?" in ended.err
    assert "Did you mean" not in cli(*verb.split(), "other.toml").err


@pytest.mark.parametrize("verb", ["train", "plan", "eval"])
def test_a_recipe_that_is_named_without_its_folder_is_offered(cli, place, verb):
    (place / "recipes").mkdir()
    (place / "recipes" / "support-json.toml").write_text(GOOD)
    ended = cli(verb, "support-json")
    assert ended.code == 2
    assert "Did you mean recipes/support-json.toml?" in ended.err
