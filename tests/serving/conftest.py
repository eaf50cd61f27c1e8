from pathlib import Path

import pytest
from served import SECTIONS, write_adapter

from mlxtune.adapters.entry import AdapterEntry
from mlxtune.core.errors import InputError
from mlxtune.models.load import LoadedModel, load
from mlxtune.models.resolve import resolve
from mlxtune.serving.engine import Engine


@pytest.fixture(scope="session")
def tiny_loaded(tiny: Path) -> LoadedModel:
    return load(resolve(str(tiny)))


@pytest.fixture(scope="session")
def tiny_adapters(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Five adapters for the tiny model with different ranks, targets or kinds."""
    folder = tmp_path_factory.mktemp("adapters")
    return {name: write_adapter(tiny, folder / name, section, seed) for seed, (name, section) in enumerate(SECTIONS.items())}


@pytest.fixture
def make_engine(tiny_loaded: LoadedModel, tiny_adapters: dict[str, Path]):
    """Return a function that creates an engine on the tiny model with its adapters."""

    def find(name: str) -> AdapterEntry:
        if name not in tiny_adapters:
            raise InputError(f"There is no adapter named {name}.")
        return AdapterEntry(name, name, tiny_adapters[name])

    def make(**options) -> Engine:
        return Engine(tiny_loaded, find, lambda event: None, **options)

    return make
