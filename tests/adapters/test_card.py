"""Model cards: evaluation results with intervals, verdict, license of the base, and escaping of untrusted text."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from evaluation_files import write_evaluation
from huggingface_hub import ModelCard

from mlxtune.adapters import card, library
from mlxtune.evaluation.statistics.intervals import wilson

RUN = "20261124-1412-shop"


@pytest.fixture
def entry(tmp_path: Path, shop):
    shop(RUN)
    evaluation = write_evaluation(tmp_path / "work")
    report = json.loads((evaluation / "report.json").read_text())
    report["facts"]["run"] = RUN
    (evaluation / "report.json").write_text(json.dumps(report))
    return library.find(tmp_path / "work", RUN)


def test_card_states_report_results_with_intervals(entry) -> None:
    text = card.adapter_card(entry, card.published_base("smollm2-135m"))
    report = json.loads((entry.score.folder / "report.json").read_text())
    assert report["verdict"].split("±")[0][:12] in text
    for hits in (1, 3):
        low, high = wilson(hits, 4)
        assert f"{100 * hits / 4:.1f}% ({100 * low:.0f}–{100 * high:.0f})" in text
    assert "Pass rates on 4 held-out rows" in text
    assert "Evaluated for the first time." in text
    assert "exact McNemar test" in text


def test_hub_parses_card_metadata(entry) -> None:
    metadata = ModelCard(card.adapter_card(entry, card.published_base("smollm2-135m"))).data
    assert (metadata.base_model, metadata.license, metadata.library_name) == (
        "HuggingFaceTB/SmolLM2-135M-Instruct",
        "apache-2.0",
        "mlx",
    )
    assert metadata.tags == ["mlx", "mlxtune", "lora"]
    assert metadata.to_dict()["base_model_relation"] == "adapter"


def test_bundled_base_has_local_alias_and_hub_id(tmp_path: Path, entry) -> None:
    (tmp_path / "out").mkdir()
    card.write_publishable(entry, card.published_base("smollm2-135m"), tmp_path / "out")
    lineage, settings = (json.loads((tmp_path / "out" / name).read_text()) for name in ("mlxtune.json", "adapter_config.json"))
    assert (lineage["base"], settings["model"]) == ("smollm2-135m", "HuggingFaceTB/SmolLM2-135M-Instruct")
    assert lineage["evaluation"]["verdict"] == entry.score.verdict


def test_unknown_license_is_not_invented(tmp_path: Path, entry) -> None:
    text = card.adapter_card(entry, card.published_base(str(tmp_path / "my-model")))
    assert "license of the base is unknown" in text
    assert "license:" not in text
    assert str(tmp_path) not in text
    (tmp_path / "my-model").mkdir()
    (tmp_path / "my-model" / "README.md").write_text("---\nlicense: gemma\n---\n# x")
    base = card.published_base(str(tmp_path / "my-model"))
    assert (base.name, base.hub_id, base.license) == ("my-model", "", "gemma")
    assert "license: gemma" in card.adapter_card(entry, base)
    assert card.published_base("someone/model", "mit") == card.PublishedBase("someone/model", "someone/model", "mit")


def test_unevaluated_adapter_is_labeled(entry) -> None:
    assert "has not been evaluated" in card.adapter_card(replace(entry, score=None), card.published_base("smollm2-135m"))


def test_imported_scores_are_attributed_to_author(entry) -> None:
    text = card.adapter_card(replace(entry, score=replace(entry.score, folder=None)), card.published_base("smollm2-135m"))
    assert "reported by the adapter's author" in text


def test_names_cannot_inject_markup_into_card(entry) -> None:
    odd = "x](https://evil.example) <img src=y> | `z`\n---\nlicense: none"
    text = card.adapter_card(
        replace(entry, method=odd, score=replace(entry.score, verdict=odd, folder=None)), card.PublishedBase(odd, "", "a\nb: c")
    )
    body = text.split("---\n", 2)[2]
    assert "](https://evil" not in text
    assert not re.search(r"(?<!\\)<img", text)
    assert "\n---\n" not in body.replace("| ---", "")
    assert "b: c" not in text.split("---\n", 2)[1]
