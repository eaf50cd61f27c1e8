"""The Adapters room: the library with its keys, over adapters of one tiny layer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from mlxtune.adapters import library

from .evaluated import base, evaluation, tuned
from .stage import Shop, footer, shown, until

SIZES = [(80, 24), (140, 45)]


def adapter(folder: Path, rank: int = 8, parent: Path | None = None) -> Path:
    """An adapter folder in mlx-lm's layout, of one matrix."""
    folder.mkdir(parents=True)
    name = "model.layers.0.self_attn.q_proj"
    save_file(
        {f"{name}.lora_a": np.zeros((16, rank), np.float32), f"{name}.lora_b": np.zeros((rank, 16), np.float32)},
        folder / "adapters.safetensors",
    )
    config = {
        "fine_tune_type": "lora",
        "num_layers": 1,
        "lora_parameters": {"rank": rank, "scale": 8.0, "dropout": 0.0, "keys": ["self_attn.q_proj"]},
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    told: dict[str, Any] = {
        "base": "smollm2-135m",
        "base_fingerprint": "f" * 64,
        "method": "sft",
        "made": "2026-11-22T09:00:00+0000",
    }
    if parent:
        told["parent"] = {"folder": str(parent), "sha256": "0" * 64, "lineage": {"run": "tone"}}
    (folder / "mlxtune.json").write_text(json.dumps(told))
    return folder


@pytest.fixture
def stocked(shop: Shop) -> Shop:
    shop.recipe()
    first = adapter(shop.folder / "adapters" / "tone")
    adapter(shop.folder / "adapters" / "voice", rank=4, parent=first)
    bad = adapter(shop.folder / "adapters" / "broken")
    (bad / "adapters.safetensors").write_bytes(b"nothing")
    return shop


async def go(pilot: Any) -> None:
    await pilot.press("A")
    await until(pilot, lambda: "tone" in shown(pilot.app))


async def onto(pilot: Any, name: str) -> None:
    """Put the cursor on an adapter."""
    room = pilot.app.screen
    at = next(at for at, one in enumerate(room._shelf.adapters) if one.name == name)
    room.query_one("#adapters-list").go(at)
    await pilot.pause()


async def test_the_library_is_listed_with_what_is_known_of_each(stocked: Shop) -> None:
    app = stocked.app()
    async with app.run_test(size=(140, 45)) as pilot:
        await go(pilot)
        await onto(pilot, "voice")
        await until(pilot, lambda: "Lineage" in shown(app))
        text = shown(app)
        assert "✗ broken" in text
        assert "LoRA 4" in text
        assert "not measured" in text


async def test_one_that_is_better_and_not_to_be_promoted_is_a_warning(shop: Shop) -> None:
    adapter(shop.folder / "runs" / "20261124-1412-support-json" / "adapter")
    evaluation(shop, arms={"base": base, "tuned": tuned}, run="20261124-1412-support-json", off_task=4)
    app = shop.app()
    async with app.run_test(size=(140, 45)) as pilot:
        await pilot.press("A")
        await until(pilot, lambda: "better, but" in shown(app))
        text = shown(app)
        assert "! 202611" in text
        assert "off-task answers dropped" in text
        assert "✓ Better" not in text


async def test_a_long_name_leaves_a_gap_before_the_kind(shop: Shop) -> None:
    adapter(shop.folder / "adapters" / "20261125-1610-support-json-with-a-long-name")
    app = shop.app()
    async with app.run_test(size=(120, 36)) as pilot:
        await pilot.press("A")
        await until(pilot, lambda: "… LoRA 8" in shown(app))


async def test_a_name_and_tags_are_asked_for_and_written(stocked: Shop) -> None:
    app = stocked.app()
    async with app.run_test(size=(140, 45)) as pilot:
        await go(pilot)
        await onto(pilot, "tone")
        await pilot.press("r")
        await until(pilot, lambda: "What is it called?" in shown(app))
        await pilot.press("end", *"-soft", "enter")
        await until(pilot, lambda: "tone-soft" in {one.name for one in library.all_adapters(stocked.folder)})
        await until(pilot, lambda: "tone-soft" in {one.name for one in app.screen._shelf.adapters} and not app.busy)
        await onto(pilot, "tone-soft")
        await pilot.press("t")
        await until(pilot, lambda: "Which tags has it?" in shown(app))
        await pilot.press(*"best", "enter")
        await until(pilot, lambda: library.find(stocked.folder, "tone-soft").tags == ("best",))
        await until(pilot, lambda: "tone-soft has the tags best." in shown(app) and not app.busy)
        await until(pilot, lambda: app.screen._one.tags == ("best",))
        await pilot.press("t")
        await until(pilot, lambda: "Which tags has it?" in shown(app))
        await pilot.press("end", "ctrl+u", *"-best", "enter")
        await until(pilot, lambda: "tone-soft has no tags." in shown(app))
        assert library.find(stocked.folder, "tone-soft").tags == ()


async def test_what_is_removed_comes_back_with_u(stocked: Shop) -> None:
    app = stocked.app()
    async with app.run_test(size=(140, 45)) as pilot:
        await go(pilot)
        await onto(pilot, "tone")
        await pilot.press("x")
        await until(pilot, lambda: "tone is taken away. 1 adapter went on from it." in shown(app))
        assert not (stocked.folder / "adapters" / "tone").exists()
        await until(pilot, lambda: bool(app.screen._shelf.removed) and not app.busy)
        await pilot.press("u")
        await until(pilot, lambda: (stocked.folder / "adapters" / "tone").exists())


async def test_two_are_held_against_each_other(stocked: Shop) -> None:
    app = stocked.app()
    async with app.run_test(size=(140, 45)) as pilot:
        await go(pilot)
        await onto(pilot, "voice")
        await pilot.press("c")
        await until(pilot, lambda: "Hold voice against which?" in shown(app))
        await pilot.press("enter")
        await until(pilot, lambda: "Two adapters" in shown(app))
        assert "Not held against each other" in shown(app)


async def test_an_export_asks_first_and_its_first_choice_writes_nothing(stocked: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[str] = []
    monkeypatch.setattr("mlxtune.tui.shelf.export", lambda _workspace, key, form: started.append(f"{key} {form}") or "exports/x")
    app = stocked.app()
    async with app.run_test(size=(140, 45)) as pilot:
        await go(pilot)
        await onto(pilot, "tone")
        await pilot.press("f", "enter")
        assert not started
        await pilot.press("f")
        await until(pilot, lambda: "Work tone into its base?" in shown(app))
        await pilot.press("down", "enter")
        await until(pilot, lambda: started == ["adapters/tone fused"])


async def test_one_that_may_not_come_in_is_refused_with_the_reason(stocked: Shop, tmp_path: Path) -> None:
    bad = adapter(tmp_path / "pickled")
    (bad / "adapters.safetensors").unlink()
    (bad / "adapter_model.bin").write_bytes(b"\x80\x04")
    app = stocked.app()
    async with app.run_test(size=(140, 45)) as pilot:
        await go(pilot)
        await pilot.press("i")
        await until(pilot, lambda: "Which adapter?" in shown(app))
        await pilot.press(*str(bad), "enter")
        await until(pilot, lambda: app.answer is not None and app.answer.mark == "✗")
        assert not (stocked.folder / "adapters" / "pickled").exists()


async def test_the_cursor_stays_on_its_adapter_when_a_newer_one_comes(stocked: Shop) -> None:
    app = stocked.app()
    async with app.run_test(size=(140, 45)) as pilot:
        await go(pilot)
        await onto(pilot, "tone")
        told = adapter(stocked.folder / "adapters" / "newest") / "mlxtune.json"
        told.write_text(json.dumps(json.loads(told.read_text()) | {"made": "2026-11-23T09:00:00+0000"}))
        app.screen._read()
        await until(pilot, lambda: "newest" in shown(app))
        assert app.screen._shelf.adapters[0].name == "newest"
        assert app.screen._one.name == "tone"


async def test_a_talks_to_it(stocked: Shop) -> None:
    app = stocked.app()
    async with app.run_test(size=(80, 24)) as pilot:
        await go(pilot)
        await onto(pilot, "tone")
        assert "a chat" in footer(app)
        await pilot.press("d")
        await until(pilot, lambda: "What it is" in shown(app))
        await pilot.press("escape", "a")
        await until(pilot, lambda: app.current_mode == "chat")
        assert app.adapter == "adapters/tone"


@pytest.mark.parametrize("size", SIZES, ids=["80x24", "140x45"])
def test_adapters_empty(shop: Shop, snap_compare: Any, size: tuple[int, int]) -> None:
    async def before(pilot: Any) -> None:
        await pilot.press("A")
        await until(pilot, lambda: "No adapters yet." in shown(pilot.app))

    shop.recipe()
    assert snap_compare(shop.app(), terminal_size=size, run_before=before)


@pytest.mark.parametrize("size", SIZES, ids=["80x24", "140x45"])
def test_adapters_listed(stocked: Shop, snap_compare: Any, size: tuple[int, int]) -> None:
    async def before(pilot: Any) -> None:
        await go(pilot)
        await onto(pilot, "voice")

    assert snap_compare(stocked.app(), terminal_size=size, run_before=before)
