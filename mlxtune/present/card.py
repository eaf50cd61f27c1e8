"""Describe an adapter or an export as a model card, in Markdown."""

import re
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment

from mlxtune.adapters.entry import AdapterEntry, AdapterScore, read_lineage, score_from_lineage
from mlxtune.adapters.export import fidelity
from mlxtune.adapters.export.tried import tried_exports
from mlxtune.adapters.publish import Library, PublishedBase, adapter_lineage
from mlxtune.core.errors import MlxtuneError
from mlxtune.core.hashing import sha256_json
from mlxtune.core.text import one_line, plural
from mlxtune.evaluation import report as reports
from mlxtune.evaluation.scorers.registry import metric_label
from mlxtune.models import catalog
from mlxtune.present.blocks import Document, Facts
from mlxtune.present.export import LOST, exports_table, identical
from mlxtune.present.labels import limits_text, percent, word
from mlxtune.present.markdown import blocks, grid, plain
from mlxtune.present.report import comparison_tables
from mlxtune.present.verdict import caveat_text, history_facts, verdict_text


def adapter_card(entry: AdapterEntry, base: PublishedBase, library: Library = "mlx") -> str:
    facts = {
        "method": entry.method, "rank, scale": f"{entry.rank}, {entry.scale:g}", "layers": str(entry.layers),
        "modules": ", ".join(target.rsplit(".", 1)[-1] for target in entry.targets), "parameters": f"{entry.parameters:,}",
        "base weights": entry.base_hash[:16], "recipe": entry.recipe_hash[:16], "data": entry.data_hash[:16],
        "parent": entry.parent.run or entry.parent.sha256[:16] if entry.parent else "", **_data_facts(read_lineage(entry.folder)),
    }  # fmt: skip
    kind = "DoRA" if entry.kind == "dora" else "LoRA"
    mlx = "[MLX](https://github.com/ml-explore/mlx)"
    summary = f"A rank-{entry.rank} {kind} adapter for {_link(base)}, trained by mlxtune with {mlx}."
    template = '--chat-template "$(cat FOLDER/chat_template.jinja)"'
    command = f"mlx_lm.server --model {base.hub_id or 'BASE'} --adapter-path FOLDER {template}"
    if library == "peft":
        served = catalog.original(entry.base) or base.hub_id or "BASE"
        command = f"vllm serve {served} --enable-lora --lora-modules {entry.name}=FOLDER"
    table = exports_table(tried_exports(entry))
    body = [[plain(cell.text) for cell in row] for row in table.rows]
    exports = grid([plain(column.label) for column in table.columns], body) if body else ""
    return _render(entry.name, base, summary, command, entry.score, facts, "adapter", library, exports)


def export_card(name: str, folder: Path, base: PublishedBase) -> str:
    """Return the model card of the export in ``folder``. Raise ``InputError`` if it is not an mlxtune export."""
    lineage = read_lineage(folder)
    adapter = adapter_lineage(lineage)
    proof = fidelity.load(folder)
    fused = {"quantized": "requantized", "gguf": "in GGUF format"}.get(proof.form, "not quantized")
    kind = "DoRA" if adapter.get("kind") == "dora" else "LoRA"
    facts = {
        "fidelity": word(proof.outcome),
        LOST: percent(proof.lost_share),
        "identical answers": identical(proof.answers),
        "rank, scale": f"{adapter.get('rank')}, {adapter.get('scale')}",
        "run": str(adapter.get("run") or ""),
        **_data_facts(adapter),
    }
    command = {
        "gguf": 'llama-cli -m model.gguf -p "…"',
        "gguf-lora": 'llama-cli -m BASE.gguf --lora adapter.gguf --chat-template-file chat_template.jinja -p "…"',
    }.get(proof.form, 'mlx_lm.generate --model FOLDER --prompt "…"')
    summary = f"{_link(base)} with a {kind} adapter fused into its weights, {fused}, made by mlxtune."
    if proof.form == "gguf-lora":
        summary = f"A {kind} adapter for {_link(base)} in GGUF format, made by mlxtune."
    return _render(name, base, summary, command, score_from_lineage(lineage), facts, "model")


def _render(
    name: str, base: PublishedBase, summary: str, command: str, score: AdapterScore | None, facts: Mapping[str, str], noun: str,
    library: Library = "mlx", exports: str = "",
) -> str:  # fmt: skip
    environment = Environment(trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True, autoescape=False)
    environment.filters["plain"] = plain
    template = environment.from_string(files("mlxtune.present").joinpath("card.md.j2").read_text("utf-8"))
    return template.render(
        name=name, base=base, summary=summary, command=command, score=score, noun=noun, library=library,
        relation="adapter" if noun == "adapter" else "finetune",
        license=base.license if re.fullmatch(r"[\w.-]+", base.license) else "",
        tags=[library, "mlxtune", *(["lora"] if noun == "adapter" else [])],
        rows=plural(score.rows, "held-out row") if score else "",
        verdict=verdict_text(score.verdict) if score else "",
        caveat=caveat_text(score.caveat) if score else "",
        rates=_rates(score) if score else "",
        evidence=_evidence(score) if score else [],
        exports=exports,
        facts=grid(["", ""], [[plain(key), plain(value)] for key, value in facts.items() if value]),
    )  # fmt: skip


def _rates(score: AdapterScore) -> str:
    before = {rate.metric: rate for rate in score.before}
    body = []
    for rate in score.after:
        pair = (before.get(rate.metric), rate)
        cells = [f"{percent(item.share)} ({limits_text(item.low, item.high)})" if item else "" for item in pair]
        fewer = f", {plural(rate.total, 'row')}" if rate.total < score.rows else ""
        body.append([plain(f"{metric_label(rate.metric)}{fewer}"), *cells])
    return grid(["", plain(score.rival), plain(score.arm)], body)


def _evidence(score: AdapterScore) -> list[str]:
    """Return the paired comparisons and the ledger of held-out evaluations, or a note that the score is unverified."""
    if score.folder is None:
        return ["These rates were reported by the adapter's author and have not been verified."]
    try:
        report = reports.load(score.folder)
    except MlxtuneError:
        return []
    document: Document = (*comparison_tables(report), Facts(tuple(history_facts(report.holdout))))
    return [part for block in document for part in blocks(block) if part]


def _data_facts(lineage: Mapping[str, Any]) -> dict[str, str]:
    """Return how many rows of the adapter with this ``lineage`` are generated and replayed, and how rows were rendered if not by default."""
    thinking, template, replayed = (lineage.get(key) for key in ("thinking", "template", "replay_rows"))
    generated, rows = (lineage.get(key) for key in ("generated_rows", "training_rows"))
    share = ""
    if isinstance(generated, int) and isinstance(rows, int) and rows:
        share = f"{generated:,} of {plural(rows, 'training row')} ({generated / rows:.1%}), each accepted in a review"
    return {
        "generated by a model": share,
        "thinking": str(thinking) if thinking not in (None, "off") else "",
        "date in its prompts": str(lineage.get("date") or ""),
        "chat template": sha256_json(template)[:16] if template else "",
        "replay": f"{plural(int(replayed), 'training row')} with the base's own answers" if isinstance(replayed, int) else "",
    }


def _link(base: PublishedBase) -> str:
    shown = plain(one_line(base.hub_id or base.name, 100))
    return f"[{shown}](https://huggingface.co/{base.hub_id})" if base.hub_id else shown
