"""The model catalog, compared with mlx-lm's models, and the fit on machines."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from mlxtune.core.errors import ModelError
from mlxtune.models import bundled, catalog
from mlxtune.models.families import check_trainable
from mlxtune.models.load import LoadedModel
from mlxtune.models.resolve import ModelFolder
from mlxtune.planning import shapes
from mlxtune.planning.machine import mac_with
from mlxtune.planning.workload import DatasetLengths
from mlxtune.recipe import ModelSection

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "tools"), str(ROOT / "tests" / "conformance")]
import shapes as shape_table  # noqa: E402
from bases import BASES as TEMPLATES  # noqa: E402
from bases import OTHERS  # noqa: E402

BASES = {base.id: base for base in catalog.models()}

# Sizes listed on the Hub: bytes of the weights, or numbers in the files, where packed weights count as 32-bit words.
BYTES = {
    "mlx-community/gemma-3-1b-it-4bit": 733e6, "mlx-community/Qwen2.5-7B-Instruct-4bit": 4.28e9,
    "mlx-community/LFM2.5-1.2B-Instruct-4bit": 0.66e9, "mlx-community/gpt-oss-20b-MXFP4-Q8": 11.2 * 2**30,
}  # fmt: skip
WORDS = {
    "mlx-community/Llama-3.2-1B-Instruct-4bit": 193e6, "mlx-community/Llama-3.2-3B-Instruct-4bit": 502e6,
    "mlx-community/Meta-Llama-3.1-8B-Instruct-4bit": 1.25e9, "mlx-community/Qwen2.5-7B-Instruct-4bit": 1.19e9,
    "mlx-community/Qwen2.5-3B-Instruct-4bit": 482e6, "mlx-community/gemma-2-2b-it-4bit": 409e6,
}  # fmt: skip
# Parameters of the language model in billions, from the model cards
PARAMETERS = {
    "mlx-community/LFM2.5-1.2B-Instruct-4bit": 1.17, "mlx-community/SmolLM3-3B-4bit": 3.08, "mlx-community/Phi-4-mini-instruct-4bit": 3.84,
    "mlx-community/Ministral-3-3B-Instruct-2512-4bit": 3.4, "mlx-community/Ministral-3-8B-Instruct-2512-4bit": 8.4,
    "mlx-community/gpt-oss-20b-MXFP4-Q8": 20.9, "mlx-community/granite-4.0-h-micro-4bit": 3.2,
}  # fmt: skip
# Parameters of the vision (and sound) parts of models whose files contain them, from their model cards: 2 bytes each
OTHER_PARTS = {
    "mlx-community/Qwen3.5-0.8B-MLX-4bit": 0.1e9, "mlx-community/Qwen3.5-2B-4bit": 0.33e9, "mlx-community/Qwen3.5-4B-MLX-4bit": 0.33e9,
    "mlx-community/Qwen3.5-9B-4bit": 0.456e9, "mlx-community/Qwen3.8-27B-4bit": 0.46e9, "mlx-community/Qwen3.6-27B-4bit": 0.46e9,
    "mlx-community/Ministral-3-3B-Instruct-2512-4bit": 0.42e9, "mlx-community/Ministral-3-8B-Instruct-2512-4bit": 0.42e9,
    "mlx-community/gemma-4-e2b-it-4bit": 0.45e9, "mlx-community/gemma-4-e4b-it-4bit": 0.45e9,
}  # fmt: skip


@pytest.mark.exhaustive
@pytest.mark.slow
def test_the_shape_table_is_up_to_date() -> None:
    """The table is what mlx-lm's model classes and our reader of downloaded models give for each configuration."""
    table = {base.id: shape_table.entry(base.config) for base in catalog.entries()}
    assert json.loads(shape_table.TABLE.read_text()) == table, "run: python tools/shapes.py"


