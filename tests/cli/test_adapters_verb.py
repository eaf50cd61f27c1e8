import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from adapters.conftest import arrays, config, reported_score, write
from evaluation_files import write_evaluation
from tiny_model import make_tiny

from mlxtune.adapters import library, publish
from mlxtune.adapters.export import fidelity
from mlxtune.adapters.export import start as export_start
from mlxtune.adapters.export.fidelity import ComparedAnswers, Fidelity, LogitDistance
from mlxtune.adapters.importers.importer import import_adapter
from mlxtune.core.errors import GateError, InputError, MachineError
from mlxtune.core.json_fields import to_json
from mlxtune.evaluation.report import Caveat
from mlxtune.evaluation.verdict import compare
from mlxtune.models.resolve import resolve
from mlxtune.runs import launch
from mlxtune.runs.events import EventWriter
from mlxtune.runs.registry import Run

RUN = "20261124-1412-shop"


@pytest.fixture
def shop(cwd: Path, tiny: Path) -> Path:
    """Create a workspace with one run adapter."""
    folder = cwd / "runs" / RUN
    source = resolve(str(tiny))
    base = {"base": "smollm2-135m", "base_fingerprint": source.fingerprint}
    lineage = {**base, "made": "2026-11-24T14:12:00+0000", "run": RUN, "method": "sft"}
    write(folder / "adapter", arrays(), config(), lineage)
    (folder / "recipe.toml").write_text('name = "shop"\n[model]\nbase = "m"\n[data]\nsource = "d.jsonl"\n')
    return cwd


def scored(cwd: Path, **options: bool) -> None:
    evaluation = write_evaluation(cwd, **options)
    report = json.loads((evaluation / "report.json").read_text())
    report["facts"]["run"] = RUN
    (evaluation / "report.json").write_text(json.dumps(report))


@pytest.mark.parametrize(
    ("command", "own"),
    [
        (("eval", "last"), f"mlxtune eval runs/{RUN}/recipe.toml --adapter {RUN}"),
        (("export", "mlx"), f"--recipe runs/{RUN}/recipe.toml"),
    ],
)
def test_a_changed_evaluation_is_announced(cli, shop, command, own):
    announcement = f"[evaluation] in recipes/shop.toml has changed since the run and is used as it is now. To use the run's: {own}"
    assert announcement not in " ".join(cli(*command).err.split())
    (shop / "recipes").mkdir()
    text = (shop / "runs" / RUN / "recipe.toml").read_text()
    (shop / "recipes" / "shop.toml").write_text(f"{text}[evaluation]\nrows = 3\n")
    assert announcement in " ".join(cli(*command).err.split())


def test_empty_workspace_explains_how_to_create_adapter(cli, cwd):
    (cwd / "runs").mkdir()
    ended = cli("adapters")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith("There are no adapters yet.   Train one with: mlxtune train RECIPE")
    assert cli("adapters", "--json").json == []


def test_list_shows_one_line_per_adapter_with_verdict(cli, shop):
    scored(shop)
    write(shop / "adapters" / "other", arrays(rank=8), config(8), {"made": "2026-01-01T00:00:00+0000"})
    (shop / "adapters" / "broken").mkdir()
    lines = cli("adapters").out.splitlines()
    assert lines[0].split() == ["adapter", "base", "kind", "size", "verdict", "rate", "rows", "metric", "tags"]
    by_name = {line.split()[1]: line for line in lines[1:]}
    assert "cannot tell" in by_name[RUN]
    assert "25.0% → 75.0%     4  whole contract" in by_name[RUN]
    assert "LoRA 8" in by_name["other"]
    assert "not evaluated" in by_name["other"]
    assert "✗ broken" in by_name["broken"].replace("  ", " ")


def test_list_names_the_metric_of_each_rate(cli, shop):
    scored(shop, pairs=True, contract=False)
    (line,) = cli("adapters").out.splitlines()[1:]
    assert re.search(r"\d\.\d% → \d+\.\d% +4  preference accuracy", line)
    assert "contract" not in line


