"""llama.cpp's server, from the package xllamacpp: ``python -m mlxtune.adapters.export.llama_server SETTINGS``.

It runs in a process of its own, because llama.cpp aborts on what it cannot compute.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from mlxtune.core.child_process import python_command, python_environment
from mlxtune.core.errors import MachineError
from mlxtune.core.text import one_line


@dataclass(frozen=True)
class LlamaSettings:
    """What a server runs: a GGUF file, and an adapter or a chat template instead of the file's."""

    model: str
    lora: str = ""
    template: str = ""
    context: int = 512
    exact: bool = False  # attention is computed in float32
    fast: bool = False  # all cores and the GPU are used


@contextmanager
def llama_server(settings: LlamaSettings) -> Iterator[str]:
    """Run a server and yield its URL. Raise ``MachineError`` if it does not start."""
    command = python_command(__name__, json.dumps(asdict(settings)))
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=python_environment()
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stderr is not None
            url = process.stdout.readline().strip()
            if not url.startswith("http"):
                reason = one_line(process.stderr.read()[-300:], 200)
                raise MachineError(f"llama.cpp cannot load {Path(settings.model).name}: {reason}")
            yield url
        finally:
            process.kill()


def _serve(given: LlamaSettings) -> None:
    """Serve until the standard input closes."""
    import xllamacpp

    settings = xllamacpp.CommonParams()
    settings.model.path, settings.n_ctx, settings.n_parallel, settings.port = given.model, given.context, 1, 0
    settings.warmup, settings.fit_params, settings.verbosity = False, False, -1
    if not given.fast:
        settings.n_gpu_layers, settings.cpuparams.n_threads, settings.cpuparams_batch.n_threads = 0, 1, 1
    settings.endpoint_props, settings.chat_template = True, given.template
    if given.exact:
        settings.cache_type_k = settings.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        settings.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    if given.lora:
        settings.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(given.lora, 1.0)]
    server = xllamacpp.Server(settings)
    print(server.listening_address, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    _serve(LlamaSettings(**json.loads(sys.argv[1])))