@pytest.mark.parametrize(
    ("id", "facts"),
    [
        ("mlx-community/Llama-3.2-3B-Instruct-4bit", (24, 8, 128, 1, True, True, 28, 3072, 128256)),
        ("mlx-community/gemma-3-text-4b-it-4bit", (8, 4, 256, 1, False, False, 34, 2560, 262208)),
        ("mlx-community/Qwen3-4B-Instruct-2507-4bit", (32, 8, 128, 1, True, True, 36, 2560, 151936)),
        ("mlx-community/Qwen3.5-4B-MLX-4bit", (16, 4, 256, 1, True, False, 32, 2560, 248320)),
        ("mlx-community/gemma-4-e2b-it-4bit", (8, 1, 256, 1, True, False, 35, 1536, 262144)),
        ("mlx-community/gpt-oss-20b-MXFP4-Q8", (64, 8, 64, 4, False, False, 24, 2880, 201088)),
        ("mlx-community/Ministral-3-8B-Instruct-2512-4bit", (32, 8, 128, 1, False, True, 34, 4096, 131072)),
        ("mlx-community/granite-4.0-h-micro-4bit", (32, 8, 64, 1, True, False, 40, 2048, 100352)),
    ],
)
def test_facts_that_the_planner_uses(id: str, facts: tuple[object, ...]) -> None:
    base, shapes = BASES[id], BASES[id].shapes
    assert facts == (
        shapes.heads, shapes.kv_heads, shapes.head_dim, shapes.active_experts, shapes.tied, base.full_attention, shapes.depth,
        shapes.width, shapes.vocabulary,
    )  # fmt: skip


