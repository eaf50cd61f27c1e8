"""Exports match the adapter, are measured against it, and are refused when quality is lost."""

import errno
import json
import os
import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from gguf import GGUFReader
from llama_cpp import llama
from mlx.utils import tree_flatten
from mlx_lm.tuner.utils import load_adapters
from mlx_lm.utils import dequantize_model, load_model, load_tokenizer
from mlx_lm.utils import load as load_stock
from tiny_architectures import make
from tiny_model import make_tiny
from transformers import AutoTokenizer
from waiting import finish as finished

from mlxtune.adapters import fuse, library
from mlxtune.adapters.export import export_worker as exporting
from mlxtune.adapters.export import fidelity, finish, gguf, logits, start
from mlxtune.adapters.export.compared_rows import EXPORTED, ComparedRows
from mlxtune.adapters.export.fidelity import ComparedAnswers, Fidelity, LogitDistance, TriedSize
from mlxtune.core import journal
from mlxtune.core.errors import DataError, GateError, InputError, MachineError, ModelError
from mlxtune.core.files import read_json, write_json
from mlxtune.evaluation import outputs
from mlxtune.evaluation.holdout import ledger
from mlxtune.evaluation.off_task import prompts
from mlxtune.evaluation.verdict import Comparison, compare
from mlxtune.models import lora, template
from mlxtune.models.load import load as load_own
from mlxtune.models.resolve import ModelFolder, resolve
from mlxtune.present.blocks import Facts
from mlxtune.present.export import fidelity_document, sizes_table
from mlxtune.recipe import AdapterSection
from mlxtune.runs import events
from mlxtune.runs.worker import Worker

from .conftest import Exports, arrays, config, in_float32, replace_template, shaken, write

pytestmark = pytest.mark.slow

TOKENS = mx.array([[70, 71, 72, 80, 81, 90]])


def applied(base: Path, adapter: Path) -> np.ndarray:
    """Return stock mlx-lm's logits for the base dequantized to float32 with the adapter applied."""
    model, _ = load_model(base)
    model = load_adapters(dequantize_model(in_float32(model)), str(adapter))
    model.eval()
    return np.array(model(TOKENS))


@pytest.mark.parametrize(
    ("name", "section", "bits"),
    [
        ("llama", AdapterSection(rank=4), 0),
        ("llama", AdapterSection(rank=4), 4),
        ("llama", AdapterSection(rank=4, layers=1, targets=["q_proj", "lm_head"]), 4),
        ("smollm2", AdapterSection(rank=4, targets=["q_proj", "embed_tokens"]), 0),
        ("smollm2", AdapterSection(rank=4, targets=["q_proj", "embed_tokens"]), 4),
        ("qwen2", AdapterSection(rank=4, kind="dora"), 4),
        ("qwen3_moe", AdapterSection(rank=4, targets=["q_proj", "switch_mlp.up_proj"]), 4),
    ],
    ids=["plain", "quantized", "head", "plain embedding", "embedding", "dora with biases", "experts"],
)
def test_fused_model_matches_adapter(tmp_path: Path, name: str, section: AdapterSection, bits: int) -> None:
    base = quantised(make(tmp_path / "base", name), bits)
    adapter = shaken(base, tmp_path / "adapter", section)
    source = resolve(str(base))
    model, settings = fuse.fuse(source, adapter, requantize=False)
    written(model, settings, source, tmp_path / "fused")
    fused, _ = load_stock(str(tmp_path / "fused"))
    assert "quantization" not in json.loads((tmp_path / "fused" / "config.json").read_text())
    expected = applied(base, adapter)
    np.testing.assert_allclose(np.array(fused(TOKENS)), expected, rtol=2e-3, atol=2e-3)
    assert np.abs(expected - np.array(load_model(base)[0](TOKENS))).max() > 0.05
    names = {name for name, _ in tree_flatten(fused.parameters())}
    assert not any("lora" in name or "scales" in name for name in names)


def written(model: Any, settings: dict[str, Any], source: ModelFolder, folder: Path) -> None:
    folder.mkdir()
    fuse.write_folder(model, settings, source, folder, "fused")


