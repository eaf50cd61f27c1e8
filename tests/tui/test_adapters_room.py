"""The Adapters room, with adapters of one tiny layer."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from textual.widgets import Input

from mlxtune.adapters import library
from mlxtune.adapters.export.fidelity import ComparedAnswers, Fidelity, LogitDistance
from mlxtune.adapters.export.formats import FORMATS
from mlxtune.adapters.export.start import GGUF_FORMS
from mlxtune.adapters.export.tried import TriedExport
from mlxtune.advice.next_step import next_step
from mlxtune.cli.adapters import show_adapter
from mlxtune.recipe import dump, load
from mlxtune.runs.launch import write_record
from mlxtune.runs.locks import accelerator_lease
from mlxtune.runs.registry import Run
from mlxtune.tui.rooms.adapters.screen import draw_detail, read_library

from .driver import NARROW, Gate, Opening, RoomDriver, opens, picture_sizes
from .evaluated import base, evaluation, tuned
from .stage import FINISHED, Shop, observe, started

pytestmark = pytest.mark.slow

RUN = "20261124-1412-support-json"


def adapter(folder: Path, rank: int = 8, parent: Path | None = None, created: str = "2026-11-22T09:00:00+0000") -> Path:
    folder.mkdir(parents=True)
    name = "model.layers.0.self_attn.q_proj"
    save_file(
        {f"{name}.lora_a": np.zeros((16, rank), np.float32), f"{name}.lora_b": np.zeros((rank, 16), np.float32)},
        folder / "adapters.safetensors",
    )
    parameters = {"rank": rank, "scale": 8.0, "dropout": 0.0, "keys": ["self_attn.q_proj"]}
    config = {"fine_tune_type": "lora", "num_layers": 1, "lora_parameters": parameters}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    facts: dict[str, Any] = {"base": "smollm2-135m", "base_fingerprint": "f" * 64, "method": "sft", "made": created}
    if parent:
        facts["parent"] = {"folder": str(parent), "sha256": "0" * 64, "lineage": {"run": "tone"}}
    (folder / "mlxtune.json").write_text(json.dumps(facts))
    return folder


def adapters(shop: Shop) -> None:
    shop.recipe()
    first = adapter(shop.folder / "adapters" / "tone")
    adapter(shop.folder / "adapters" / "voice", rank=4, parent=first)


def stock(shop: Shop) -> None:
    adapters(shop)
    bad = adapter(shop.folder / "adapters" / "broken")
    (bad / "adapters.safetensors").write_bytes(b"nothing")


@pytest.fixture
def stocked(shop: Shop) -> Shop:
    stock(shop)
    return shop


ROOM = Opening("adapters", stock)


def names(room: RoomDriver) -> list[str]:
    return [view.entry.name for view in room.screen._adapters]


async def move_to(room: RoomDriver, name: str) -> None:
    await room.until(lambda: name in names(room) and bool(room.text("#adapters-list").strip()))
    room.screen.query_one("#adapters-list").go(names(room).index(name))
    await room.pilot.pause()


async def changed(room: RoomDriver) -> None:
    await room.until(lambda: not room.app.jobs.busy)


async def test_a_better_adapter_with_a_reservation_is_a_warning(shop, open_room):
    adapter(shop.folder / "runs" / RUN / "adapter")
    evaluation(shop, arms={"base": base, "tuned": tuned}, run=RUN, off_task=4)
    async with open_room("adapters", size=(140, 45)) as room:
        await move_to(room, RUN)
        assert "! 1412-support-json" in room.text("#adapters-list")
        assert "not recommended  82.5%" in room.text("#adapters-list"), "as many decimals as in the details"
        detail = room.words("#adapters-detail")
        assert "! Better." in detail
        assert "Not recommended: off-task accuracy dropped" in detail
        assert "✓ Better" not in detail


@opens(stage=lambda shop: adapter(shop.folder / "adapters" / "20261125-1610-support-json-with-a-long-name"))
async def test_a_long_name_leaves_a_gap_before_the_kind(room):
    await room.until(lambda: "name LoRA 8" in room.text("#adapters-list"))
    assert "○ 1610-supp" in room.text("#adapters-list"), "names of one day differ after the date"


async def test_rename(room, shop):
    await move_to(room, "tone")
    await room.press("e", until=lambda: room.mode == "")
    await room.type("tone-soft")
    assert room.screen.query_one(Input).value == "tone-soft", "typing replaces the old name"
    await room.press("enter", notice="✓ tone is now named tone-soft.", until=lambda: "tone-soft" in names(room))
    assert "tone-soft" in {entry.name for entry in library.all_adapters(shop.folder)}
    await move_to(room, "voice")
    await room.press("e", until=lambda: room.mode == "")
    await room.type("no such/name")
    await room.press("enter", until=lambda: "is not a valid adapter name" in room.text("#wrong"))
    assert room.screen.query_one(Input).value == "no such/name"


async def test_an_adapter_is_tagged_removed_restored_and_compared(room, shop):
    await move_to(room, "tone")
    await room.press("t", answer="best json", notice="✓ tone is tagged best, json.")
    await room.until(lambda: room.screen.adapter.tags == ("best", "json"))
    await changed(room)
    await room.press("t", answer="-", notice="✓ tone has no tags.")
    assert library.find(shop.folder, "tone").tags == ()
    await changed(room)
    await room.press("x", notice="✓ Removed tone. 1 adapter was trained from it.")
    assert room.undo_key == "u"
    assert not (shop.folder / "adapters" / "tone").exists()
    assert "tone" not in names(room)
    await room.press("u", notice="✓ Restored tone.")
    assert (shop.folder / "adapters" / "tone").exists()
    await changed(room)
    await move_to(room, "voice")
    await room.press("c", choose="adapters/tone", until=lambda: room.mode == "" and "not compared:" in room.text("#rows"))
    assert "~  rank" in room.text("#rows")


async def test_u_typed_right_after_a_removal_undoes_it(room, shop, monkeypatch):
    removing, remove = Gate(), library.remove
    monkeypatch.setattr(library, "remove", lambda *args: (removing.wait(), remove(*args))[1])
    await move_to(room, "tone")
    await room.press_quickly("x", "u")
    removing.set()
    await room.until_notice("✓ Restored tone.")
    assert (shop.folder / "adapters" / "tone").exists()


async def test_an_export_asks_first_and_starts_the_worker(room, monkeypatch):
    started: list[tuple[str, ...]] = []

    def start(workspace: Path, entry: Any, form: str, *, precision: str, program: str, ollama_base: str) -> Any:
        started.append((entry.key, form, precision, program, ollama_base))
        return SimpleNamespace(folder=workspace / "exports" / "x")

    monkeypatch.setattr("mlxtune.adapters.export.start.start", start)
    await move_to(room, "tone")
    await room.press("w", until=lambda: "…" in room.text("#choices"))
    await room.press("down", until=lambda: room.words("#choice-about") == FORMATS[0].about)
    await room.press("up", choose="")
    assert not started, "the first option writes nothing"
    for precision, given, option in (("not quantized", "f16", []), ("smallest", "smallest", ["--smallest"])):
        await room.press("w", choose="mlx")
        await room.press(choose=precision, until=lambda: bool(started))
        assert started.pop() == ("adapters/tone", "fused", given, "", "")
        assert room.app.commands.commands[-1].split() == ["mlxtune", "export", "mlx", "tone", *option]
        await room.until(lambda: not room.app.jobs.busy)
    await room.press("w", choose="ollama")
    await room.press(choose="q8_0", until=lambda: bool(started))
    assert started.pop() == ("adapters/tone", "gguf", "q8_0", "ollama", "")
    await room.until(lambda: not room.app.jobs.busy)
    await room.press("w", choose="ollama --lora", answer="llama3.2:3b", until=lambda: bool(started))
    assert started.pop() == ("adapters/tone", "gguf-lora", "f16", "ollama", "llama3.2:3b")


async def test_a_format_whose_package_is_missing_says_so_in_its_line(room, monkeypatch):
    monkeypatch.setattr("mlxtune.adapters.export.start.find_spec", lambda name: None)
    await move_to(room, "tone")
    await room.press("w", until=lambda: "llamacpp needs gguf; a GGUF file for llama.cpp" in room.words("#choices"))
    assert room.text("#choices").count("needs gguf") == sum(one.form in GGUF_FORMS for one in FORMATS)
    await room.press(choose="llamacpp", notice="✗ Writing GGUF requires the package gguf. Run: pip install 'mlxtune[gguf]'")
    assert room.mode == "adapters", "no other dialog comes first"


@opens(size=(80, 24))
async def test_all_formats_can_be_reached_in_a_small_terminal(room):
    await move_to(room, "tone")
    await room.press("w", until=lambda: "nothing is written" in room.text("#choice-about") and "enter choose" in room.screen_text)
    await room.press("end", until=lambda: "▌ peft" in room.screen_text and "enter choose" in room.screen_text)


async def test_while_a_server_uses_the_machine_w_says_so_and_offers_only_copies(room, monkeypatch):
    monkeypatch.setattr("mlxtune.adapters.publish.write_template", lambda *_: [])  # the base is not on this machine
    await move_to(room, "tone")
    with accelerator_lease("chat", Path("shop")):
        await room.press("w", until=lambda: "This machine is in use by a chat or server" in room.screen_text)
        assert [option.name for option in room.screen._options] == ["Cancel", "mlx --lora", "peft"]
        await room.press(choose="mlx --lora", notice="✓ Wrote tone. It is in exports/tone-mlx.")


async def test_a_running_export_is_in_the_header_leaves_only_copies_and_is_stopped(stocked, open_room, monkeypatch):
    stopped: list[str] = []
    monkeypatch.setattr("mlxtune.runs.registry.stop", lambda run: stopped.append(run.id))
    folder = stocked.run("20261124-1700-tone", kind="export", name="tone", alive=True)
    stocked.tell(folder, [started("export", "tone"), ("arm.progress", {"arm": "tuned", "done": 3, "total": 8})])
    assert next_step(stocked.snapshot()).code == "watch_export"
    async with open_room("adapters") as room:
        await move_to(room, "tone")
        assert "● exporting tuned 3/8" in room.text("#top")
        await room.press("w", until=lambda: "The export of tone is using this machine. Wait for it to finish," in room.question)
        assert "or stop it (s). Until then, the adapter can only be copied." in room.question
        assert [option.name for option in room.screen._options] == ["Cancel", "mlx --lora", "peft"]
        await room.press("escape")
        assert "stop" in room.actions
        await room.press("s", choose="stop", until=lambda: stopped == ["20261124-1700-tone"])


async def test_an_export_is_compared_on_the_rows_of_the_recipe_as_it_is_now(shop, open_room):
    shop.run(RUN, steps=60, end=FINISHED, age=3000)
    adapter(shop.folder / "runs" / RUN / "adapter")
    evaluation(shop, arms={"base": base, "tuned": tuned}, run=RUN)
    recipe = shop.folder / "recipes" / "support-json.toml"
    (shop.folder / "runs" / RUN / "recipe.toml").write_text(dump(load(recipe)))
    async with open_room("adapters") as room:
        await move_to(room, RUN)
        await room.press("w", until=lambda: "on all held-out rows" in room.question)
        await room.press("escape")
        recipe.write_text(recipe.read_text().replace("max_tokens = 112", "max_tokens = 112\nrows = 9"))
        await room.press("w", until=lambda: "on 9 held-out rows" in room.question)


async def test_a_failed_export_is_shown_with_its_reason(stocked, open_room, monkeypatch, capsys):
    folder = stocked.run("20261124-1700-tone", kind="export", name="tone", alive=True)
    request = {"adapter": str(stocked.folder / "adapters" / "tone"), "form": "gguf", "precision": "q8_0"}
    write_record(Run(folder), "export", request)
    stocked.tell(folder, [started("export", "tone")])
    async with open_room("adapters", size=(140, 45)) as room:
        await move_to(room, "tone")
        assert "Exports" not in room.text("#adapters-detail")
        stocked.tell(folder, [("run.failed", {"error": "The disk is full.", "hint": "", "code": 3})])
        await observe(room.pilot, stocked.snapshot())
        await room.until(lambda: "✗ The last export, GGUF Q8_0, failed: The disk is full." in room.words("#adapters-detail"))
    monkeypatch.chdir(stocked.folder)
    show_adapter("tone")
    shown = " ".join(capsys.readouterr().out.split())
    assert "✗ The last export, GGUF Q8_0, failed: The disk is full. mlxtune runs show 20261124-1700-tone" in shown


@pytest.mark.parametrize(("lost", "marked"), [(0.2, True), (0.001, False)])
def test_an_export_says_whether_it_is_faithful_and_how_to_use_it(stocked, lost, marked):
    view = next(one for one in read_library(stocked.folder).adapters if one.entry.name == "tone")
    change, loss = LogitDistance(1.0, 1.0, 0.1, 0.9, 50), LogitDistance(lost, lost, 0.001, 0.9, 50)
    proof = Fidelity("gguf", change, loss, ComparedAnswers(24, 10, ()))
    target, commands = Path("exports/20261124-1500-tone/model"), ("llama-server --model exports/model.gguf",)
    export = TriedExport("20261124-1500-tone", "gguf", "q8_0", "", target, 10, proof, commands)
    shown = "\n".join(row.plain for row in draw_detail(replace(view, exports=(export,)), 140, evaluating=False))
    assert "10 of 24" in shown
    assert ("20.0%" in shown, "0.1%" in shown) == (marked, not marked)
    assert commands[0] in shown


async def test_an_adapter_alone_is_copied_without_a_worker(room, shop, monkeypatch):
    monkeypatch.setattr("mlxtune.adapters.publish.write_template", lambda *_: [])  # the base is not on this machine
    await move_to(room, "tone")
    await room.press("w", choose="mlx --lora", notice="✓ Wrote tone. It is in exports/tone-mlx.")
    assert (shop.folder / "exports" / "tone-mlx" / "adapters.safetensors").is_file()
    await room.until(lambda: not room.app.jobs.busy and "exports/tone-mlx" in room.text("#adapters-detail"))
    assert "mlx-lm" in room.text("#adapters-detail")
    await room.press("w", choose="mlx --lora", until=lambda: room.notice.startswith("✗"))
    assert "exports/tone-mlx already exists. Remove or rename it first." in room.notice
    await move_to(room, "voice")
    assert "exports/" not in room.text("#adapters-detail"), "only the adapter that was copied"


async def test_an_unsafe_import_is_refused(room, shop, tmp_path):
    bad = adapter(tmp_path / "pickled")
    (bad / "adapters.safetensors").unlink()
    (bad / "adapter_model.bin").write_bytes(b"\x80\x04")
    await room.until(lambda: bool(names(room)))
    await room.press("i", answer=str(bad), until=lambda: room.notice.startswith("✗"))
    assert not (shop.folder / "adapters" / "pickled").exists()


async def test_an_imported_adapter_is_listed(tmp_path, room, monkeypatch):
    def copy(workspace: Path, folder: Path) -> None:
        adapter(workspace / "adapters" / folder.name)

    (tmp_path / "elsewhere").mkdir()
    monkeypatch.setattr("mlxtune.tui.rooms.adapters.screen.import_adapter", copy)
    await room.until(lambda: bool(names(room)))
    await room.press("i", answer=str(tmp_path / "elsewhere"), notice="✓ Imported elsewhere.")
    await room.until(lambda: "elsewhere" in names(room))


async def test_a_folder_of_an_unknown_user_is_reported_where_it_is_typed(room, shop):
    await room.press("i", until=lambda: room.mode == "")
    await room.type("~no-such-user/adapter")
    await room.press("enter", until=lambda: "there is no user with that name" in room.text("#wrong"))


async def test_the_cursor_stays_on_its_adapter_when_a_newer_one_appears_or_another_program_removes_one(room, shop):
    await move_to(room, "tone")
    adapter(shop.folder / "adapters" / "newest", created="2026-11-23T09:00:00+0000")
    room.screen._read()
    await room.until(lambda: names(room)[0] == "newest")
    assert room.screen.adapter.name == "tone"
    library.remove(shop.folder, "newest")
    await observe(room.pilot, shop.snapshot())
    await room.until(lambda: sorted(names(room)) == ["broken", "tone", "voice"])
    assert room.screen.adapter.name == "tone"


@opens(size=NARROW)
async def test_at_80_columns_g_shows_the_details_and_o_opens_chat(room):
    await move_to(room, "tone")
    assert room.actions[:2] == ["chat", "details"]
    assert "q_proj" in room.text("#adapters-detail"), "below the list"
    await room.press("g", until=lambda: room.mode == "" and "Details" in room.text("#rows"))
    await room.press("C", mode="chat")
    await room.press("A", mode="adapters")
    await room.press("o", mode="chat")
    assert room.app.adapter == "adapters/tone"


@opens(stage=Shop.recipe)
async def test_without_adapters_the_room_offers_training_and_import(room):
    await room.until(lambda: "No adapters yet." in room.text("#invite"))
    assert "T train one   i import one" in room.text("#invite")
    assert room.actions == ["import"]


@picture_sizes
def test_picture(stocked, picture, size):
    picture(stocked, size, "adapters", lambda room: move_to(room, "voice"))
