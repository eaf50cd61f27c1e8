"""Exports for Ollama and LM Studio have the files that these programs document, and render prompts as in training."""

import json
import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_model import CHATML

from mlxtune.adapters.export import export_worker as exporting
from mlxtune.adapters.export import fidelity, lmstudio, ollama
from mlxtune.adapters.export.compared_rows import ComparedRows
from mlxtune.adapters.export.start import GGUF_FILE
from mlxtune.cli.export import show_export
from mlxtune.core.errors import GateError, MachineError
from mlxtune.data.rows import Conversation, Location, Message
from mlxtune.models.resolve import ModelFolder
from mlxtune.models.template import ChatTemplate, TemplateSettings, load_template
from mlxtune.runs import launch, registry
from mlxtune.runs.events import EventWriter
from mlxtune.runs.registry import Run

from .conftest import Exports, replace_template

TOOL = {"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object", "properties": {}}}}
ROW = Conversation(
    Location(Path("r"), 1), {}, (Message("system", "Be brief."), Message("user", "Hi?\nThere"), Message("assistant", "Hello."))
)


@pytest.fixture
def chat(source: ModelFolder) -> ChatTemplate:
    return load_template(source, TemplateSettings(date="2026-11-26"))


def commands(text: str) -> dict[str, list[str]]:
    """Return the values of each instruction in a Modelfile, as Ollama's parser reads them."""
    values: dict[str, list[str]] = {}
    for name, quoted, plain in re.findall(r'^([A-Z]+) (?:"""(.*?)"""|([^\n]*))$', text, re.MULTILINE | re.DOTALL):
        values.setdefault(name, []).append(quoted or plain)
    return values


def test_modelfile_has_the_template_system_stops_and_context(chat: ChatTemplate) -> None:
    result = ollama.modelfile(chat, [ROW], source="./model.gguf", system='Be "brief".\nAlways.', context=8192)
    found = commands(result)
    assert found["FROM"] == ["./model.gguf"]
    assert found["SYSTEM"] == ['Be "brief".\nAlways.']
    assert "ADAPTER" not in found
    assert {"num_ctx 8192", "temperature 0", "repeat_penalty 1"} <= {*found["PARAMETER"]}
    assert any(value.startswith('stop "') for value in found["PARAMETER"])
    assert found["TEMPLATE"][0].startswith("{{ range $i, $_ := .Messages }}")


def test_adapter_is_added_to_a_base_in_ollama(chat: ChatTemplate) -> None:
    result = ollama.modelfile(chat, [ROW], source="smollm2:135m", adapter="./adapter.gguf")
    assert result.startswith("FROM smollm2:135m\nADAPTER ./adapter.gguf\n")
    assert ollama.model_name("My Name") == "my-name"


def test_template_is_left_out_where_it_cannot_be_proven(chat: ChatTemplate) -> None:
    result = ollama.modelfile(chat, [replace(ROW, tools=(TOOL,))], source="./model.gguf")
    assert "TEMPLATE" not in commands(result)
    _, difference = ollama.expressed_template(chat, [replace(ROW, tools=(TOOL,))])
    assert (difference.position, difference.actual) == (0, "")


@pytest.mark.parametrize("system", ["Price:\u00a05 €", 'Say """.', 'Say "yes"'])
def test_system_prompt_that_ollama_would_change_is_left_out(chat: ChatTemplate, system: str) -> None:
    result = ollama.modelfile(chat, [ROW], source="./model.gguf", system=system)
    assert "SYSTEM" not in commands(result)
    assert not ollama.is_writable(system)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "user home"
    folder.mkdir()
    monkeypatch.setattr(Path, "home", lambda: folder)
    return folder


def test_lmstudio_folder_follows_its_pointer(home: Path) -> None:
    assert lmstudio.model_folder("mine") == home / ".lmstudio" / "models" / "mlxtune" / "mine"
    (home / ".lmstudio-home-pointer").write_text(f"{home / 'elsewhere'}\n")
    assert lmstudio.model_folder("mine") == home / "elsewhere" / "models" / "mlxtune" / "mine"


