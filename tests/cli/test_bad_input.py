"""Bad input gives one clear message on stderr, nothing on stdout, and exit code 2."""

import json
from pathlib import Path

import pytest
from tiny_model import write_rows

from mlxtune.recipe import dump, load
from mlxtune.runs import launch

GOOD = 'name = "shop"\n[model]\nbase = "smollm2-135m"\n[data]\nsource = "data.jsonl"\n'
OUTPUT = '{"id": 1, "output": "{}"}\n'

FILES = {
    "data.jsonl": "".join(json.dumps({"prompt": f"q{number}", "completion": "a"}) + "\n" for number in range(60)),
    "good.toml": GOOD,
    "hosted.toml": GOOD
    + '[evaluation]\narms = ["base", "endpoint:big"]\n[evaluation.endpoints.big]\nurl = "https://models.example/v1"\n'
    'model = "big-1"\nprice_in = 1\nprice_out = 2\ncap = 3\n',
    "nodata.toml": GOOD.replace("data.jsonl", "nowhere.jsonl"),
    "broken.toml": 'name = "shop\n',
    "key.toml": GOOD + "[training]\nlerning_rate = 1e-4\n",
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
    "prompt.jsonl": OUTPUT + '{"id": 1, "output": "x", "prompt": 5}\n',
    "reference.jsonl": '{"id": 1, "output": "x", "reference": 5}\n',
    "deep.jsonl": "[" * 100_000 + "\n",
    "bad-schema.json": '{"type": "nonsense"}',
    "broken-schema.json": "{",
    "remote-schema.json": '{"$ref": "http://example.invalid/x"}',
    "file": "",
}


@pytest.fixture
def files(cwd: Path) -> Path:
    for name, text in FILES.items():
        (cwd / name).write_text(text)
    (cwd / "bytes.jsonl").write_bytes(b'{"id": 1, "output": "\xff"}\n')
    (cwd / "bytes.toml").write_bytes(b"\xff\xfe")
    (cwd / "folder").mkdir()
    return cwd


