"""The Python API. ``docs/python.md``, which ``test_docs.py`` runs, shows the whole of it."""

from pathlib import Path

import pytest

import mlxtune
from mlxtune.core.errors import Interrupted, MachineError, MlxtuneError
from mlxtune.recipe import parse
from mlxtune.runs.launch import require_finished
from mlxtune.runs.locks import accelerator_lease
from mlxtune.runs.registry import Run
from mlxtune.runs.state import RunState
from mlxtune.workspace import control


def test_every_name_can_be_imported_from_the_package() -> None:
    assert all(callable(getattr(mlxtune, name)) for name in mlxtune.__all__)
    stub = (Path(mlxtune.__file__).parent / "__init__.pyi").read_text(encoding="utf-8")
    assert all(f"import {name} as {name}\n" in stub for name in mlxtune.__all__)


@pytest.mark.parametrize("prompt", [[{"role": "user"}], [{"role": 1, "content": ""}], [{"role": "user", "content": None}]])
def test_a_malformed_message_is_refused_before_a_model_is_loaded(prompt: object) -> None:
    with pytest.raises(mlxtune.api.InputError, match="Not a message") as error:
        mlxtune.generate(prompt)
    assert "role" in error.value.hint


def test_a_source_without_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MlxtuneError, match="nothing"):
        mlxtune.check_data(tmp_path / "nothing.jsonl")


def test_a_check_says_how_the_columns_were_read(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_text("question,answer,author\nWhere is it?,Here.,Ann\nWho is it?,Bob.,Ann\n")
    columns = mlxtune.check_data(file).columns
    assert columns
    assert (columns.mapping, columns.unused) == ({"prompt": "question", "completion": "answer"}, ("author",))


def test_a_run_knows_its_folder_from_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another call that needs the machine names the folder."""
    given: list[Path] = []

    def start(workspace: Path, *_: object) -> Run:
        given.append(workspace)
        raise MachineError("in use")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(control, "train", start)
    monkeypatch.setattr(control, "evaluate", start)
    recipe = parse('name = "shop"\n[model]\nbase = "m"\n[data]\nsource = "d.jsonl"\n')
    for call in (mlxtune.train, mlxtune.evaluate):
        with pytest.raises(MachineError):
            call(recipe)
    assert given == [tmp_path, tmp_path]


@pytest.mark.slow
def test_a_second_call_is_told_who_has_the_machine(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with accelerator_lease("train", tmp_path, "20261201-0900-shop"), pytest.raises(MachineError) as error:
        mlxtune.generate("Hello", base=str(tiny))
    assert "in use by the training run 20261201-0900-shop" in str(error.value)


def test_the_error_of_a_failed_run_is_raised_with_its_exit_code() -> None:
    with pytest.raises(MlxtuneError, match="no memory") as failed:
        require_finished(RunState(phase="failed", error="There is no memory left.", hint="Close an app.", code=4))
    assert (failed.value.exit_code, failed.value.hint) == (4, "Close an app.")
    with pytest.raises(Interrupted, match="step 0"):
        require_finished(RunState(phase="stopped"))