def quantised(folder: Path, bits: int) -> Path:
    """Quantize the model in ``folder`` to ``bits`` bits unless that is 0, and return the folder."""
    from mlx_lm.utils import quantize_model, save_config, save_model

    if bits:
        model, settings = quantize_model(*load_model(folder), 32, bits)
        save_model(folder, model)
        save_config(settings, folder / "config.json")
    return folder


def test_unadapted_weights_keep_their_bits_when_requantized(tmp_path: Path) -> None:
    base = make_tiny(tmp_path / "base", bits=4)
    adapter = write(tmp_path / "adapter", arrays(layers=(1,)), config(layers=1))
    source = resolve(str(base))
    model, settings = fuse.fuse(source, adapter, requantize=True)
    written(model, settings, source, tmp_path / "fused")
    before, after = (mx.load(str(folder / "model.safetensors")) for folder in (base, tmp_path / "fused"))
    changed = {name.rsplit(".", 1)[0] for name in before if not mx.array_equal(before[name], after[name])}
    assert before.keys() == after.keys()
    assert changed == {"model.layers.1.self_attn.q_proj", "model.layers.1.self_attn.v_proj"}
    theirs, ours = (json.loads((folder / "config.json").read_text())["quantization"] for folder in (base, tmp_path / "fused"))
    assert theirs == ours


def test_base_quantized_on_load_is_fused_as_trained(tmp_path: Path) -> None:
    base = make_tiny(tmp_path / "base")
    adapter = write(tmp_path / "adapter", arrays(targets=("q_proj", "down_proj")), config())
    source = resolve(str(base))
    applied = load_own(source, "float32", quantize=4).model
    lora.load(applied, adapter)
    for requantize in (False, True):
        folder = tmp_path / f"fused-{requantize}"
        model, settings = fuse.fuse(source, adapter, requantize=requantize, quantize=4)
        written(model, settings, source, folder)
        assert ("quantization" in json.loads((folder / "config.json").read_text())) == requantize
        fused = load_own(resolve(str(folder)), "float32").model
        if not requantize:
            np.testing.assert_allclose(np.array(fused(TOKENS)), np.array(applied(TOKENS)), atol=2e-3, rtol=2e-3)
        for name, array in tree_flatten(load_own(source, "float32", quantize=4).model.parameters()):
            if not name.removesuffix(".weight").endswith(("q_proj", "down_proj")):
                assert mx.array_equal(array, dict(tree_flatten(fused.parameters()))[name]), (requantize, name)


def test_distances_match_their_definitions() -> None:
    draw = np.random.default_rng(0)
    one, two = draw.normal(0, 2, (2, 7, 11)).astype(np.float32)
    distance = logits.distance([mx.array(one[:3]), mx.array(one[3:])], [mx.array(two[:3]), mx.array(two[3:])])
    p, q = (np.exp(x) / np.exp(x).sum(axis=1, keepdims=True) for x in (one.astype(np.float64), two.astype(np.float64)))
    assert distance.max == pytest.approx(np.abs(one - two).max())
    assert distance.mean == pytest.approx(np.abs(one - two).mean(), rel=1e-5)
    assert distance.kl == pytest.approx((p * np.log(p / q)).sum(axis=1).mean(), rel=1e-5)
    assert distance.agree == pytest.approx((one.argmax(1) == two.argmax(1)).mean())
    assert distance.positions == 7


def test_logits_are_taken_at_answer_positions(tiny: Path) -> None:
    model, _ = load_model(tiny)
    pairs = [([70, 71, 72], [80, 81, 82]), ([70, 71, 73, 74], [90]), ([70, 71], [60, 61])]
    done: list[int] = []
    answer_logits = logits.logits(model, pairs, batch_size=2, progress=lambda rows, total: done.append(rows))
    assert (done[0], done[-1]) == (0, 3)
    for (prompt, answer), rows in zip(pairs, answer_logits, strict=True):
        whole = model(mx.array([[*prompt, *answer]]))[0]
        expected = whole[len(prompt) - 1 : -1]
        np.testing.assert_allclose(np.array(rows), np.array(expected), rtol=1e-3, atol=1e-4)


