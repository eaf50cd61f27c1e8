from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import mlxtune
from mlxtune.cli import start, workspace
from mlxtune.recipe import load

ROOT = Path(__file__).parents[2]


def test_version_is_one_line(cli):
    ended = cli("--version")
    assert (ended.code, ended.out, ended.err) == (0, mlxtune.__version__ + "\n", "")


def test_init_makes_a_workspace_and_says_what_to_do_next(cli, place):
    ended = cli("init", "shop")
    assert (ended.code, ended.err) == (0, "")
    assert "5 recipes for the bundled model" in ended.out
    assert "7 larger bases" in ended.out
    assert "cd shop && mlxtune train recipes/support-json.toml" in ended.out
    assert load(place / "shop" / "recipes" / "support-json.toml").source.is_file()


def test_init_twice_overwrites_nothing(cli, place):
    cli("init", "shop")
    recipe = place / "shop" / "recipes" / "support-json.toml"
    recipe.write_text("mine")
    ended = cli("init", "shop")
    assert ended.code == 2
    assert "is there already, so nothing was written" in ended.err
    assert recipe.read_text() == "mine"


def test_init_makes_no_workspace_inside_a_workspace(cli, place, monkeypatch):
    cli("init", "shop")
    monkeypatch.chdir(place / "shop" / "data")
    ended = cli("init", "shop")
    assert ended.code == 2
    assert f"would be a workspace inside the workspace {place / 'shop'}." in ended.err
    assert not (place / "shop" / "data" / "shop").exists()
    assert cli("init", str(place / "other")).code == 0


def test_init_in_a_clone_makes_a_workspace_as_the_readme_says(cli, place, monkeypatch):
    monkeypatch.setattr(workspace.samples, "root", lambda: place)
    for name in ("recipes", "data/samples"):
        (place / name).mkdir(parents=True)
    (place / "recipes" / "support-json.toml").write_text("")
    assert cli("init", "shop").code == 0


def test_doctor_json_is_one_document_and_its_code_says_whether_to_mend():
    done = subprocess.run([sys.executable, "-m", "mlxtune", "doctor", "--json"], capture_output=True, text=True, cwd=ROOT)
    found = json.loads(done.stdout)
    assert found["mlxtune"] == mlxtune.__version__
    assert {"system", "chip", "memory", "disk", "backend", "mlx", "mlx-lm", "python", "mend"} <= set(found)
    assert done.returncode == (1 if found["mend"] else 0)
    assert done.stderr == ""


def test_the_next_command_is_one_that_this_terminal_finds(monkeypatch, tmp_path):
    own, other = tmp_path / "my venv/bin", tmp_path / "other"
    for folder in (own, other):
        folder.mkdir(parents=True)
        (folder / "mlxtune").write_text("")
        (folder / "mlxtune").chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(own / "python"))
    said = {}
    for path in (own, other, tmp_path):
        monkeypatch.setenv("PATH", str(path))
        said[path] = start.typed()
    assert said == {own: "mlxtune", other: f"'{own}/mlxtune'", tmp_path: f"'{own}/mlxtune'"}
    (tmp_path / "link").mkdir()
    (tmp_path / "link/mlxtune").symlink_to(own / "mlxtune")
    monkeypatch.setenv("PATH", str(tmp_path / "link"))
    assert start.typed() == "mlxtune"
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    assert start.typed() == f"{tmp_path}/python -m mlxtune"


@pytest.fixture
def healthy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with nothing to mend, whatever the test's own process has loaded."""
    monkeypatch.setattr(workspace.blas, "preload", lambda: "OpenBLAS 9")
    monkeypatch.setattr(workspace.machines, "disk_free", lambda _: 10**11)


@pytest.mark.usefixtures("healthy")
def test_doctor_in_words_says_what_its_json_says(cli):
    found = json.loads(cli("doctor", "--json").out)
    ended = cli("doctor")
    assert (ended.code, ended.err, found["mend"]) == (0, "", [])
    assert "Nothing to mend." in ended.out
    for key, value in found.items():
        if key not in ("mend", "memory"):
            assert str(value) in ended.out


@pytest.mark.usefixtures("healthy")
def test_doctor_names_what_to_mend_and_exits_one(cli, monkeypatch):
    monkeypatch.setattr(workspace.machines, "disk_free", lambda _: 10**9)
    ended = cli("doctor")
    assert ended.code == 1
    assert "Little disk space" in ended.err
    assert len(json.loads(cli("doctor", "--json").out)["mend"]) == 1


@pytest.mark.parametrize(
    "verb", [(), ("plan",), ("train",), ("eval",), ("score",), ("runs",), ("runs", "show"), ("init",), ("doctor",), ("demo",)]
)
def test_every_verb_has_help(cli, verb):
    ended = cli(*verb, "--help")
    assert ended.code == 0
    assert "Usage" in ended.out


@pytest.mark.parametrize(("group", "code"), [("data", 2), ("runs", 0), ("adapters", 0), ("models", 0)])
def test_a_group_of_verbs_alone_helps_or_lists_and_complains_of_nothing(cli, group, code):
    ended = cli(group)
    assert (ended.code, ended.err) == (code, "")
    assert ended.out


def test_fault_of_ours_is_said_without_a_traceback_unless_asked_for(cli, monkeypatch):
    def fail() -> None:
        raise RuntimeError("oops")

    monkeypatch.setattr(workspace.machines, "memory", fail)
    ended = cli("doctor")
    assert ended.code == 4
    assert "A fault of ours: RuntimeError: oops" in ended.err
    assert "Traceback" not in ended.err
    monkeypatch.setenv("MLXTUNE_DEBUG", "1")
    assert "Traceback" in cli("doctor").err