CASES = [
    ("eval hosted.toml", "Rows will be sent to models.example, for at most $3.00 in total | Consent with --send"),
    ("eval good.toml --set evaluation.arms=['base','endpoint:x']", "The arm endpoint:x requires evaluation.endpoints.x."),
    ("eval good.toml --set evaluation.arms=['base','base+gramar']", "Did you mean base+grammar?"),
    ("train none.toml", "There is no recipe at none.toml"),
    ("train folder", "folder is a folder, not a recipe"),
    ("train broken.toml", "broken.toml is not valid TOML"),
    ("train bytes.toml", "bytes.toml cannot be read"),
    ("train outputs.jsonl", "outputs.jsonl contains rows, not a recipe. | mlxtune init . --from outputs.jsonl"),
    ("""eval good.toml --set evaluation.forbid="a",""" + 2000 * "[" + "b", "Use brackets: forbid = ["),
    ("""eval good.toml --set evaluation.forbid="a",""" + 6000 * "9", "Use brackets: forbid = ["),
    ("""eval good.toml --set evaluation.forbid="AI","sorry"]""", """Use brackets: forbid = ["AI", "sorry"], or --set"""),
    ("eval good.toml --set evaluation.arms=base", """a list of values, each "base" | --set 'evaluation.arms=["base"]'"""),
    ("eval good.toml --set search.replay=0.1,0.2", "or --set 'search.replay=[0.1, 0.2]'"),
    ("train good.toml --set steps=4", "unknown key steps. | Did you mean training.steps?"),
    ("train good.toml --set iters=4", "unknown key iters. | Did you mean training.steps?"),
    ("train good.toml --set max_tokens=4", "unknown key max_tokens. | Did you mean data.max_tokens or evaluation.max_tokens?"),
    ("export", "Choose a format: ollama, lmstudio, llamacpp, mlx, hf, peft. | For example: mlxtune export mlx last"),
    ("train key.toml", "key.toml, line 7: unknown key lerning_rate in [training]. | Did you mean learning_rate?"),
    ("train good.toml --set evaluation.regression=none", 'none. | To skip off-task prompts, set evaluation.regression = "".'),
    ("train model.toml", "There is no model named smollm2-153m. | Did you mean smollm2-135m?"),
    ("train folder.toml", "There is no model named ./no-such-model"),
    ("train empty-model.toml", "is not a model: it has no config.json"),
    ("train", "Missing argument 'recipe'. | Run mlxtune train --help to see its usage."),
    ("train good.toml --epochs 3", "--epochs"),
    ("eval none.toml", "There is no recipe at none.toml"),
    ("eval", "There are no training runs in"),
    ("eval nothing", "There are no training runs in"),
    ("score none.jsonl", "Cannot read none.jsonl: No such file or directory."),
    ("score folder", "folder contains no outputs"),
    ("score bytes.jsonl", "Cannot read bytes.jsonl"),
    ("score empty.jsonl", "empty.jsonl contains no outputs"),
    ("score blank.jsonl", "blank.jsonl contains no outputs"),
    ("score bad-line.jsonl", "bad-line.jsonl, line 2: the line must have the form "),
    ("score no-output.jsonl", "no-output.jsonl, line 2: the line must have the form "),
    ("score some-ids.jsonl", "some-ids.jsonl, line 2: only some lines have an ID. | Add an ID to every line, or to none."),
    ("score number.jsonl", "number.jsonl, line 1: the line must have the form "),
    ("score list.jsonl", "list.jsonl, line 1: the line must have the form "),
    ("score prompt.jsonl", "prompt.jsonl, line 2"),
    ("score deep.jsonl", "deep.jsonl, line 1: the line must have the form "),
    ("score reference.jsonl --disclaimer d", "reference.jsonl, line 1"),
    ("score outputs.jsonl --schema none.json", "none.json does not exist"),
    ("score outputs.jsonl --schema broken-schema.json", "broken-schema.json cannot be read as JSON"),
    ("score outputs.jsonl --schema bad-schema.json", "The schema is invalid"),
    ("score outputs.jsonl --schema remote-schema.json", "The schema is invalid"),
    ("score outputs.jsonl --forbid=", "forbid"),
    ("score outputs.jsonl --disclaimer=", "disclaimer"),
    ("score", "Missing argument 'outputs'"),
    ("data stats absent.jsonl", "There is no data at absent.jsonl."),
    ("data check absent.jsonl", "There is no data at absent.jsonl. | Specify a file or folder with rows, or a recipe."),
    ("data check nodata.toml", "nowhere.jsonl. | Check data.source in nodata.toml; it is relative to the recipe."),
    ("data review absent.jsonl --undo", "There is no data at absent.jsonl."),
    ("data review absent.jsonl 1 --accept", "There is no data at absent.jsonl."),
    ("data review absent.jsonl", "There is no data at absent.jsonl. | Specify a file or folder with rows, or a recipe."),
    ("verify", "There are no evaluations in | Start one with: mlxtune eval RECIPE"),
    ("verify nofile.json", "There is no report at nofile.json. | Start one with: mlxtune eval RECIPE"),
    ("verify nowhere/report.json", "There is no report at nowhere/report.json."),
    ("verify evals/none", "There is no evaluation at evals/none."),
    ("blind last", "There are no evaluations in | Start one with: mlxtune eval RECIPE"),
    ("compare nothing nowhere", "There are no evaluations"),
    ("compare last good", "There are no evaluations in | Start one with: mlxtune eval RECIPE"),
    ("compare nofile.json last", "There is no report at nofile.json."),
    ("runs show runs/none", "There is no training run at runs/none. | mlxtune train RECIPE"),
    ("runs show", "There are no training runs in | mlxtune train RECIPE"),
    ("runs attach x", "There are no training runs in"),
    ("runs stop", "There are no training runs in"),
    ("runs resume", "There are no training runs in"),
    ("runs remove last --yes", "There are no training runs in"),
    ("runs shwo", "shwo | mlxtune runs --help"),
    ("init file", "file"),
    ("init", "No folder was specified. | Use: mlxtune init NAME, or: mlxtune init --from FILE"),
    ("demo good.toml", "good.toml"),
    ("demo --set training.epoch=3", "Did you mean epochs?"),
    ("trian good.toml", "trian | mlxtune --help"),
    ("--nonsense", "--nonsense"),
    ("data export data.jsonl --to excel --out out", "Unknown export target excel."),
    ("eval good.toml --seeds 2 --detach", "--detach and --seeds cannot be combined."),
    ("docs evalution", "There is no page named evalution. | Did you mean evaluation?"),
    ("advise", "--answers FILE.json"),
    ("selftest --suites .", "jsontestsuite"),
    ("open train", "The app needs a terminal."),
    ("", "The app needs a terminal. | mlxtune --help"),
]


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize(("command", "words"), CASES, ids=[command[:100] or "(alone)" for command, _ in CASES])
def test_bad_input_is_reported_once_and_creates_no_files(refused, cwd, monkeypatch, command, words):
    monkeypatch.setattr(launch, "start", lambda *_: pytest.fail("a run was started"))
    before = sorted(cwd.iterdir())
    result = refused(command.split(), words.replace(". |", " |"))
    assert len(result.err.strip().splitlines()) <= 3
    assert sorted(cwd.iterdir()) == before or command.startswith("demo")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (None, "There is no data at"),
        ("", "has no rows"),
        ('{"messages": [{"role": "user", "content": "q"}]}\n', "line 1: there is no assistant turn at the end"),
        ("not json\n", "line 1: not valid JSON"),
        ('{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}\n', "too few"),
    ],
    ids=["missing", "empty", "no assistant turn", "not JSON", "too few rows"],
)
def test_bad_data_is_reported_before_a_run_is_created(refused, cwd, tiny, data, words):
    (cwd / "recipe.toml").write_text(GOOD.replace("smollm2-135m", str(tiny)))
    if data is not None:
        (cwd / "data.jsonl").write_text(data)
    refused(("train", "recipe.toml"), words)
    assert not (cwd / "runs").exists()


