"""What each GGUF format costs: an adapter is exported, and llama.cpp's server answers the held-out rows with the result.

    python benchmarks/exports.py WORKSPACE [--adapter last] [--json] [--formats f16 q8_0 q4_k_m lora template]

Each format is written by ``mlxtune export llamacpp``, loaded by the server in the package xllamacpp with its default settings, and compared with the
adapter by ``mlxtune verify-export``. *lora* is the adapter alone on a Q8_0 file of the base. *template* is the first file with another chat
template, which must be noticed. Formats that were exported to WORKSPACE/gguf before are not exported again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from common import FOLDER, environment

sys.path.insert(0, str(FOLDER.parent / "tests"))

from llama_cpp import llama

CONTEXT = 4096
CHATML = "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}{% endfor %}"
WRONG = CHATML + "{{ '<|im_start|>bot\\n' }}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workspace", type=Path)
    parser.add_argument("--adapter", default="last")
    parser.add_argument("--recipe", type=Path, help="a recipe with fewer held-out rows, for the checks in MLX and of the template")
    parser.add_argument("--json", action="store_true", help="one JSON document instead of a table")
    parser.add_argument("--formats", nargs="+", default=["f16", "q8_0", "q4_k_m", "lora", "template"])
    options = parser.parse_args()
    folder = options.workspace / "gguf"
    rows = {}
    for name in options.formats:
        model, lora = files(options, folder, name)
        template = WRONG if name == "template" else ""
        with llama(model, lora, CONTEXT, template=template, exact=False) as server:
            print(f"· {name} at {server.url}", file=sys.stderr, flush=True)
            how = ["--recipe", str(options.recipe)] if options.recipe and template else []
            rows[name] = mlxtune(options, "verify-export", options.adapter, "--endpoint", server.url, *how, "--json")
        print(f"· {name}: {rows[name]['verdict']}", file=sys.stderr, flush=True)
    result = {**environment("xllamacpp", "gguf"), "rows": rows}
    print(json.dumps(result, indent=2) if options.json else "\n".join(table(rows)))


def files(options: argparse.Namespace, folder: Path, name: str) -> tuple[Path, Path | None]:
    """Return the model and the adapter to serve. Export them if they do not exist."""
    if name == "template":
        return folder / options.formats[0] / "model.gguf", None
    if not (folder / name).exists():
        how = ["--lora"] if name == "lora" else ["--precision", name]
        how += ["--recipe", str(options.recipe)] if options.recipe else []
        mlxtune(options, "export", "llamacpp", options.adapter, *how, "--to", str(folder / name), "--force", "--json")
    if name != "lora":
        return folder / name / "model.gguf", None
    base = folder / "base-q8_0.gguf"
    if not base.exists():
        write_base(options, base)
    return base, folder / name / "adapter.gguf"


def write_base(options: argparse.Namespace, file: Path) -> None:
    """Write the base of the adapter in Q8_0, as somebody else would have published it."""
    from mlx_lm.utils import dequantize_model, load_model

    from mlxtune.adapters import library
    from mlxtune.adapters.export import gguf
    from mlxtune.adapters.importers.importer import find_base

    source = find_base(library.find_usable(options.workspace, options.adapter).folder, "")
    model, config = load_model(source.folder)
    gguf.write_gguf(dequantize_model(model), config, source, file, "q8_0")


def mlxtune(options: argparse.Namespace, *arguments: str) -> dict[str, Any]:
    """Run a command in the workspace and return its JSON document. Failed checks (exit code 1) are results, too."""
    command = [sys.executable, "-m", "mlxtune", *arguments]
    done = subprocess.run(command, cwd=options.workspace, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode not in (0, 1):
        sys.exit(f"{' '.join(arguments)} failed with {done.returncode}")
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def table(rows: dict[str, Any]) -> list[str]:
    lines = ["| format | identical answers | whole contract | change in points | verdict |", "|---|---|---|---|---|"]
    for name, row in rows.items():
        rate = row["rates"][-1]
        paired = rate["paired"]
        total = sum(paired[key] for key in ("fixed", "broken", "both", "neither"))
        share = (paired["both"] + paired["fixed"]) / total
        change = f"{100 * rate['change']:+.1f} ({100 * rate['low']:+.1f} to {100 * rate['high']:+.1f})"
        lines.append(f"| {name} | {row['same']} of {row['rows']} | {share:.1%} | {change} | {row['verdict']} |")
    return lines


if __name__ == "__main__":
    main()