def test_long_answer_is_sampled_at_even_intervals(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logits, "MAX_BYTES", 4 * 320 * 6)
    model, _ = load_model(tiny)
    answer_logits = logits.logits(model, [([70, 71], list(range(60, 81))), ([70, 72], [60])], batch_size=2)
    assert [rows.shape for rows in answer_logits] == [(3, 320), (1, 320)]
    whole = model(mx.array([[70, 71, *range(60, 81)]]))[0]
    np.testing.assert_allclose(np.array(answer_logits[0]), np.array(whole[1:-1][mx.array([0, 10, 20])]), rtol=1e-3, atol=1e-4)


NEAR, FAR = LogitDistance(0.1, 0.01, 0.001, 1.0, 10), LogitDistance(5.0, 1.0, 0.5, 0.4, 10)


def measured(loss: LogitDistance, outcomes: list[tuple[bool, bool]], form: str = "quantized") -> Fidelity:
    return Fidelity(form, FAR, loss, ComparedAnswers(20, 11, (compare("contract", "tuned", "exported", outcomes),)))


@pytest.mark.parametrize(
    ("loss", "outcomes", "failure", "outcome"),
    [
        (NEAR, [(True, True)] * 20, "", "faithful"),
        (replace(FAR, mean=0.99, kl=0.4), [(True, True)] * 20, "", "lossy"),
        (FAR, [(True, True)] * 20, "logits", "not_faithful"),
        (NEAR, [(True, False)] * 12 + [(True, True)] * 8, "contract", "not_faithful"),
        (NEAR, [(True, False)] * 2 + [(True, True)] * 18, "", "faithful"),
        (replace(NEAR, kl=0.6), [(True, True)] * 20, "divergence", "not_faithful"),
    ],
)
def test_lossy_export_is_refused(loss: LogitDistance, outcomes: list[tuple[bool, bool]], failure: str, outcome: str) -> None:
    result = measured(loss, outcomes)
    assert (result.failure, result.outcome) == (failure, outcome)
    if not failure:
        fidelity.require_faithful(result)
        return
    with pytest.raises(GateError) as caught:
        fidelity.require_faithful(result)
    assert caught.value.exit_code == 1
    assert "without --requantize" in caught.value.hint


def test_fidelity_round_trips_through_disk(tmp_path: Path) -> None:
    result = measured(NEAR, [(True, False), (True, True)], "fused")
    fidelity.save(result, tmp_path)
    assert fidelity.load(tmp_path) == result
    write_json(tmp_path / fidelity.FILE, read_json(tmp_path / fidelity.FILE) | {"v": 1})
    with pytest.raises(InputError, match="another version"):
        fidelity.load(tmp_path)


def was_written(worker: Worker) -> int:
    """Return how many times ``worker`` wrote a model."""
    return sum(event["type"] == "export.written" for event in journal.read(worker.folder / "events.jsonl"))


SMALLEST_EFFECT = "evaluation.regression_margin=0.001"  # no interval of a few rows excludes a loss of almost nothing