def test_a_missing_schema_is_reported_before_an_evaluation_is_created(refused, cwd, tiny):
    (cwd / "recipe.toml").write_text(GOOD.replace("smollm2-135m", str(tiny)) + '[evaluation]\nschema = "none.json"\n')
    write_rows(cwd / "data.jsonl", [{"prompt": f"q{n}", "completion": "a"} for n in range(40)])
    refused(("eval", "recipe.toml"), "none.json does not exist")
    assert not (cwd / "evals").exists()


def test_evaluating_a_run_without_an_adapter_is_refused(refused, cwd):
    run = cwd / "runs" / "20261124-1412-shop"
    run.mkdir(parents=True)
    (cwd / "good.toml").write_text(GOOD)
    (run / "recipe.toml").write_text(dump(load(cwd / "good.toml")))
    refused(("eval", "last"), "has no adapter: it is starting")


def test_escape_sequences_in_a_file_do_not_reach_the_terminal(cli, cwd):
    (cwd / "r.toml").write_text('name = "\\u001b[31m"\n[model]\nbase = "m"\n[data]\nsource = "d"\n')
    assert "\x1b[31m" not in cli("train", "r.toml").err


@pytest.mark.parametrize("verb", ["train", "plan", "eval", "advise", "data check"])
@pytest.mark.parametrize("path", ["support-json.toml", "recipes/suport-json.toml", "suppotr-json.toml"])
def test_a_misspelled_recipe_gets_a_suggestion(refused, cli, cwd, verb, path):
    (cwd / "recipes").mkdir()
    for name in ("support-json", "brand-voice"):
        (cwd / "recipes" / f"{name}.toml").write_text(GOOD)
    refused((*verb.split(), path), f"There is no recipe at {path}. | Did you mean recipes/support-json.toml?")
    assert "Did you mean" not in cli(*verb.split(), "other.toml").err


@pytest.mark.parametrize("verb", ["train", "plan", "eval", "data check", "data review"])
def test_the_name_of_a_recipe_gets_its_path(refused, cwd, verb):
    (cwd / "recipes").mkdir()
    (cwd / "recipes" / "shop.toml").write_text(GOOD)
    refused((*verb.split(), "shop"), "Did you mean recipes/shop.toml?")


@pytest.mark.parametrize("command", ["data check {}", "init --from {}"])
@pytest.mark.parametrize("name", ["suport.jsonl", "support.json", "support", "suport.jsnl"])
def test_a_misspelled_file_gets_a_suggestion(cli, cwd, command, name):
    (cwd / "support.csv").write_text("")
    (cwd / "support.jsonl").write_text("")
    result = cli(*command.format(name).split())
    assert (result.code, "Did you mean support.jsonl?" in result.err or name == "support") == (2, True)
    assert "Did you mean" not in cli(*command.format("other.jsonl").split()).err
