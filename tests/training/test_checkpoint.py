"""Checkpoints are atomic, damaged ones are skipped, and the right ones are kept."""

import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import pytest

from mlxtune.core.errors import ModelError
from mlxtune.training import checkpoint

FILES = ("adapter_config.json", "adapters.safetensors", "manifest.json", "optimizer.safetensors", "state.json")


def save(run: Path, step: int, keep: int = 2, best: int = 0) -> Path:
    model = nn.Linear(3, 2)
    optimizer = optim.AdamW(0.1)
    optimizer.init(model.trainable_parameters())
    return checkpoint.save(run, model, optimizer, {"rank": 1}, {"step": step, "best": {"step": best}}, keep)


def steps(run: Path) -> list[int]:
    return sorted(int(folder.name) for folder in (run / "checkpoints").iterdir())


def damage(folder: Path, name: str = "state.json", at: int = 0, bit: int = 0) -> None:
    data = bytearray((folder / name).read_bytes())
    data[at] ^= 1 << bit
    (folder / name).write_bytes(data)


def newest(run: Path) -> int:
    saved = checkpoint.newest(run)
    return saved.step if saved else 0


@pytest.mark.parametrize("name", FILES)
def test_flipped_bit_is_detected_and_checkpoint_skipped(tmp_path, name):
    save(tmp_path, 1)
    folder = save(tmp_path, 2)
    assert {path.name for path in folder.iterdir()} == set(FILES)
    whole = (folder / name).read_bytes()
    for at in range(0, len(whole), 1 if name == "manifest.json" else 7):
        damage(folder, name, at, bit=at % 8)
        assert newest(tmp_path) == 1, at
        assert checkpoint.damaged_folders(tmp_path) == [folder]
        assert checkpoint.find(tmp_path, 2) is None
        (folder / name).write_bytes(whole)
    assert newest(tmp_path) == 2
    assert checkpoint.damaged_folders(tmp_path) == []


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("cut", [0, 1])
def test_truncated_or_missing_file_is_detected(tmp_path, name, cut):
    save(tmp_path, 1)
    folder = save(tmp_path, 2)
    if cut:
        (folder / name).write_bytes((folder / name).read_bytes()[:-cut])
    else:
        (folder / name).unlink()
    assert newest(tmp_path) == (2 if cut and name == "manifest.json" else 1)  # its last byte is a newline


def test_newest_is_none_without_valid_checkpoint(tmp_path):
    assert checkpoint.newest(tmp_path) is None
    damage(save(tmp_path, 1))
    assert checkpoint.newest(tmp_path) is None


def test_newest_and_best_are_kept(tmp_path):
    for step in range(1, 7):
        save(tmp_path, step, keep=2, best=min(step, 3))
    assert steps(tmp_path) == [3, 5, 6]


def test_damaged_checkpoint_does_not_displace_valid_one(tmp_path):
    """The run resumed from step 3 and has not reached step 5 again."""
    save(tmp_path, 3)
    damage(save(tmp_path, 5))
    save(tmp_path, 4, keep=1)
    assert steps(tmp_path) == [4]
    assert newest(tmp_path) == 4


def test_checkpoint_is_deleted_atomically(tmp_path, monkeypatch):
    """A run killed during deletion must not report a damaged checkpoint."""
    first = save(tmp_path, 1, keep=1)
    seen: list[Path] = []
    real = shutil.rmtree

    def killed(folder: Path, **options: Any) -> None:
        if Path(folder).parent.name == "checkpoints" and Path(folder).exists():
            seen.append(Path(folder))
            (Path(folder) / "state.json").unlink()
            assert checkpoint.damaged_folders(tmp_path) == []
        real(folder, **options)

    monkeypatch.setattr(shutil, "rmtree", killed)
    save(tmp_path, 2, keep=1)
    assert [folder.name for folder in seen] == [f".{first.name}.old"]
    assert steps(tmp_path) == [2]


def test_partial_checkpoint_is_ignored_and_removed_by_next_save(tmp_path):
    half = tmp_path / "checkpoints" / ".0000002"
    half.mkdir(parents=True)
    (half / "optimizer.safetensors").write_bytes(b"half")
    assert checkpoint.newest(tmp_path) is None
    assert checkpoint.damaged_folders(tmp_path) == []
    save(tmp_path, 2)
    assert [folder.name for folder in (tmp_path / "checkpoints").iterdir()] == ["0000002"]
    assert newest(tmp_path) == 2


def test_saving_step_again_replaces_damaged_checkpoint(tmp_path):
    damage(save(tmp_path, 2))
    save(tmp_path, 2)
    assert newest(tmp_path) == 2


def test_adapter_that_differs_from_recipe_is_refused(tmp_path):
    save(tmp_path, 1)
    other = nn.Linear(4, 2)
    before = mx.array(other.weight)
    with pytest.raises(ModelError, match="do not match the recipe"):
        checkpoint.restore(checkpoint.newest(tmp_path), other)
    assert mx.array_equal(other.weight, before)