@pytest.mark.parametrize("form", ["fused", "hf"])
def test_faithful_export_is_published_with_fidelity(exports: Exports, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only GGUF files need the package gguf."""
    for name in [name for name in sys.modules if name.startswith("mlxtune.adapters.export.gguf")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr("mlxtune.adapters.export.gguf")
    monkeypatch.setitem(sys.modules, "gguf", None)
    worker = exports.start(form)
    summary = exporting.export(worker)
    folder = Path(summary["folder"])
    assert folder == worker.folder / "model"
    assert summary["outcome"] == "faithful"
    result = fidelity.load(folder)
    assert result == fidelity.load(worker.folder)
    assert result.lost_share < 0.01 < result.change.mean
    assert result.loss.agree == 1.0
    assert result.answers.same == result.answers.rows > 0
    assert {rate.metric for rate in result.answers.rates} == {"forbidden", "contract"}
    lineage = json.loads((folder / "mlxtune.json").read_text())
    assert (lineage["export"], lineage["adapter"]["rank"], lineage["adapter"]["run"]) == (form, 4, "20261124-1412-tiny")
    stock, _ = load_stock(str(folder))
    expected = applied(exports.base, exports.adapter)
    np.testing.assert_allclose(np.array(stock(TOKENS)), expected, rtol=2e-3, atol=2e-3)
    expected_kinds = ["run.started", "export.written", "fidelity"]
    assert [event["type"] for event in events.read_all(worker.folder) if event["type"] in expected_kinds] == expected_kinds
    assert not list(worker.folder.glob(".*partial"))


def weak(folder: Path) -> None:
    """Shrink the adapter in ``folder`` until requantization error exceeds its effect."""
    settings = json.loads((folder / "adapter_config.json").read_text())
    settings["lora_parameters"]["scale"] *= 0.001
    (folder / "adapter_config.json").write_text(json.dumps(settings))


def test_lossy_requantization_is_refused_and_leaves_no_files(exports: Exports) -> None:
    weak(exports.adapter)
    worker = exports.start("quantized", target=exports.out)
    with pytest.raises(GateError, match="The export is not faithful: its logits") as caught:
        exporting.export(worker)
    assert "without --requantize" in caught.value.hint
    result = fidelity.load(worker.folder)
    assert result.lost_share > 1
    assert not exports.out.exists()
    assert not list(exports.workspace.glob(".out*"))
    assert exports.export("fused").outcome == "faithful"


def test_force_keeps_unfaithful_export_with_warning(exports: Exports) -> None:
    weak(exports.adapter)
    result = exports.export("quantized", "evaluation.rows=2", target=exports.out, force=True)
    assert (result.outcome, result.answers.rows) == ("not_faithful", 2)
    assert fidelity.load(exports.out) == result
    load_stock(str(exports.out))


def test_adapter_without_recipe_is_compared_on_off_task_prompts(exports: Exports, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlxtune.adapters.importers.importer import import_adapter

    monkeypatch.setattr(prompts, "MAX_TOKENS", 4)
    import_adapter(exports.workspace, exports.adapter, "mine")
    worker = exports.start("fused", which="mine")
    assert worker.folder.name.endswith("-mine")
    exporting.export(worker)
    result = fidelity.load(worker.folder)
    assert (result.answers.rows, result.answers.rates) == (38, ())


def test_different_base_weights_are_refused(exports: Exports) -> None:
    make_tiny(exports.base, bits=8)
    with pytest.raises(ModelError, match="was trained from a different base"):
        exporting.export(exports.start("fused"))


def test_existing_target_is_refused_before_start(exports: Exports) -> None:
    with pytest.raises(InputError, match="already exists"):
        start.start(exports.workspace, library.find(exports.workspace, "last"), "fused", target=exports.base)


@pytest.mark.parametrize("elsewhere", [False, True])  # sizes are tried in the workspace
def test_insufficient_disk_space_is_reported_before_computing(
    exports: Exports, tmp_path: Path, elsewhere: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "disk_free", lambda path: 1000 if path.is_relative_to(exports.workspace) else 10**12)
    how = {"target": tmp_path.parent / "elsewhere" / "out", "precision": "smallest"} if elsewhere else {}
    with pytest.raises(MachineError, match=r"The export needs about .* is free"):
        exports.export("fused", **how)


def test_disk_full_while_writing_is_reported(exports: Exports, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise RuntimeError("[write] Unable to write 4096 bytes to file.")

    monkeypatch.setattr(fuse, "save_model", full)
    with pytest.raises(MachineError, match="could not be written: "):
        exporting.export(exports.start("fused", target=exports.out))
    assert not list(exports.workspace.glob(".out*"))


@pytest.mark.parametrize(
    ("form", "changes", "why"),
    [
        ("hf", {"model_type": "qwen3_moe"}, "weights of qwen3_moe in a different layout"),
        ("quantized", {"quantization": None}, "is not quantized"),
    ],
)
def test_unsupported_format_is_refused_with_reason(tiny: Path, form: Any, changes: dict[str, Any], why: str) -> None:
    source = resolve(str(tiny))
    with pytest.raises(ModelError, match=why):
        start.require_exportable(form, replace(source, config=source.config | changes))


@pytest.mark.parametrize(("form", "precision"), [("gguf", "f16"), ("gguf", "q8_0"), ("gguf", "q4_k_m"), ("gguf-lora", "f16")])
def test_gguf_is_read_back_and_measured(exports: Exports, form: Any, precision: Any) -> None:
    worker = exports.start(form, target=exports.workspace / "my out", precision=precision)
    summary = exporting.export(worker)
    assert summary["outcome"] in ("faithful", "lossy")
    assert fidelity.load(exports.workspace / "my out").lost_share < {"q8_0": 0.1, "q4_k_m": 0.5}.get(precision, 0.005)
    assert {file.name for file in (exports.workspace / "my out").iterdir()} == {
        start.GGUF_FILE if form == "gguf" else gguf.LORA_FILE, "chat_template.jinja", "fidelity.json", "mlxtune.json",
    }  # fmt: skip
    assert not (worker.folder / "again").exists()


@pytest.mark.parametrize(("form", "fits"), [("gguf", True), ("gguf", False), ("fused", True)])
def test_the_smallest_size_that_holds_is_exported(exports: Exports, form: Any, fits: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    margin = "evaluation.regression_margin=0.99" if fits else SMALLEST_EFFECT
    monkeypatch.setattr(exporting._ExportJob, "_can_finish", lambda *_: not fits)
    if not fits:
        monkeypatch.setitem(start.SMALLER, form, start.SMALLER[form][:2])
    worker = exports.start(form, margin, target=exports.workspace / "my out", precision="smallest")
    exporting.export(worker)
    proof = fidelity.load(exports.workspace / "my out")
    smaller = start.SMALLER[form]
    assert [one.precision for one in proof.sizes] == [*smaller, *(() if fits else smaller)]  # the second time, finished
    assert [one.finishing_steps > 0 for one in proof.sizes] == [at >= len(smaller) for at in range(len(proof.sizes))]
    nbytes = [one.nbytes for one in proof.sizes]
    assert nbytes[: len(smaller)] == sorted(nbytes[: len(smaller)])
    assert fits or nbytes[len(smaller) :] == nbytes[: len(smaller)]  # a finish does not change the size
    assert proof.precision == next((one.precision for one in proof.sizes if one.holds), "f16")
    assert (proof.precision == "f16") == (not fits)
    assert all((one.speed or 0) > 0 for one in proof.sizes)
    marks = [row[-1].text for row in sizes_table(proof.sizes, proof.precision).rows]
    assert marks.count("exported") == fits
    assert not (worker.folder / "again").exists()
    assert was_written(worker) == len(proof.sizes) + (not fits)  # the chosen size is not written again


def test_the_chosen_size_can_be_moved_to_another_disk(exports: Exports, monkeypatch: pytest.MonkeyPatch) -> None:
    rename = os.rename

    def on_two_disks(source: Any, target: Any) -> None:
        if start.AGAIN in Path(source).parts:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        rename(source, target)

    monkeypatch.setattr(os, "rename", on_two_disks)
    margin = "evaluation.regression_margin=0.99"
    proof = exports.export("fused", margin, precision="smallest", target=exports.out)
    assert proof.precision in start.SMALLER["fused"]
    load_stock(str(exports.out))


@pytest.fixture
def one_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try a single size of model folders."""
    monkeypatch.setitem(start.SMALLER, "fused", ("4-bit",))


@pytest.mark.parametrize(
    ("loss", "outcomes", "margin", "holds"),
    [
        (NEAR, [], 0.05, True),
        (replace(NEAR, mean=0.9), [], 0.05, False),  # lossy, and no answer shows that this is harmless
        (FAR, [], 0.05, False),
        (replace(NEAR, mean=0.9), [(True, True)] * 300, 0.05, True),
        (NEAR, [(True, True)] * 300, 0.001, False),
        (FAR, [(True, True)] * 300, 0.05, False),
    ],
)
def test_a_size_holds_if_its_answers_or_without_a_contract_its_logits_show_it(
    loss: LogitDistance, outcomes: list[tuple[bool, bool]], margin: float, holds: bool
) -> None:
    rates = (compare("contract", "tuned", "exported", outcomes),) if outcomes else ()
    assert Fidelity("gguf", FAR, loss, ComparedAnswers(300, 300, rates)).holds(margin) is holds


@pytest.mark.usefixtures("one_size", "few_off_task_prompts")
def test_a_lossy_size_does_not_hold_without_a_contract(exports: Exports, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlxtune.adapters.importers.importer import import_adapter

    monkeypatch.setattr(prompts, "MAX_TOKENS", 4)
    monkeypatch.setattr(fidelity, "LOSSY", 0.0)  # so that every size is lossy
    import_adapter(exports.workspace, exports.adapter, "mine")
    proof = exports.export("fused", which="mine", precision="smallest")
    assert [(one.holds, one.finishing_steps) for one in proof.sizes] == [(False, 0)]
    assert proof.precision == "f16"
    assert fidelity_document(proof)[0].note.endswith("on off-task prompts")
    assert all(row[-1].text.startswith("loses ") for row in sizes_table(proof.sizes, proof.precision).rows)


@pytest.mark.parametrize(("form", "precision"), [("gguf", "q4_k_m"), ("fused", "4-bit")])
def test_a_finish_trains_the_weights_that_are_exported(exports: Exports, form: Any, precision: Any) -> None:
    job = exporting._ExportJob(exports.start(form, precision=precision))
    job.measure_adapter()
    (exports.workspace / "tried").mkdir()
    job.write(exports.workspace / "tried")
    exported = np.array(job._read_back(exports.workspace / "tried").model(TOKENS))
    model = dequantize_model(load_own(job.source).model)
    as_trained = applied(exports.base, job.adapter)
    finish.replace_weights(model, job.adapter, job._rounded(job.adapter, ()))
    lora.load(model, job.adapter)
    np.testing.assert_allclose(np.array(model(TOKENS)), exported, atol=1e-4)
    assert np.abs(exported - as_trained).max() > 0.01  # the rounding shows


@pytest.mark.usefixtures("one_size")
def test_no_finish_is_tried_if_even_a_size_without_a_loss_would_not_hold(exports: Exports) -> None:
    proof = exports.export("fused", SMALLEST_EFFECT, precision="smallest")
    assert [(one.holds, one.finishing_steps) for one in proof.sizes] == [(False, 0)]
    assert proof.needed_rows > proof.answers.rows
    (fact,) = [
        fact for block in fidelity_document(proof) if isinstance(block, Facts) for fact in block.facts if fact.label == "sizes"
    ]
    assert fact.note.startswith(f"{proof.answers.rows} held-out rows are too few; about {proof.needed_rows} ")


@pytest.mark.parametrize("margin", [0.03, 0.05, 0.1])
@pytest.mark.parametrize(("broken", "fixed"), [(0, 0), (1, 1), (2, 0), (5, 3)])
def test_the_needed_rows_are_those_on_which_an_even_change_would_hold(broken: int, fixed: int, margin: float) -> None:
    def contract(times: int, broken: int, fixed: int) -> Comparison:
        cells = {(True, True): 40 - broken, (True, False): broken, (False, True): fixed, (False, False): 10 - fixed}
        return compare("contract", "tuned", "exported", [pair for pair, count in cells.items() for _ in range(count * times)])

    answers = ComparedAnswers(50, 50 - broken - fixed, (contract(1, broken, fixed),))
    needed = fidelity.needed_rows([TriedSize("q8_0", 1, False, answers)], margin)
    even = (broken + fixed) // 2
    for times in range(1, 60):
        if abs(50 * times - needed) > 0.03 * needed:  # it is rounded up by up to 2%
            assert (contract(times, even, even).low > -margin) == (50 * times > needed)


def test_sizes_are_compared_on_all_held_out_rows(exports: Exports) -> None:
    rows = []
    for precision in ("f16", "smallest"):
        worker = exports.start("fused", "evaluation.rows=1", precision=precision)
        rows.append(len(ComparedRows(worker).rows))
    assert rows[0] == 1 < rows[1]


def test_each_compared_model_is_one_look_in_the_ledger(exports: Exports) -> None:
    path = exports.workspace / "evals" / ledger.FILE
    worker = exports.start("fused")
    for turn in ("first", "resumed"):
        job = exporting._ExportJob(worker)
        job.measure_adapter()
        (folder := exports.workspace / turn).mkdir()
        job.write(folder)
        proof = job.compare(folder)
    ids = [row.id for row in job.rows.rows]
    (entry,) = ledger.read(path).entries
    assert (entry["kind"], entry["by"], entry["rows"]) == ("fidelity", f"{worker.folder.name} f16", sorted(ids))
    assert proof.answers.rows == len(ids)
    assert ledger.looks(exports.workspace, ids) == 1
    for at, name in enumerate(("4-bit", "8-bit", "8-bit")):
        other = [replace(answer, output=f"{name} {at}") for answer in job.outputs]
        job.rows.compare(job.outputs, other, name)
    again = ComparedRows(exports.start("fused"))
    again.compare(job.outputs, [replace(answer, output="4-bit 0") for answer in job.outputs])
    assert ledger.looks(exports.workspace, ids) == 3, "one per size, and one for the same answers"
    again.contract = None  # of off-task prompts
    again.compare(job.outputs, [replace(answer, output="new") for answer in job.outputs])
    assert ledger.looks(exports.workspace, ids) == 3


@pytest.mark.parametrize("form", ["fused", "gguf-lora"])  # with a hash of its own weights, and of a GGUF file
def test_an_export_answers_again_if_its_weights_are_different(exports: Exports, form: Any) -> None:
    worker = exports.start(form)
    for turn, change in enumerate((1.0, 1.0, 1.5)):  # as if the export had been resumed twice, the second time with other code
        job = exporting._ExportJob(worker)
        job.measure_adapter()
        weights = mx.load(str(job.adapter / "adapters.safetensors"))
        job.fused_adapter = job.adapter = Path(shutil.copytree(job.adapter, exports.workspace / f"{turn}" / "adapter"))
        mx.save_safetensors(str(job.adapter / "adapters.safetensors"), {name: array * change for name, array in weights.items()})
        (scratch := exports.workspace / f"{turn}" / "out").mkdir()
        shutil.rmtree(job.again, ignore_errors=True)
        job.write(scratch)
        job.compare(scratch)
    finished = [event for event in journal.read(worker.folder / "events.jsonl") if event["type"] == "arm.finished"]
    assert [event["cached"] for event in finished if event["arm"] == EXPORTED] == [False, True, False]


@pytest.mark.usefixtures("one_size")
def test_an_adapter_that_cannot_be_trained_further_is_not_finished(exports: Exports, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporting._ExportJob, "_can_finish", lambda *_: True)

    def refuse(*_: Any) -> None:
        raise DataError("The model already prefers the chosen answer of every pair.")

    monkeypatch.setattr(finish, "load_foundation", refuse)
    proof = exports.export("fused", SMALLEST_EFFECT, precision="smallest")
    assert [one.finishing_steps for one in proof.sizes] == [0]
    assert proof.precision == "f16"


def test_a_finish_lowers_the_loss_of_the_export(exports: Exports, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = exports.start("fused", SMALLEST_EFFECT, precision="smallest")
    job = exporting._ExportJob(worker)
    job.precision = "4-bit"
    losses = []
    monkeypatch.setattr(
        finish._Listener, "emit", lambda self, type, **fields: type == "validation" and losses.append(fields["loss"])
    )
    job._finish()
    assert job.finishing_steps == 1  # of 20
    assert len(losses) == 2
    assert losses[1] < losses[0]
    before, after = (mx.load(str(folder / "adapters.safetensors")) for folder in (job.adapter, job.fused_adapter))
    assert before.keys() == after.keys()
    assert not all(mx.array_equal(before[name], after[name]) for name in before)


# Like Qwen3.5's: it thinks unless it is told not to, prints the date, and refuses a system turn.
THINKING = (
    "{%- if messages[0].role == 'system' %}{{ raise_exception('no system turn') }}{% endif %}{{ strftime_now('%d %b') }}"
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% if enable_thinking is not defined or enable_thinking %}<think>"
    "{% else %}<think></think>{% endif %}{% endif %}"
)


@pytest.mark.parametrize("form", ["fused", "hf", "gguf", "gguf-lora"])
def test_every_program_renders_the_prompts_of_training(exports: Exports, form: Any) -> None:
    replace_template(exports.base, THINKING)
    assert exports.export(form, target=exports.out).outcome == "faithful"
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Question?"}]
    expected = f"{time.strftime('%d %b')}<|im_start|>user\nBe brief.\n\nQuestion?<|im_end|>\n<|im_start|>assistant\n<think></think>"
    template = (exports.out / "chat_template.jinja").read_text()
    if form == "gguf":
        with llama(exports.out / "model.gguf") as server:
            assert server.post("/apply-template", {"messages": messages})["prompt"] == expected
        field = GGUFReader(exports.out / "model.gguf").fields["tokenizer.chat_template"]
        assert bytes(field.parts[field.data[0]]).decode() == template
        return
    own = template if form == "gguf-lora" else json.loads((exports.out / "tokenizer_config.json").read_text())["chat_template"]
    assert own == template
    folder = exports.base if form == "gguf-lora" else exports.out
    named = {"chat_template": template} if form == "gguf-lora" else {}
    for tokenizer in (AutoTokenizer.from_pretrained(folder), load_tokenizer(folder)):
        assert tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False, **named) == expected


def test_held_out_rows_with_typed_control_tokens_are_named(exports: Exports) -> None:
    data = exports.workspace / "chat.jsonl"
    rows = [json.loads(line) for line in data.read_text().splitlines()]
    for row in rows:
        row["messages"][-2]["content"] += " What does <|im_end|> mean?"
    data.write_text("\n".join(map(json.dumps, rows)))
    proof = exports.export("fused")
    assert len(proof.typed) == proof.answers.rows > 3
    facts = next(block for block in fidelity_document(proof) if isinstance(block, Facts)).facts
    shown = next(fact for fact in facts if fact.label == "prompts")
    assert shown.value == f"{len(proof.typed)} rows not compared"
    assert proof.typed[0] in shown.note


def test_an_export_whose_program_renders_other_prompts_is_refused(exports: Exports, monkeypatch: pytest.MonkeyPatch) -> None:
    replace_template(exports.base, THINKING)
    worker = exports.start("gguf", target=exports.out)
    monkeypatch.setattr(template, "with_variables", lambda source, variables: source)
    with pytest.raises(GateError, match="renders prompts differently than in training"):
        exporting.export(worker)
    proof = fidelity.load(worker.folder)
    assert (proof.outcome, proof.prompt.actual, proof.prompt.expected) == ("not_faithful", "", "<")
    assert not exports.out.exists()


@pytest.mark.parametrize("force", [False, True])
def test_no_other_size_is_tried_if_the_program_renders_other_prompts(
    exports: Exports, force: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace_template(exports.base, THINKING)
    worker = exports.start("fused", precision="smallest", force=force)
    monkeypatch.setattr(template, "with_variables", lambda source, variables: source)
    if force:
        exporting.export(worker)
        assert fidelity.load(worker.folder / "model").sizes == ()
    else:
        with pytest.raises(GateError, match="renders prompts differently than in training"):
            exporting.export(worker)
    proof = fidelity.load(worker.folder)
    assert (proof.failure, proof.outcome, proof.prompt.actual, proof.prompt.expected) == ("prompts", "not_faithful", "", "<")
    assert (worker.folder / "model").exists() is force
    assert not (worker.folder / "again").exists()
    assert was_written(worker) == 2, "one size, and the unquantized model"


def test_fused_tensor_names_match_transformers_architectures(tmp_path: Path) -> None:
    from tiny_architectures import ARCHITECTURES

    for name in {*start.HF} & {*ARCHITECTURES}:
        folder = make(tmp_path / name, name)
        model, _ = load_model(folder)
        weights = dict(tree_flatten(model.parameters()))
        again = model.sanitize(dict(weights)) if hasattr(model, "sanitize") else weights
        assert again.keys() == weights.keys(), name
        assert all(again[key].shape == weights[key].shape for key in weights), name


def test_export_runs_as_worker(exports: Exports) -> None:
    run = start.start(exports.workspace, library.find(exports.workspace, "last"), "fused", target=exports.out)
    finished(run)
    assert run.folder.parent == exports.workspace / "exports"
    assert list(run.state().arms) == ["tuned", "exported"]
    assert dict(run.state().summary)["outcome"] == "faithful"
    assert (exports.out / "model.safetensors").is_file()


def test_answers_of_a_gguf_file_are_never_the_cached_ones_of_its_base(exports: Exports) -> None:
    proof = exports.export("gguf", target=exports.out)
    shared = exports.workspace / "evals" / "cache"
    saved = [json.loads(line) for file in shared.glob(f"*{outputs.SAVED}") for line in file.read_text().splitlines()]
    assert all("text" in record for record in saved)  # no likelihoods, which nothing needs
    assert len(saved) == proof.answers.rows > 0  # the adapter's answers, and none under the name of the base
