"""The prompts that programs render from an export, compared with those of training: 20 bases, 9 exports, 5 kinds of conversations.

    MLXTUNE_TEMPLATES=FOLDER python benchmarks/programs.py

Each program renders with its own code: mlx-lm, Transformers, llama.cpp from the package xllamacpp, @huggingface/jinja, whose errors LM Studio
reports (needs ``node``), Go's ``text/template`` as Ollama uses it (needs ``go``), and mlxtune's server. A cell counts the kinds whose prompts
are equal. The others are refused: by the trainer if the template cannot express them, or by the export, which renders the same conversations
before it is kept. The folder has the templates that are in no package, by the names in ``tests/conformance/bases.py``.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from common import FOLDER

sys.path.insert(0, str(FOLDER.parent / "tests"))
sys.path.insert(0, str(FOLDER.parent / "tests" / "conformance"))

from bases import Base, write_base
from llama_cpp import Llama
from mlx_lm.utils import load_tokenizer
from table import AVAILABLE, open_chat
from test_lm_studio_prompts import rendered as rendered_by_lm_studio
from test_lm_studio_prompts import request
from test_program_prompts import gguf_file, openai_messages
from test_turn_templates import GO
from transformers import AutoTokenizer

from mlxtune.adapters.export.llama_server import LlamaSettings, llama_server
from mlxtune.adapters.export.turn_template import derive
from mlxtune.adapters.publish import copy_tokenizer
from mlxtune.data.rows import Conversation
from mlxtune.models.portable import plain_prompt, probes
from mlxtune.models.resolve import ModelFolder
from mlxtune.models.template import ChatTemplate
from mlxtune.serving.completions import parse_message

BASES = (
    "Qwen3.5-4B", "Qwen3.8", "Qwen3", "Qwen2.5", "Gemma 4 E2B", "Gemma 3", "Gemma 2", "gpt-oss", "Llama 3.1", "Llama 3.2",
    "Mistral Nemo", "Mistral Small 3.2", "Ministral 3 Reasoning", "SmolLM3", "Granite 4", "LFM2.5", "LFM2", "Phi-4-mini", "Phi-3.5",
    "Nemotron 3 Nano",
)  # fmt: skip
KINDS = {"one turn": (0, "off"), "turns": (1, "off"), "system": (2, "off"), "tools": (6, "off"), "reasoning": (4, "keep")}
PROGRAMS = (
    "mlx: mlx-lm", "adapter: mlx-lm", "hf: Transformers", "peft: Transformers", "llamacpp: llama.cpp",
    "llamacpp --lora: llama.cpp", "lmstudio: JavaScript", "ollama: Go", "serve: mlxtune",
)  # fmt: skip


def main() -> None:
    print(f"| base | {' | '.join(PROGRAMS)} |\n|{'---|' * (len(PROGRAMS) + 1)}")
    total, scratch = Counter[bool | None](), tempfile.TemporaryDirectory()
    program = Path(scratch.name) / "main.go"
    program.write_text(GO)
    subprocess.run(["go", "build", "-o", "ollama", "main.go"], cwd=scratch.name, check=True)
    for base in sorted((base for base in AVAILABLE if base.name in BASES), key=lambda base: BASES.index(base.name)):
        with tempfile.TemporaryDirectory() as folder:
            found = list(compare(base, Path(folder), program.with_name("ollama")))
        cells = [[equal for program, _, equal in found if program == name] for name in PROGRAMS]
        refused = {kind: [name for name, own, equal in found if own == kind and equal is None] for kind in KINDS}
        print(f"| {base.name} | {' | '.join(str(cell.count(True)) for cell in cells)} |", flush=True)
        print(
            f"  {base.name}: refused { ({kind: len(names) for kind, names in refused.items() if names}) }",
            file=sys.stderr,
            flush=True,
        )
        print(f"  different {[(name, kind) for name, kind, equal in found if equal is False]}", file=sys.stderr, flush=True)
        total += Counter(equal for _, _, equal in found)
    print(f"{total[True]} equal, {total[None]} refused, {total[False]} different", file=sys.stderr)


def compare(base: Base, folder: Path, ollama: Path) -> Iterator[tuple[str, str, bool | None]]:
    """Yield each program and kind with whether the prompts are equal; ``None`` if the row or the export is refused."""
    source = ModelFolder(base.name, write_base(base, None, folder / "base"), {}, "")
    file = gguf_file(base, folder / "gguf")
    for mode in ("off", "keep"):
        chat = open_chat(base, mode)
        known = probes(chat.dialect, mode)
        rendered = chat.rendered_prompts()
        rows = {kind: [one for one in rendered if one[0] == known[index]] for kind, (index, own) in KINDS.items() if own == mode}
        exported = folder / mode
        exported.mkdir()
        copy_tokenizer(source, exported, chat.frozen_source)
        with llama_server(LlamaSettings(str(file), template=chat.frozen_source)) as url:
            for kind, one in rows.items():
                if not one:
                    yield from ((program, kind, None) for program in PROGRAMS)
                    continue
                ((row, expected),) = one
                text = chat.render(row.prompt, row.tools, generation_prompt=True).removeprefix(base.bos)
                folders = {"mlx": exported, "adapter": source.folder, "hf": exported, "peft": exported}
                for program in PROGRAMS[:4]:
                    name, _, code = program.partition(": ")
                    tokenizer = load_tokenizer(folders[name]) if code == "mlx-lm" else AutoTokenizer.from_pretrained(folders[name])
                    yield program, kind, plain_prompt(tokenizer, row, chat.frozen_source if name == "adapter" else "") == expected
                body = {"messages": openai_messages(row)} | ({"tools": list(row.tools)} if row.tools else {})
                equal = Llama(url).post("/apply-template", body)["prompt"].removeprefix(base.bos) == text
                yield from ((program, kind, equal) for program in PROGRAMS[4:6])
                (javascript,) = rendered_by_lm_studio([request(chat, row)])
                yield PROGRAMS[6], kind, javascript.removeprefix(base.bos) == text
                yield PROGRAMS[7], kind, _ollama(chat, row, text, base.bos, ollama)
                served = chat.prompt([parse_message(turn, "") for turn in openai_messages(row)], row.tools)
                yield PROGRAMS[8], kind, served == expected


def _ollama(chat: ChatTemplate, row: Conversation, text: str, bos: str, program: Path) -> bool | None:
    """Return whether Go renders the Modelfile's template equally; ``None`` if the export is refused, because it cannot be expressed."""
    turns = derive(chat, bos if chat.render(row.prompt, row.tools, generation_prompt=True).startswith(bos) else "")
    if turns is None or row.tools or turns.render(row.prompt) != text:
        return None
    messages = [{"Role": turn.role, "Content": turn.content} for turn in row.prompt]
    given = json.dumps([{"Template": turns.go, "Messages": messages}])
    done = subprocess.run([program], input=given, capture_output=True, text=True, check=True)
    return bool(json.loads(done.stdout) == [text])


if __name__ == "__main__":
    main()