def test_better_adapter_with_caveat_is_listed_as_warning(cli, shop):
    evaluation = reported_score(hits=1) | {"caveat": to_json(Caveat("off_task_dropped", 0.6, 0.4, 0.05))}
    write(shop / "adapters" / "other", arrays(rank=8), config(8), {"made": "2026-12-01T00:00:00+0000", "evaluation": evaluation})
    listed, details = cli("adapters").out, cli("adapters", "show", "other").out
    assert "! other" in " ".join(listed.split())
    assert "not recommended" in listed
    assert "other is better but not recommended: off-task accuracy dropped from 60.0% to 40.0%." in " ".join(listed.split())
    assert "Not recommended: off-task accuracy dropped from 60.0% to 40.0%." in details


def test_json_list_has_every_field(cli, shop):
    scored(shop)
    (entry,) = cli("adapters", "--json").json
    assert entry["name"] == entry["run"] == RUN
    assert (entry["kind"], entry["rank"], entry["targets"]) == ("lora", 4, ["self_attn.q_proj", "self_attn.v_proj"])
    assert entry["score"]["outcome"] == "cannot_tell"
    assert entry["score"]["folder"].startswith(str(shop / "evals"))


def test_show_prints_details_and_evaluation(cli, shop):
    scored(shop)
    out = cli("adapters", "show").out
    facts = ("rank", "4, scale 2", "q_proj, v_proj", "whole contract", "25.0%", "75.0%", "4 held-out rows")
    for words in (RUN, "Cannot tell.", *facts):
        assert words in out


def test_show_explains_unreadable_adapter(cli, shop):
    (shop / "runs" / RUN / "adapter" / "adapters.safetensors").write_bytes(b"\x80\x05")
    ended = cli("adapters", "show")
    assert (ended.code, "invalid header" in ended.out) == (0, True)


def test_rename_tag_remove_and_undo(cli, shop):
    assert cli("adapters", "rename", "last", "polite").code == 0
    assert "polite: best" in cli("adapters", "tag", "polite", "best").err
    assert cli("adapters", "show", "polite", "--json").json["tags"] == ["best"]
    ended = cli("adapters", "remove", "polite")
    assert "mlxtune adapters restore polite" in ended.err
    assert cli("adapters", "--json").json == []
    assert cli("adapters", "restore", "--list").out.startswith("polite")
    assert "Restored polite to" in cli("adapters", "restore").err
    assert cli("adapters", "--json").json[0]["tags"] == ["best"]


def test_compare_lists_differences(ok, cli, shop):
    write(shop / "adapters" / "other", arrays(rank=8), config(8), {})
    ended = ok("adapters", "compare", RUN, "other")
    assert "4, scale 2" in ended.out
    assert "8, scale 2" in ended.out
    assert f"{RUN} has not been evaluated in this workspace" in ended.out
    assert cli("adapters", "compare", RUN, "other", "--json").json["contrast"] is None


def test_import_copies_folder_into_library(ok, shop, tiny):
    theirs = write(shop / "theirs", arrays(), config(), {})
    ended = ok("adapters", "import", str(theirs), "--base", str(tiny), "--name", "mine")
    assert "Imported mine: lora, rank 4" in ended.err
    assert library.find(shop, "mine").key == "adapters/mine"


def test_adapter_export_includes_card(ok, cli, shop):
    ok("export", "mlx", "--lora", "--to", "out")
    files = {"README.md", "adapter_config.json", "adapters.safetensors", "chat_template.jinja", "mlxtune.json"}
    assert {file.name for file in (shop / "out").iterdir()} == files
    assert "already exists" in cli("export", "mlx", "--lora", "--to", "out").err


FAR, NEAR = LogitDistance(5.0, 1.0, 0.5, 0.4, 10), LogitDistance(0.1, 0.01, 0.001, 1.0, 10)


def exported(shop: Path, monkeypatch: pytest.MonkeyPatch, loss: LogitDistance) -> None:
    """Make an export finish with this loss without a worker."""

    def start(workspace, entry, form, **how):
        folder = shop / "exports" / "20261124-1500-shop"
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(shop / "runs" / RUN / "recipe.toml", folder)
        result = Fidelity(
            form, FAR, loss, ComparedAnswers(20, 19, (compare("contract", "tuned", "exported", [(True, True)] * 20),))
        )
        fidelity.save(result, folder)
        request = {"program": "", "name": "shop", "adapter": str(entry.folder), "form": form}
        launch.write_record(Run(folder), "export", request)
        writer = EventWriter(folder)
        writer.emit("run.started", kind="export", name="shop", base="m", pid=1, host="h")
        try:
            if not how["force"]:
                fidelity.require_faithful(result)
            writer.emit("run.finished", summary={"folder": str(folder / "model"), "bytes": 2**30})
        except GateError as error:
            writer.emit("run.failed", error=error.message, hint=error.hint, code=1)
        return Run(folder)

    monkeypatch.setattr(export_start, "start", start)


