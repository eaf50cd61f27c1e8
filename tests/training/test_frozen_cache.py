"""The cache of frozen-layer outputs returns the same bits from memory, from disk and in any order."""

import errno
import tempfile
from pathlib import Path

import mlx.core as mx
import pytest
from loops import Ways, make

from mlxtune.core.errors import MachineError
from mlxtune.training import frozen_cache
from mlxtune.training.frozen_cache import FrozenCache
from mlxtune.training.loop import TrainingLoop
from mlxtune.training.sft import collate

ORDERS = ([[0, 5, 9], [1, 2], [21, 3]], [[21, 3], [9, 0, 5], [2, 1], [0, 5, 9]])


@pytest.fixture
def loop(tiny: Path, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> TrainingLoop:
    """Return a loop whose rows need several cache groups."""
    monkeypatch.setattr(frozen_cache, "GROUP_TOKENS", 400)
    return make(tiny, tmp_path, ways=Ways(layers=1, half=getattr(request, "param", False)))


def entering(cache: FrozenCache, loop: TrainingLoop, chosen: list[int], lanes: int = 1) -> list[mx.array]:
    return cache.outputs(collate(loop.train, chosen, cache.prefix, lanes))


@pytest.mark.parametrize("loop", [False, True], indirect=True, ids=["float32", "bfloat16"])
def test_spilled_values_equal_computed_values(loop, tmp_path):
    in_memory, spilled = (FrozenCache(loop.stack, loop.train, 0, budget=budget, folder=tmp_path) for budget in (2**30, 0))
    for chosen in ORDERS[0]:
        (one,), (other,) = entering(in_memory, loop, chosen), entering(spilled, loop, chosen)
        assert one.dtype == other.dtype
        assert mx.array_equal(one, other)
    assert in_memory._file is None
    assert spilled._file.seek(0, 2) == in_memory._bytes
    spilled.close()


def test_lookup_order_does_not_matter(loop, tmp_path):
    first, second = (FrozenCache(loop.stack, loop.train, 0, budget=30_000, folder=tmp_path) for _ in range(2))
    early = {tuple(chosen): entering(first, loop, chosen)[0] for chosen in ORDERS[0]}
    late = {tuple(chosen): entering(second, loop, chosen)[0] for chosen in ORDERS[1]}
    assert mx.array_equal(early[0, 5, 9], late[0, 5, 9])
    assert mx.array_equal(early[0, 5, 9][mx.array([2, 0, 1])], late[9, 0, 5])
    assert mx.array_equal(early[21, 3], late[21, 3])


def test_cache_matches_frozen_layers(loop, tmp_path):
    cache = FrozenCache(loop.stack, loop.train, 0, budget=0, folder=tmp_path)
    batch = collate(loop.train, [4, 17, 8], 0)
    (cached,) = cache.outputs(batch)
    plain = loop.stack.hidden_states(batch.parts[0].inputs, until=1)
    for line, at in enumerate([4, 17, 8]):
        length = len(loop.train[at].tokens) - 1
        assert mx.allclose(cached[line, :length], plain[line, :length], atol=1e-6)


def test_each_stream_gets_its_own_rows(loop, tmp_path):
    cache = FrozenCache(loop.stack, loop.train, 0, budget=2**30, folder=tmp_path)
    both = entering(cache, loop, [0, 5, 9, 3], lanes=2)
    assert [array.shape[0] for array in both] == [2, 2]
    (whole,) = entering(cache, loop, [0, 9])
    width = min(whole.shape[1], both[0].shape[1])
    assert mx.array_equal(both[0][:, :width], whole[:, :width])


def test_scratch_file_is_unlinked(loop, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    cache = FrozenCache(loop.stack, loop.train, 0, budget=0, folder=tmp_path)
    entering(cache, loop, [0, 1])
    assert sorted(tmp_path.rglob("*")) == before
    cache.close()


def test_full_disk_is_reported(loop, tmp_path, monkeypatch):
    def full(**_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    cache = FrozenCache(loop.stack, loop.train, 0, budget=0, folder=tmp_path)
    with pytest.raises(MachineError, match="The disk is full, so the cache of the frozen layers was not saved"):
        entering(cache, loop, [0, 1])
