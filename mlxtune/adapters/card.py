"""What goes out with an adapter or an export: a model card with its evaluation in it, and a lineage without a word of this machine."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlxtune.adapters import fidelity
from mlxtune.adapters.entry import AdapterEntry, Score, lineage, tell, told_score
from mlxtune.adapters.layout import LINEAGE, read_layout
from mlxtune.core.errors import InputError, MlxtuneError
from mlxtune.core.files import disk_errors, write_json, write_text
from mlxtune.core.hashing import sha256_file
from mlxtune.core.text import one_line, plural
from mlxtune.evaluation import markdown
from mlxtune.evaluation import report as reports
from mlxtune.evaluation.contract import LABELS
from mlxtune.evaluation.markdown import plain
from mlxtune.models import bundled
from mlxtune.recipe.parent import CONFIG, WEIGHTS

README = "README.md"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_BUNDLED = ("HuggingFaceTB/SmolLM2-135M-Instruct", "apache-2.0")
_OPEN = ("v", "mlxtune", "made", "run", "base_fingerprint", "method", "steps", "validation", "recipe_hash", "data_hash")


@dataclass(frozen=True)
class Base:
    """What a lineage calls a base (no path), and what the world does: its id on the hub and its licence, empty where not known."""

    name: str
    hub_id: str
    licence: str


def known_base(name: str, licence: str = "") -> Base:
    """The base that is called ``name`` here. A folder of this machine is told by its last name alone."""
    if name == bundled.ALIAS:
        return Base(name, *_BUNDLED)
    if _HUB_ID.fullmatch(name) and not Path(name).exists():
        return Base(name, name, licence or told_licence(Path(name)))
    return Base(Path(name).name, "", licence or told_licence(Path(name)))


def told_licence(folder: Path) -> str:
    """The licence that the card of the model in ``folder`` names; empty where there is none."""
    try:
        text = (folder / README).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""
    head = re.match(r"---\n(.*?)\n---", text, re.DOTALL)
    found = re.search(r"^license:\s*([\w.-]+)\s*$", head[1], re.MULTILINE) if head else None
    return found[1] if found else ""


def stage(entry: AdapterEntry, base: Base, folder: Path) -> list[str]:
    """Write what is published of ``entry`` into ``folder``, but for the weights themselves; returns the names.

    The configuration and the lineage name no path of this machine. Raises ``ModelError`` when the adapter cannot be read.
    """
    found = read_layout(entry.folder)
    write_json(folder / CONFIG, found.config | {"model": base.hub_id or base.name})
    told = _open(lineage(entry.folder)) | {"base": base.name, "weights": sha256_file(entry.weights)}
    scored = {"evaluation": tell(entry.score)} if entry.score else {}
    parent = {"parent": {"sha256": entry.parent.sha256, "run": entry.parent.run}} if entry.parent else {}
    write_json(folder / LINEAGE, told | scored | parent)
    write_text(folder / README, card(entry, base))
    return [CONFIG, LINEAGE, README]


def write_adapter(entry: AdapterEntry, folder: Path) -> list[str]:
    """Write the adapter alone to ``folder``, as it would be published; returns the names of its files.

    Raises ``InputError`` when ``folder`` is there already.
    """
    if folder.exists():
        raise InputError(f"{folder} is there already, so nothing is written over it.", mend="Choose another place with --to.")
    scratch = folder.with_name(f".{folder.name}.partial")
    with disk_errors(str(folder)):
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        try:
            names = stage(entry, known_base(entry.base), scratch)
            shutil.copyfile(entry.weights, scratch / WEIGHTS)
            os.rename(scratch, folder)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return [WEIGHTS, *names]


def card(entry: AdapterEntry, base: Base) -> str:
    """The model card of an adapter, as Markdown."""
    kind = "DoRA" if entry.kind == "dora" else "LoRA"
    what = f"A {kind} adapter of rank {entry.rank} for {_linked(base)}, trained with [MLX](https://github.com/ml-explore/mlx) by mlxtune."
    run = f'mlx_lm.generate --model {base.hub_id or "BASE"} --adapter-path FOLDER --prompt "…"'
    facts = [
        ("method", entry.method), ("rank, scale", f"{entry.rank}, {entry.scale:g}"), ("layers", str(entry.layers)),
        ("modules", ", ".join(target.rsplit(".", 1)[-1] for target in entry.targets)), ("numbers", f"{entry.parameters:,}"),
        ("weights of the base", entry.base_hash[:16]), ("recipe", entry.recipe_hash[:16]), ("data", entry.data_hash[:16]),
        ("trained on from", entry.parent.run or entry.parent.sha256[:16] if entry.parent else ""),
    ]  # fmt: skip
    return _card(entry.name, base, what, run, entry.score, facts, ["lora"], "adapter")


def export_card(name: str, folder: Path, base: Base) -> str:
    """The model card of the export in ``folder``. Raises ``InputError`` when that is no export of ours."""
    told = lineage(folder)
    own = _inner(told)
    proof = fidelity.load(folder)
    form = {"quantized": "quantised again", "gguf": "as GGUF"}.get(proof.form, "not quantised")
    what = (
        f"{_linked(base)} with a {'DoRA' if own.get('kind') == 'dora' else 'LoRA'} adapter in its weights, {form}, made by mlxtune."
    )
    facts = [
        ("export", proof.sentence),
        ("rank, scale", f"{own.get('rank')}, {own.get('scale')}"),
        ("run", str(own.get("run") or "")),
    ]
    run = 'llama-cli -m model.gguf -p "…"' if proof.form == "gguf" else 'mlx_lm.generate --model FOLDER --prompt "…"'
    return _card(name, base, what, run, told_score(told), facts, [], "model")


def open_lineage(folder: Path, base: Base) -> dict[str, Any]:
    """The lineage of the export in ``folder``, for anyone."""
    told = lineage(folder)
    own = _inner(told)
    kept = {key: own[key] for key in ("kind", "rank", "scale", "weights") if key in own}
    scored = {"evaluation": told["evaluation"]} if told_score(told) else {}
    return _open(told) | {"export": told.get("export"), "base": base.name, "adapter": kept | _open(own)} | scored


def _card(
    name: str, base: Base, what: str, run: str, score: Score | None, facts: Sequence[tuple[str, str]], tags: list[str], noun: str
) -> str:
    head = ["---", "library_name: mlx", "pipeline_tag: text-generation"]
    head += [f"base_model: {base.hub_id}"] if base.hub_id else []
    head += [f"base_model_relation: {noun if noun == 'adapter' else 'finetune'}"] if base.hub_id else []
    head += [f"license: {base.licence}"] if re.fullmatch(r"[\w.-]+", base.licence) else []
    head += ["tags:", *(f"- {tag}" for tag in ("mlx", "mlxtune", *tags)), "---"]
    licence = (
        f"The base is under {plain(base.licence)}; what is made of it is bound by that too."
        if base.licence
        else "The licence of the base is not known here: look it up before you use or pass this on."
    )
    body = markdown.table(["", ""], [[plain(key), plain(value)] for key, value in facts if value])
    blocks = ["\n".join(head), f"# {plain(name)}", what, *_evaluation(score, noun), "## Use", f"```bash\n{run}\n```"]
    return "\n\n".join([*blocks, "## Facts", body, "## Licence", licence]) + "\n"


def _evaluation(score: Score | None, noun: str) -> list[str]:
    if score is None:
        return ["## Evaluation", f"This {noun} was not evaluated: whether it helps is not known."]
    before = {rate.metric: rate for rate in score.before}
    body = []
    for rate in score.after:
        was = before.get(rate.metric)
        cells = [f"{100 * item.share:.1f} % ({100 * item.low:.0f}–{100 * item.high:.0f})" if item else "" for item in (was, rate)]
        body.append([plain(LABELS.get(rate.metric, rate.metric)), *cells])
    table = markdown.table(["", plain(score.rival), "tuned"], body)
    note = f"Share of {plural(score.rows, 'held-out row')} that hold, none of them trained on, with 95 % Wilson intervals."
    held = [plain(f"It is not to be promoted: {one_line(score.reservation)}.")] if score.reservation else []
    blocks = ["## Evaluation", plain(score.verdict), *held, note, table]
    if score.folder is None:
        return [*blocks, "As told by its maker."]
    try:
        report = reports.load(score.folder)
    except MlxtuneError:
        return blocks
    ledger = str(report.facts.get("ledger", ""))
    return [*blocks, *markdown.comparisons(report), *([plain(ledger)] if ledger else [])]


def _inner(told: Mapping[str, Any]) -> dict[str, Any]:
    """What the lineage of an export says of its adapter."""
    own = told.get("adapter")
    return own if isinstance(own, dict) else {}


def _open(told: Mapping[str, Any]) -> dict[str, Any]:
    return {key: told[key] for key in _OPEN if isinstance(told.get(key), str | int | float)}


def _linked(base: Base) -> str:
    shown = plain(one_line(base.hub_id or base.name, 100))
    return f"[{shown}](https://huggingface.co/{base.hub_id})" if base.hub_id else shown