def test_faithful_fuse_prints_location_and_loss(ok, cli, shop, monkeypatch):
    exported(shop, monkeypatch, NEAR)
    ended = ok("export", "mlx")
    for words in ("✓ faithful", "19 of 20", "adapter's effect", "0.50000", "whole contract", "1.0 GB"):
        assert words in ended.out
    assert "mlxtune runs show 20261124-1500-shop" in cli("adapters", "show", "last").out


def test_lossy_fuse_exits_1_with_loss_and_alternative(cli, shop, monkeypatch):
    exported(shop, monkeypatch, FAR)
    ended = cli("export", "mlx", "--requantize")
    assert ended.code == 1
    assert "The export is not faithful: its logits" in ended.err
    assert "without --requantize" in ended.err
    fused = cli("export", "mlx", "--requantize", "--json").json
    assert (fused["outcome"], fused["refused"], fused["folder"]) == ("not_faithful", True, None)
    forced = cli("export", "mlx", "--requantize", "--force", "--json").json
    assert (forced["outcome"], forced["refused"]) == ("not_faithful", False)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("adapters show nothing", "There is no adapter nothing. | List them with: mlxtune adapters"),
        ("adapters rename last ../x", "'../x' is not a valid adapter name"),
        ("adapters rename last base", "'base' is not a valid adapter name"),
        ("adapters tag last --drop x", "has no tag x"),
        ("adapters import none", "The folder none does not exist"),
        ("adapters import runs", "contains no adapter: it has no adapters.safetensors"),
        ("adapters restore", "No adapter has been removed"),
        ("export hg", "Unknown export format hg. | Did you mean hf?"),
        ("export mlx --to runs", "already exists"),
        ("adapters push last nowhere", "'nowhere' is not a valid Hub repository ID. | Use the form OWNER/NAME"),
        ("adapters pull a/b/c", "'a/b/c' is not a valid Hub repository ID"),
        ("adapters compare last", "Missing argument"),
        ("export peft --force", "--force cannot be used with peft."),
        ("export mlx --lora --force", "--force cannot be used with mlx --lora."),
        ("export peft --recipe r.toml", "--recipe cannot be used with peft."),
        ("export peft --precision q8_0", "--precision cannot be used with peft. | mlxtune export llamacpp last --precision q8_0"),
        ("export peft --from llama3.2:3b", "--from cannot be used with peft."),
        ("export hf --requantize", "--requantize cannot be used with hf. | mlxtune export mlx last --requantize"),
        ("export lmstudio --lora", "--lora cannot be used with lmstudio. | mlxtune export ollama last --lora"),
        ("export mlx --lora --requantize", "--requantize cannot be used with --lora."),
        ("export llamacpp --precision q4", "Unknown precision q4."),
        ("export llamacpp --smallest --precision f16", "--smallest cannot be used with --precision f16."),
        ("export hf --smallest", "--smallest cannot be used with hf. | mlxtune export llamacpp last --smallest"),
        (
            "export mlx --requantize --smallest",
            "--smallest cannot be used with mlx --requantize. | mlxtune export mlx last --smallest",
        ),
        ("export peft --lora", "--lora cannot be used with peft."),
        ("export peft --set evaluation.rows=3", "--set cannot be used with peft."),
        ("export llamacpp --lora --precision q8_0", "--precision cannot be used with llamacpp --lora."),
    ],
)
@pytest.mark.usefixtures("prompts_in_process")
def test_bad_input_prints_one_message_and_exits_2(refused, shop, command, words):
    refused(command.split(), words)
    assert not list(shop.glob("**/*-peft"))