def test_lmstudio_preset_has_the_system_prompt(home: Path) -> None:
    file = lmstudio.write_preset("mine", "Be brief.")
    assert file == home / ".lmstudio" / "config-presets" / "mine.preset.json"
    preset = json.loads(file.read_text())
    assert (preset["identifier"], preset["name"]) == ("@local:mine", "mine")
    fields = {field["key"]: field["value"] for field in preset["operation"]["fields"]}
    assert fields["llm.prediction.systemPrompt"] == "Be brief."
    assert fields["llm.prediction.temperature"] == 0


def exported(workspace: Path, program: str, folder: Path, form: str) -> Run:
    """Return a finished export for ``program`` to ``folder``."""
    run = registry.create(workspace, "export", "mine")
    launch.write_record(run, "export", {"form": form, "program": program, "name": "mine"})
    (run.folder / fidelity.FILE).touch()
    writer = EventWriter(run.folder)
    writer.emit("run.finished", steps=0, seconds=1.0, summary={"folder": str(folder), "bytes": 1})
    writer.close()
    return run


@pytest.fixture
def shown(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Return what is shown of a finished export, without its fidelity."""
    monkeypatch.setattr("mlxtune.cli.export.fidelity.load", lambda folder: None)
    monkeypatch.setattr("mlxtune.cli.export.fidelity_document", lambda *_: ())

    def show(program: str, folder: Path, form: str = "gguf") -> str:
        show_export(exported(home, program, folder, form))
        return " ".join(capsys.readouterr().err.split())

    return show


def test_the_model_is_listed_only_in_lmstudios_folder(home: Path, shown: Callable[..., str]) -> None:
    text = shown("lmstudio", lmstudio.model_folder("mine").resolve())
    assert "LM Studio lists the model as mlxtune/mine. The preset is mine." in text
    assert "To have LM Studio list the model, move its folder to" in shown("lmstudio", home / "elsewhere")


def test_an_export_shows_the_commands_for_its_program_later_too(home: Path, shown: Callable[..., str]) -> None:
    assert shown("ollama", Path("/a b")) == "ollama create mine -f '/a b/Modelfile' ollama run mine"
    assert shown("", Path("/a b")) == "llama-server --model '/a b/model.gguf'"
    assert shown("", home, "hf") == ""


def test_export_for_ollama_is_whole(exports: Exports) -> None:
    target = exports.workspace / "a name with spaces"
    worker = exports.start("gguf", target=target, program="ollama")
    assert exporting.export(worker)["outcome"] == "faithful"
    assert {*os.listdir(target)} == {"Modelfile", GGUF_FILE, "chat_template.jinja", fidelity.FILE, "mlxtune.json"}
    assert commands((target / "Modelfile").read_text())["FROM"] == ["./model.gguf"]


def test_an_export_whose_prompts_ollama_cannot_express_is_refused(exports: Exports, monkeypatch: pytest.MonkeyPatch) -> None:
    replace_template(exports.base, "{{ messages | length }}" + CHATML)
    worker = exports.start("gguf", target=exports.out, program="ollama")
    with monkeypatch.context() as patched:
        patched.delattr(exporting._ExportJob, "write")  # it is refused before anything is written
        patched.delattr(ComparedRows, "answers")
        with pytest.raises(GateError, match=r"renders prompts differently.*at token 0"):
            exporting.export(worker)
    assert not exports.out.exists()
    exporting.export(exports.start("gguf", target=exports.out, program="ollama", force=True))
    assert "TEMPLATE" not in commands((exports.out / "Modelfile").read_text())


@pytest.mark.slow
def test_export_for_lmstudio_is_where_it_looks(exports: Exports, home: Path) -> None:
    target = lmstudio.model_folder("mine")
    worker = exports.start("gguf", target=target, program="lmstudio", precision="q8_0")
    exporting.export(worker)
    name = worker.request["name"]
    assert (target / f"{name}-Q8_0.gguf").is_file()
    assert (home / ".lmstudio" / "config-presets" / f"{name}.preset.json").is_file()


def test_read_only_target_is_refused_before_computing(exports: Exports, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(MachineError, match="is read-only"):
        exporting.export(exports.start("fused", target=exports.workspace / "locked" / "out"))
