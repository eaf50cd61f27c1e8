"""Recognize GPU errors by their text. MLX raises all of them as ``RuntimeError``, with Metal's description.

The texts are those of MLX's ``metal/device.cpp`` and ``metal/allocator.cpp``, and of Metal as quoted in ml-explore/mlx#3267, #3317
and #479. For example: ``[METAL] Command buffer execution failed: Impacting Interactivity
(0000000e:kIOGPUCommandBufferCallbackErrorImpactingInteractivity).``
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

from mlxtune.core import settings
from mlxtune.core.errors import GpuError

RELAXED_WATCHDOG = "AGX_RELAX_CDM_CTXSTORE_TIMEOUT"  # read by Apple's GPU driver; users report that it helps (ml-explore/mlx#3267)
SMALLER_COMMANDS = {"MLX_MAX_OPS_PER_BUFFER": 10, "MLX_MAX_MB_PER_BUFFER": 10}  # MLX's defaults are 20 to 50, depending on the chip

_SMALLER_BATCHES = "Use smaller batches (training.batch_tokens, evaluation.batch_size), shorter texts, or a smaller model."
_WATCHDOG = f"Let the display sleep meanwhile. {_SMALLER_BATCHES}"
_AGAIN = "Try again. If it fails again, restart the Mac, and report the last line of the log."
_KINDS = (  # the text of an error, and a message and a hint in plain language
    (r"Impacting ?Interactivity", "macOS stopped the GPU work because the display needed the GPU.", _WATCHDOG),
    (r"CallbackErrorTimeout|Caused GPU Timeout Error", "macOS stopped the GPU work because one command took too long.", _WATCHDOG),
    (
        r"CallbackErrorOutOfMemory|Command buffer execution failed: Insufficient Memory", "The GPU ran out of memory.",
        f"Close other apps. {_SMALLER_BATCHES}",
    ),
    (r"Resource limit \(\d+\) exceeded", "MLX reached the GPU's limit on the number of buffers.", _SMALLER_BATCHES),
    (r"Command buffer execution failed", "The GPU failed while it ran a command.", _AGAIN),
)  # fmt: skip


def gpu_error(text: str) -> GpuError | None:
    """Return the GPU error that ``text`` describes, or ``None``."""
    for pattern, message, hint in _KINDS:
        if re.search(pattern, text):
            if hint is _WATCHDOG and not settings.load().relax_gpu_watchdog:
                hint = f"{hint} Remove relax_gpu_watchdog from {settings.path()}."
            return GpuError(message, hint=hint)
    return None


@contextmanager
def suppress_model_errors() -> Iterator[None]:
    """Ignore an error of a trial computation, but not of the GPU.

    Architectures fail in different ways, and some incompatibilities between caches and layers appear only when they run.
    """
    try:
        yield
    except Exception as error:
        if gpu_error(str(error)):
            raise


def watchdog_environment() -> dict[str, str]:
    """Return the variable that relaxes the GPU watchdog, unless the user's settings or environment decide otherwise."""
    is_set = RELAXED_WATCHDOG in os.environ
    return {} if is_set or not settings.load().relax_gpu_watchdog else {RELAXED_WATCHDOG: "1"}


def smaller_commands() -> dict[str, str]:
    """Return variables that make MLX submit smaller GPU commands. The results are the same."""
    return {name: str(min(value, int(os.environ.get(name) or value))) for name, value in SMALLER_COMMANDS.items()}