def test_imported_adapter_is_evaluated_with_recipe(cli, shop, tiny, workspace, monkeypatch):
    """The worker gets the adapter folder and no run; different base weights are refused before it starts."""
    requests = []

    def start(cwd, kind, recipe, request, **_):
        requests.append((kind, request))
        raise InputError("enough")

    monkeypatch.setattr("mlxtune.workspace.control.launch.start", start)
    imported = import_adapter(shop, write(shop / "theirs", arrays(), config(), {}), "mine", str(tiny))
    recipe = str(workspace / "recipes" / "tiny.toml")
    assert "enough" in cli("eval", recipe, "--adapter", "mine").err
    assert requests == [("eval", {"adapter": str(imported.folder)})]
    other = make_tiny(shop / "other", bits=4)
    ended = cli("eval", recipe, "--adapter", "mine", "--set", f"model.base={other}")
    assert (ended.code, "mine was trained from" in ended.err, len(requests)) == (2, True, 1)
    assert "mlxtune eval RECIPE --adapter mine" in cli("adapters", "show", "mine").out


def test_adapter_of_a_run_is_evaluated_by_its_name(refused, cli, shop, tiny, monkeypatch):
    subjects = []

    def start(cwd, recipe, run, *_, **__):
        subjects.append(run.id)
        raise InputError("enough")

    monkeypatch.setattr("mlxtune.cli.evaluate.load_prompts", lambda recipe: ())
    monkeypatch.setattr("mlxtune.workspace.control.evaluate", start)
    assert cli("adapters", "rename", "last", "quick").code == 0
    assert "enough" in cli("eval", "quick").err
    assert subjects == [RUN]
    assert "There is no training run named quik." in cli("eval", "quik").err
    import_adapter(shop, write(shop / "theirs", arrays(), config(), {}), "mine", str(tiny))
    refused(("eval", "mine"), "mlxtune eval RECIPE --adapter mine")


@pytest.fixture
def left(shop: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make an export start with a worker that was killed at once. Return the hidden folder that it left."""
    run = Run(shop / "exports" / "20261124-1500-shop")
    left = shop / ".out.partial"
    left.mkdir()
    run.folder.mkdir(parents=True)
    shutil.copy(shop / "runs" / RUN / "recipe.toml", run.folder)
    launch.write_record(run, "export", {"form": "fused", "target": str(shop / "out")})
    with EventWriter(run.folder) as writer:
        writer.emit("run.started", kind="export", name="shop", base="m", pid=1, host="h")
    monkeypatch.setattr(export_start, "start", lambda *_, **__: run)
    return left


def test_a_killed_export_leaves_nothing_when_it_is_followed(cli, left):
    ended = cli("export", "mlx", "--to", "out")
    assert (ended.code, left.exists()) == (MachineError.exit_code, False)
    assert "20261124-1500-shop crashed." in ended.err


def test_a_killed_export_leaves_nothing_when_it_is_removed(cli, left):
    assert cli("runs", "remove", "20261124-1500", "--yes").code == 0
    assert not left.exists()


@pytest.fixture
def prompts_in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Freeze and compare templates in this process, since every new process would import the tokenizers again."""
    from mlxtune.adapters.export import program_prompts

    def call(module: str, method: str, params: dict[str, Any], *_: object, **__: object) -> SimpleNamespace:
        return SimpleNamespace(result=lambda: program_prompts._write(SimpleNamespace(params=params)))  # type: ignore[arg-type]

    monkeypatch.setattr(publish, "StoppableCall", call)


@pytest.mark.usefixtures("prompts_in_process")
def test_peft_export_writes_an_adapter_that_imports_again(ok, cli, shop, tiny):
    ended = ok("export", "peft", "--to", "out folder")
    assert "adapter_model.safetensors" in ended.err
    assert cli("adapters", "import", "out folder", "--name", "again", "--base", str(tiny)).code == 0
    assert "copies" not in cli("adapters", "show", "last").out.casefold(), "it is not in exports/"
    for command in (("peft",), ("mlx", "--lora")):
        assert cli("export", *command).code == 0
    shown = " ".join(cli("adapters", "show", "last").out.split())
    assert f"mlx-lm exports/{RUN}-mlx PEFT exports/{RUN}-peft" in shown
    assert "again has no recipe that --set could change." in cli("export", "mlx", "again", "--set", "evaluation.rows=3").err


def test_a_preset_of_lm_studio_is_not_overwritten(refused, shop, tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    preset = tmp_path / ".lmstudio" / "config-presets" / f"{RUN}.preset.json"
    preset.parent.mkdir(parents=True)
    preset.write_text('{"name": "mine"}')
    refused(
        ("export", "lmstudio"), f"LM Studio already has a different preset named {RUN}. | mlxtune export lmstudio {RUN} --force"
    )
    assert preset.read_text() == '{"name": "mine"}'
