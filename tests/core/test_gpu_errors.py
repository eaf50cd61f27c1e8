"""GPU errors are recognized by the texts of MLX and Metal, quoted from their sources and from issues."""

import sys
from pathlib import Path

import pytest

from mlxtune.core import settings
from mlxtune.core.child_process import ChildProcess, python_environment
from mlxtune.core.errors import GpuError
from mlxtune.core.gpu_errors import RELAXED_WATCHDOG, gpu_error, smaller_commands

FAILED = "[METAL] Command buffer execution failed: "
ABORTED = "libc++abi: terminating due to uncaught exception of type std::runtime_error: "


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLXTUNE_HOME", str(tmp_path))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            FAILED + "Impacting Interactivity (0000000e:kIOGPUCommandBufferCallbackErrorImpactingInteractivity).",
            "the display needed",
        ),
        (ABORTED + FAILED + "Impacting Interactivity", "the display needed"),
        (FAILED + "Caused GPU Timeout Error (00000002:kIOGPUCommandBufferCallbackErrorTimeout).", "took too long"),
        (FAILED + "Insufficient Memory (00000008:kIOGPUCommandBufferCallbackErrorOutOfMemory).", "ran out of memory"),
        ("[metal::malloc] Resource limit (499000) exceeded.", "limit on the number of buffers"),
        (FAILED + "Caused GPU Hang Error (00000003:kIOGPUCommandBufferCallbackErrorHang).", "The GPU failed"),
        (
            FAILED + "Discarded (victim of GPU error/recovery) (00000005:kIOGPUCommandBufferCallbackErrorInnocentVictim).",
            "The GPU failed",
        ),
    ],
)
def test_gpu_errors_are_named_with_a_hint(text: str, words: str) -> None:
    error = gpu_error(text)
    assert error is not None
    assert words in error.message
    assert error.hint


@pytest.mark.parametrize("text", ["", "shape mismatch", "[malloc] Unable to allocate 9 bytes.", "Read timed out. (timeout=5)"])
def test_other_errors_are_not_gpu_errors(text: str) -> None:
    assert gpu_error(text) is None


def test_the_hint_names_the_setting_that_turned_the_relaxed_watchdog_off() -> None:
    error = gpu_error(FAILED + "Impacting Interactivity")
    assert error is not None
    assert "relax_gpu_watchdog" not in error.hint
    settings.path().write_text("relax_gpu_watchdog = false\n")
    error = gpu_error(FAILED + "Impacting Interactivity")
    assert error is not None
    assert f"Remove relax_gpu_watchdog from {settings.path()}." in error.hint


def test_the_users_environment_takes_precedence(monkeypatch: pytest.MonkeyPatch) -> None:
    assert python_environment()[RELAXED_WATCHDOG] == "1"
    monkeypatch.setenv(RELAXED_WATCHDOG, "0")
    assert python_environment()[RELAXED_WATCHDOG] == "0"
    monkeypatch.setenv("MLX_MAX_OPS_PER_BUFFER", "5")
    monkeypatch.setenv("MLX_MAX_MB_PER_BUFFER", "50")
    assert smaller_commands() == {"MLX_MAX_OPS_PER_BUFFER": "5", "MLX_MAX_MB_PER_BUFFER": "10"}


def test_a_child_process_that_dies_of_a_gpu_error_says_so(tmp_path: Path) -> None:
    script = tmp_path / "child.py"
    script.write_text(f"raise RuntimeError({FAILED + 'Impacting Interactivity'!r})\n")
    with (
        pytest.raises(GpuError, match="the display needed the GPU"),
        ChildProcess("unused", name="The model process", command=[sys.executable, str(script)]) as child,
    ):
        child.call("anything")
