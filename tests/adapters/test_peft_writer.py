"""An adapter in PEFT's format is the same adapter: bit for bit after importing it again, and by PEFT's own definition."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from tiny_architectures import make
from tiny_model import CHATML, make_tiny
from transformers import AutoTokenizer

from mlxtune.adapters import library, publish
from mlxtune.adapters.export import peft_writer, program_prompts
from mlxtune.adapters.export.formats import copy_adapter, find_format
from mlxtune.adapters.importers import peft
from mlxtune.adapters.importers.importer import import_adapter
from mlxtune.adapters.layout import read_layout
from mlxtune.adapters.publish import copy_tokenizer
from mlxtune.core import child_process
from mlxtune.core.errors import GateError, InputError, ModelError
from mlxtune.models import lora
from mlxtune.models.resolve import ModelFolder, resolve
from mlxtune.present.card import adapter_card
from mlxtune.recipe import AdapterSection

from .conftest import Exports, arrays, config, replace_template, write, write_template
from .test_importers import logits, merged


@pytest.mark.parametrize("kind", ["lora", "dora"])
@pytest.mark.parametrize(("rank", "scale"), [(4, 2.0), (6, 0.1), (7, 20.0)])
@pytest.mark.parametrize("layers", [(0, 1), (1,)])
def test_round_trip_is_the_identity(
    empty_workspace: Path, source: ModelFolder, tiny: Path, kind: str, rank: int, scale: float, layers: tuple[int, ...]
) -> None:
    tensors = arrays(rank, kind=kind, layers=layers, targets=("q_proj", "down_proj"))
    folder = write(
        empty_workspace / "own",
        tensors,
        config(rank, kind=kind, scale=scale, layers=2 - layers[0]),
        {"run": "r", "date": "2026-11-26"},
    )
    first = import_adapter(empty_workspace, folder, "first", str(tiny))
    peft_writer.write(first, source, empty_workspace / "out folder", adapter_card)
    again = import_adapter(empty_workspace, empty_workspace / "out folder", "again", str(tiny))
    before, after = read_layout(first.folder), read_layout(again.folder)
    assert after.config == before.config
    assert (again.run, again.date) == ("r", "2026-11-26")
    copies = load_file(again.weights)
    assert copies.keys() == tensors.keys()
    assert all(np.array_equal(copies[name].view(np.uint32), tensors[name].view(np.uint32)) for name in tensors)


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_exported_adapter_matches_peft_definition(
    empty_workspace: Path, source: ModelFolder, tiny: Path, kind: str, shop: Callable[..., Path]
) -> None:
    shop(kind=kind)
    entry = library.find(empty_workspace, "last")
    names = peft_writer.write(entry, source, empty_workspace / "out", adapter_card)
    settings = json.loads((empty_workspace / "out" / "adapter_config.json").read_text())
    assert {path.name for path in (empty_workspace / "out").iterdir()} == {*names}
    assert settings["use_dora"] == (kind == "dora")
    tensors = load_file(empty_workspace / "out" / peft.FILE)
    assert {name.removeprefix("base_model.model.").rpartition(".lora_")[0] for name in tensors} == {*settings["target_modules"]}
    expected = logits(tiny, weights=merged(tiny, tensors, settings["lora_alpha"] / settings["r"]))
    np.testing.assert_allclose(logits(tiny, entry.folder), expected, rtol=1e-4, atol=1e-4)
    card = (empty_workspace / "out" / "README.md").read_text()
    assert "library_name: peft" in card
    assert "vllm serve BASE --enable-lora" in card


def test_the_copies_have_the_template_that_was_trained(
    empty_workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publish, "write_template", write_template)
    thinks = "{% if enable_thinking is not defined or enable_thinking %}<think>{% endif %}"
    base = make_tiny(tmp_path / "base", template=CHATML.replace("{% endif %}", f"{thinks}{{% endif %}}"))
    lineage = {"run": "r", "thinking": "off", "base": str(base)}
    folder = write(empty_workspace / "own", arrays(), config(), lineage)
    entry = import_adapter(empty_workspace, folder, "first", str(base))
    for form, option in (("peft", ""), ("mlx", "--lora")):
        out, names = copy_adapter(empty_workspace, entry, find_format(form, option), adapter_card)
        assert {file.name for file in out.iterdir()} == {*names}
        loaded = {"peft": out, "mlx": base}[form]  # where the program finds the tokenizer
        named = {} if form == "peft" else {"chat_template": (out / "chat_template.jinja").read_text()}
        prompt = AutoTokenizer.from_pretrained(loaded).apply_chat_template(
            [{"role": "user", "content": "Hi"}], add_generation_prompt=True, tokenize=False, **named
        )
        assert prompt == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize("library_name", ["mlx", "peft"])
def test_the_copies_are_read_back_and_compared_on_held_out_rows(exports: Exports, library_name: str) -> None:
    once = "{% for message in messages %}{% if message.role != 'system' or loop.first %}"  # drops later system turns
    template = CHATML.replace("{% for message in messages %}", once).replace("{% endfor %}", "{% endif %}{% endfor %}")
    replace_template(exports.base, template)
    rows = []
    for line in (exports.workspace / "chat.jsonl").read_text().splitlines():
        *turns, answer = json.loads(line)["messages"]
        rows.append({"messages": [*turns, {"role": "system", "content": "Answer in French."}, answer]})
    (exports.workspace / "chat.jsonl").write_text("\n".join(map(json.dumps, rows)))
    params = {"base": str(exports.base), "thinking": "off", "date": "2026-11-26", "template": "", "library": library_name}
    params |= {"run": str(exports.adapter.parent), "folder": str(exports.out)}
    exports.out.mkdir()
    request = child_process.Request(1, "write", params, None)
    assert "chat_template.jinja" in program_prompts._write(request)
    with exports.monkeypatch.context() as patch:
        patch.setattr("mlxtune.models.template.message_converter", lambda *_: "")  # so that only the rows show the difference
        with pytest.raises(GateError, match="render the prompts"):
            program_prompts._write(request)
        (exports.workspace / "chat.jsonl").unlink()
        assert program_prompts._write(request)
    spoilt = "{% for message in messages %}{{ message.content }}{% endfor %}"
    exports.monkeypatch.setattr(
        program_prompts, "copy_tokenizer", lambda source, folder, _, patterns: copy_tokenizer(source, folder, spoilt, patterns)
    )
    with pytest.raises(GateError, match="render the prompts"):
        program_prompts._write(request)


def test_scale_survives_the_division_by_rank(empty_workspace: Path) -> None:
    for rank in range(1, 65):
        for scale in (*(round(0.1 * tenth, 1) for tenth in range(1, 400)), 4 / 3, 16 / rank, 20 / rank, 16 / math.sqrt(rank)):
            alpha, rslora = peft_writer._alpha(scale, rank)
            config = {"peft_type": "LORA", "r": rank, "lora_alpha": alpha, "use_rslora": rslora}
            assert peft._parameters(config, empty_workspace)[2] == scale, (rank, scale)


def test_embedding_is_exported_unless_it_is_tied_to_the_head(tmp_path: Path, empty_workspace: Path) -> None:
    for name, tied in (("llama", False), ("smollm2", True)):
        source = resolve(str(make(tmp_path / name, name)))
        from mlx_lm.utils import load_model

        model, _ = load_model(source.folder)
        settings = lora.add(model, AdapterSection(rank=4, targets=["q_proj", "embed_tokens"]), seed=1)
        lora.save(tmp_path / f"{name}-adapter", lora.adapter_arrays(model), settings)
        entry = import_adapter(empty_workspace, tmp_path / f"{name}-adapter", name, str(source.folder))
        if tied:
            with pytest.raises(ModelError, match=r"embed_tokens is tied to the head"):
                peft_writer.write(entry, source, tmp_path / f"{name}-out", adapter_card)
            continue
        peft_writer.write(entry, source, tmp_path / f"{name}-out", adapter_card)
        tensors = load_file(tmp_path / f"{name}-out" / peft.FILE)
        assert tensors["base_model.model.model.embed_tokens.lora_embedding_A"].shape == (4, 320)
        again = import_adapter(empty_workspace, tmp_path / f"{name}-out", f"{name}-again", str(source.folder))
        first, second = load_file(entry.weights), load_file(again.weights)
        assert first.keys() == second.keys()
        assert all(np.array_equal(first[key], second[key]) for key in first)


def test_unsupported_architecture_and_existing_folder_are_refused(
    empty_workspace: Path, source: ModelFolder, shop: Callable[..., Path]
) -> None:
    shop()
    entry = library.find(empty_workspace, "last")
    with pytest.raises(ModelError, match="different module names for mamba"):
        peft_writer.write(
            entry, replace(source, config={**source.config, "model_type": "mamba"}), empty_workspace / "out", adapter_card
        )
    (empty_workspace / "out").mkdir()
    with pytest.raises(InputError, match="already exists"):
        peft_writer.write(entry, source, empty_workspace / "out", adapter_card)
    assert not list(empty_workspace.glob(".out*"))
