import json
import re
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest

import mlxtune
from mlxtune.cli import workspace
from mlxtune.cli.main import VERBS
from mlxtune.cli.output import command_name
from mlxtune.recipe import load

ROOT = Path(__file__).parents[2]


def test_version_is_one_line(cli):
    result = cli("--version")
    assert (result.code, result.out, result.err) == (0, mlxtune.__version__ + "\n", "")


def test_init_creates_a_workspace_and_shows_the_next_command(cli, cwd):
    result = cli("init", "shop")
    assert (result.code, result.err) == (0, "")
    assert "6 recipes for the bundled model" in result.out
    assert f"{len(list((cwd / 'shop' / 'recipes' / 'mac').iterdir()))} larger base models" in result.out
    assert "cd shop && mlxtune train recipes/support-json.toml" in result.out
    assert load(cwd / "shop" / "recipes" / "support-json.toml").source.is_file()


def test_the_next_command_works_as_pasted_for_any_folder_name(cli, cwd):
    assert "cd '[my shop]' && mlxtune train recipes/support-json.toml" in cli("init", "[my shop]").out


def test_init_never_overwrites(refused, cli, cwd):
    cli("init", "shop")
    recipe = cwd / "shop" / "recipes" / "support-json.toml"
    recipe.write_text("mine")
    refused(("init", "shop"), "already exists, so nothing was written")
    assert recipe.read_text() == "mine"


def test_init_refuses_a_workspace_inside_a_workspace(refused, cli, cwd, monkeypatch):
    cli("init", "shop")
    monkeypatch.chdir(cwd / "shop" / "data")
    refused(("init", "shop"), f"is inside the workspace {cwd / 'shop'}.")
    assert not (cwd / "shop" / "data" / "shop").exists()
    assert cli("init", str(cwd / "other")).code == 0


def test_init_works_in_a_clone(cli, cwd, monkeypatch):
    monkeypatch.setattr(workspace.samples, "samples_root", lambda: cwd)
    for name in ("recipes", "data/samples"):
        (cwd / name).mkdir(parents=True)
    (cwd / "recipes" / "support-json.toml").write_text("")
    assert cli("init", "shop").code == 0


def test_init_writes_an_agents_file_once_with_commands_that_exist(ok, refused, cwd):
    ok("init", "--agents")
    assert [path.name for path in cwd.iterdir()] == ["AGENTS.md"]
    commands = re.findall(r"`mlxtune (\w+)", (cwd / "AGENTS.md").read_text())
    assert commands
    assert set(commands) <= set(VERBS)
    refused(("init", "--agents"), "AGENTS.md already exists")
    ok("init", "shop", "--agents")
    assert (cwd / "shop" / "AGENTS.md").is_file()
    assert (cwd / "shop" / "recipes").is_dir()


def test_doctor_json_exits_1_if_there_are_problems():
    result = subprocess.run([sys.executable, "-m", "mlxtune", "doctor", "--json"], capture_output=True, text=True, cwd=ROOT)
    report = json.loads(result.stdout)
    assert report["mlxtune"] == mlxtune.__version__
    assert {"system", "chip", "memory", "disk", "backend", "mlx", "mlx-lm", "python", "problems"} <= set(report)
    assert result.returncode == (1 if report["problems"] else 0)
    assert result.stderr == ""


def test_command_name_is_runnable_in_this_terminal(monkeypatch, tmp_path):
    own, other = tmp_path / "my venv/bin", tmp_path / "other"
    for folder in (own, other):
        folder.mkdir(parents=True)
        (folder / "mlxtune").write_text("")
        (folder / "mlxtune").chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(own / "python"))
    names = {}
    for path in (own, other, tmp_path):
        monkeypatch.setenv("PATH", str(path))
        names[path] = command_name()
    assert names == {own: "mlxtune", other: f"'{own}/mlxtune'", tmp_path: f"'{own}/mlxtune'"}
    (tmp_path / "link").mkdir()
    (tmp_path / "link/mlxtune").symlink_to(own / "mlxtune")
    monkeypatch.setenv("PATH", str(tmp_path / "link"))
    assert command_name() == "mlxtune"
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    assert command_name() == f"{tmp_path}/python -P -m mlxtune"


@pytest.fixture
def healthy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without problems."""
    monkeypatch.setattr(workspace.blas, "preload", lambda: "OpenBLAS 9")
    monkeypatch.setattr(workspace.machines, "disk_free", lambda _: 10**11)


@pytest.mark.usefixtures("healthy")
def test_doctor_text_matches_its_json(cli):
    report = cli("doctor", "--json").json
    result = cli("doctor")
    assert (result.code, result.err, report["problems"]) == (0, "", [])
    assert "No problems found." in result.out
    for key, value in report.items():
        if key not in ("problems", "memory"):
            assert str(value) in result.out


@pytest.mark.usefixtures("healthy")
def test_doctor_lists_missing_extras_which_are_no_problem(ok, monkeypatch):
    monkeypatch.setattr(workspace, "find_spec", lambda name: None if name in ("starlette", "gguf") else object())
    result = ok("doctor")
    assert "optional: serve, gguf; pip install 'mlxtune[serve]'" in result.out


@pytest.mark.usefixtures("healthy")
def test_doctor_reports_problems_and_exits_1(cli, monkeypatch):
    monkeypatch.setattr(workspace.machines, "disk_free", lambda _: 10**9)
    result = cli("doctor")
    assert result.code == 1
    assert "is low, and models need" in result.err
    assert len(cli("doctor", "--json").json["problems"]) == 1


@pytest.mark.usefixtures("healthy")
def test_doctor_reports_a_home_that_is_not_writable(cli, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("MLXTUNE_HOME", str(tmp_path / "file" / "home"))
    result = cli("doctor")
    assert result.code == 1
    assert f"{tmp_path / 'file' / 'home'} is not writable: Not a directory. Set MLXTUNE_HOME to another folder." in result.err


def test_help_lists_every_command_by_name_and_no_type_of_a_flag(cli):
    shown = cli("--help").out
    assert re.findall(r"^│ ([\w-]+)", shown.split("Commands")[1], re.MULTILINE) == [name for name in VERBS if " " not in name]
    assert "bool" not in shown + cli("data", "check", "--help").out


@pytest.mark.parametrize(("group", "code"), [("data", 2), ("runs", 0), ("adapters", 0), ("models", 0)])
def test_a_group_without_a_verb_prints_help_or_a_list(cli, cwd, group, code):
    (cwd / "runs").mkdir()
    result = cli(group)
    assert (result.code, result.err) == (code, "")
    assert result.out


def test_an_internal_error_has_a_traceback_only_in_debug_mode(cli, monkeypatch):
    monkeypatch.setattr(workspace.machines, "memory", Mock(side_effect=RuntimeError("oops")))
    result = cli("doctor")
    assert result.code == 4
    assert "Internal error: RuntimeError: oops" in result.err
    assert "Traceback" not in result.err
    monkeypatch.setenv("MLXTUNE_DEBUG", "1")
    assert "Traceback" in cli("doctor").err


def test_init_prints_json(ok, cwd):
    assert json.loads(ok("init", "shop", "--json").out) == {"folder": "shop", "recipe": "shop/recipes/support-json.toml"}
    assert json.loads(ok("init", "--agents", "--json").out) == {"file": "AGENTS.md"}
    (cwd / "rows.jsonl").write_text('{"prompt": "a", "completion": "b"}\n' * 3)
    (cwd / "own").mkdir()
    assert json.loads(ok("init", "own", "--from", "rows.jsonl", "--agents", "--json").out)["recipe"].startswith("own/recipes/")
