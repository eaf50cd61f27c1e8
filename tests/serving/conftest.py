import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import openai
import pytest
from scripted_model import make_scripted
from served import NAMES, QUEUE, SCRIPT, SECTIONS, SLOTS, TEMPLATE, openai_api, openai_client, serve_model, write_adapter

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


@pytest.fixture(scope="session")
def workspace(tiny: Path, tiny_adapters: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with the tiny model and three adapters. Tests leave it as it was."""
    folder = tmp_path_factory.mktemp("workspace")
    (folder / "adapters").mkdir()
    (folder / "tiny").symlink_to(tiny)
    for name in NAMES[1:]:
        shutil.copytree(tiny_adapters[name], folder / "adapters" / name)
    return folder


@pytest.fixture(scope="session")
def served(workspace: Path) -> Iterator[SimpleNamespace]:
    """A server with three adapters."""
    with serve_model(workspace, "tiny", slots=SLOTS, queue=QUEUE) as server:
        yield server


@pytest.fixture(scope="session")
def ai(served: SimpleNamespace) -> Iterator[openai.OpenAI]:
    with openai_api(served.url) as client:
        yield client


@pytest.fixture(scope="session")
def calling_ai(tmp_path_factory: pytest.TempPathFactory) -> Iterator[openai.OpenAI]:
    """A model that reasons, says something, and calls a function."""
    folder = tmp_path_factory.mktemp("calls")
    make_scripted(folder / "model", TEMPLATE, SCRIPT)
    with openai_client(folder, "model") as client:
        yield client