def test_a_dense_layer_matches_the_formula_of_its_architecture() -> None:
    """Independent of mlx-lm: the matrices of a Llama layer, 4 bits each and a scale and a bias of 2 bytes per 64."""
    shapes = BASES["mlx-community/Llama-3.2-3B-Instruct-4bit"].shapes
    query, key, hidden, mlp = 24 * 128, 8 * 128, 3072, 8192
    expected = {
        "self_attn.q_proj": (query, hidden), "self_attn.k_proj": (key, hidden), "self_attn.v_proj": (key, hidden),
        "self_attn.o_proj": (hidden, query), "mlp.gate_proj": (mlp, hidden), "mlp.up_proj": (mlp, hidden), "mlp.down_proj": (hidden, mlp),
    }  # fmt: skip
    for layer in shapes.layers:
        matrices = {weight.name: weight for weight in layer if weight.is_matrix}
        assert {name: weight.shape for name, weight in matrices.items()} == expected
        for weight in matrices.values():
            assert (weight.nbytes, weight.bits, weight.size) == (weight.numbers // 2 + 4 * weight.numbers // 64, 4, 2)


def test_gated_delta_layers_experts_and_per_layer_embeddings_have_their_own_weights() -> None:
    qwen = BASES["mlx-community/Qwen3.5-4B-MLX-4bit"].shapes.layers
    assert [any("linear_attn" in weight.name for weight in layer) for layer in qwen] == [True, True, True, False] * 8
    experts = {weight.name: weight for weight in BASES["mlx-community/gpt-oss-20b-MXFP4-Q8"].shapes.layers[0]}[
        "mlp.experts.gate_proj"
    ]
    assert (experts.shape, experts.bits, experts.size) == ((32, 2880, 2880), 4, 2)
    assert experts.nbytes == experts.numbers // 2 + experts.numbers // 32  # MXFP4: a scale of one byte per 32
    gemma = BASES["mlx-community/gemma-4-e2b-it-4bit"].shapes
    assert [weight.shape for weight in gemma.weights if "embed_tokens_per_layer" in weight.name] == [(262144, 35 * 256)]


@pytest.mark.parametrize(
    ("measure", "id", "expected", "tolerance"),
    [
        *(("nbytes", *base, 0.005) for base in BYTES.items()),
        *(("words", *base, 0.005) for base in WORDS.items()),
        *(("parameters", id, billions * 1e9, 0.015) for id, billions in PARAMETERS.items()),
        *(("download", id, 2 * numbers, 0.15) for id, numbers in OTHER_PARTS.items()),
    ],
)
def test_sizes_match_the_hub_and_the_model_cards(measure: str, id: str, expected: float, tolerance: float) -> None:
    base, weights = BASES[id], BASES[id].shapes.weights
    packed = [weight.numbers * weight.bits // 32 for weight in weights]
    counted = {
        "nbytes": base.nbytes, "parameters": base.shapes.parameters, "download": base.hub_nbytes - base.nbytes,
        "words": sum(words + (weight.nbytes - 4 * words) // 2 for words, weight in zip(packed, weights, strict=True)),
    }  # fmt: skip
    assert counted[measure] == pytest.approx(expected, rel=tolerance)


@pytest.mark.real
def test_the_bundled_models_match_the_catalog(real: LoadedModel, gemma3_folder: ModelFolder) -> None:
    for source in (real.source, gemma3_folder):
        base = BASES[source.name]
        actual = shapes.read_shapes(source.folder, source.config)
        assert actual.parameters == base.shapes.parameters
        assert {(weight.name, weight.layer, weight.shape, weight.bits) for weight in actual.weights} == {
            (weight.name, weight.layer, weight.shape, weight.bits) for weight in base.shapes.weights
        }
        assert base.context == source.config["max_position_embeddings"]


def test_every_model_has_a_license_and_terms() -> None:
    for base in BASES.values():
        assert base.commercial in ("yes", "conditions", "no")
        assert base.terms.startswith("https://")
        assert bool(base.condition) == (base.commercial != "yes")
    assert BASES["mlx-community/Qwen2.5-3B-Instruct-4bit"].commercial == "no"
    assert len({base.id for base in catalog.models()}) == len(catalog.models())


def test_every_entry_can_be_trained_and_names_a_tested_template() -> None:
    templates = {base.name: base for base in (*TEMPLATES, *OTHERS)}
    for base in BASES.values():
        check_trainable(dict(base.config), base.id)
        assert base.source.startswith("https://huggingface.co/")
        assert base.checked == ("weights" if bundled.find(base.id) else "template" if base.template else "layers")
        if base.template:
            assert base.tools == templates[base.template].tools
            assert base.thinking == "none" or templates[base.template].thinking


@pytest.mark.slow
def test_fit_improves_with_memory_and_worsens_with_size() -> None:
    order = {"refuse": 0, "warn": 1, "go": 2}
    for base in BASES.values():
        words = [order[base.fit(mac_with(size))[0]] for size in (8, 16, 32, 64)]
        assert words == sorted(words)
    smallest, largest = (BASES[id] for id in ("smollm2-135m", "mlx-community/Meta-Llama-3.1-8B-Instruct-4bit"))
    assert smallest.fit(mac_with(8))[0] == "go"
    assert largest.fit(mac_with(8))[0] == "refuse"
    assert largest.fit(mac_with(32))[0] == "go"


def test_bases_whose_answers_become_rows_of_their_own_cannot_share_prefixes() -> None:
    """So that docs/models.md is right about why these rows are computed separately."""
    assert not [base.id for base in catalog.models() if base.rewrites and base.full_attention]


def test_an_unknown_id_is_not_in_the_catalog() -> None:
    assert catalog.find("nothing/like-it") is None


@pytest.mark.parametrize("text", ["base = [", "", "[[base]]\nid = 'a'"])
def test_a_broken_catalog_raises_a_model_error(text: str) -> None:
    with pytest.raises(ModelError, match="Cannot read the model catalog"):
        catalog.parse(text)


@pytest.mark.parametrize(
    ("id", "mode", "thinking", "dated"),
    [
        ("mlx-community/Qwen3.5-4B-MLX-4bit", "off", "off", False),
        ("mlx-community/Qwen3.5-4B-MLX-4bit", "on", "on", False),
        ("mlx-community/Qwen2.5-7B-Instruct-4bit", "on", "", False),
        ("mlx-community/gpt-oss-20b-MXFP4-Q8", "off", "lowest_effort", True),
        ("mlx-community/gpt-oss-20b-MXFP4-Q8", "keep", "on_and_kept", True),
    ],
)
def test_a_plan_before_the_download_says_what_the_template_does(
    id: str, mode: str, thinking: str, dated: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipes = []
    monkeypatch.setattr(
        catalog.measurements, "row_lengths", lambda recipe: recipes.append(recipe) or DatasetLengths((), (), 8, True, ("a note",))
    )
    recipe = replace(catalog.TYPICAL_RECIPE, model=ModelSection(id, thinking=mode))
    lengths = BASES[id].planner(recipe, mac_with(32)).lengths
    assert (lengths.thinking, lengths.date, lengths.notes) == (thinking, "the day on which the run starts" if dated else "", ())
    assert recipes[0].model == ModelSection("smollm2-135m", template="chatml-tools")
    assert recipes[0].data.turns == ("each" if BASES[id].rewrites else "auto")
    assert lengths.prefix == (8 if BASES[id].full_attention else 0)
