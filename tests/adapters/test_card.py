"""What a model card says: the evaluation with its intervals, the verdict, the licence of the base, and nothing that obeys."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from measured import measured

from mlxtune.adapters import card, library
from mlxtune.evaluation.statistics import wilson

RUN = "20261124-1412-shop"


@pytest.fixture
def entry(tmp_path: Path, shop):
    shop(RUN)
    evaluation = measured(tmp_path / "work")
    report = json.loads((evaluation / "report.json").read_text())
    report["facts"]["run"] = RUN
    (evaluation / "report.json").write_text(json.dumps(report))
    return library.find(tmp_path / "work", RUN)


def test_the_card_says_what_the_report_says_with_intervals(entry) -> None:
    text = card.card(entry, card.known_base("smollm2-135m"))
    report = json.loads((entry.score.folder / "report.json").read_text())
    assert report["verdict"].split("±")[0][:12] in text
    for hits in (1, 3):
        low, high = wilson(hits, 4)
        assert f"{100 * hits / 4:.1f} % ({100 * low:.0f}–{100 * high:.0f})" in text
    assert "Share of 4 held-out rows that hold" in text
    assert "First look at these rows." in text
    assert "exact McNemar p" in text


def test_the_hub_reads_its_head(entry) -> None:
    found = ModelCard(card.card(entry, card.known_base("smollm2-135m"))).data
    assert (found.base_model, found.license, found.library_name) == ("HuggingFaceTB/SmolLM2-135M-Instruct", "apache-2.0", "mlx")
    assert found.tags == ["mlx", "mlxtune", "lora"]
    assert found.to_dict()["base_model_relation"] == "adapter"


def test_the_bundled_base_is_found_again_by_its_alias_and_known_to_the_world_by_its_id(tmp_path: Path, entry) -> None:
    (tmp_path / "out").mkdir()
    card.stage(entry, card.known_base("smollm2-135m"), tmp_path / "out")
    told, settings = (json.loads((tmp_path / "out" / name).read_text()) for name in ("mlxtune.json", "adapter_config.json"))
    assert (told["base"], settings["model"]) == ("smollm2-135m", "HuggingFaceTB/SmolLM2-135M-Instruct")
    assert told["evaluation"]["verdict"] == entry.score.verdict


def test_a_licence_that_is_not_known_is_not_made_up(tmp_path: Path, entry) -> None:
    text = card.card(entry, card.known_base(str(tmp_path / "my-model")))
    assert "licence of the base is not known here" in text
    assert "license:" not in text
    assert str(tmp_path) not in text
    (tmp_path / "my-model").mkdir()
    (tmp_path / "my-model" / "README.md").write_text("---\nlicense: gemma\n---\n# x")
    base = card.known_base(str(tmp_path / "my-model"))
    assert (base.name, base.hub_id, base.licence) == ("my-model", "", "gemma")
    assert "license: gemma" in card.card(entry, base)
    assert card.known_base("someone/model", "mit") == card.Base("someone/model", "someone/model", "mit")


def test_an_adapter_that_was_not_measured_says_so(entry) -> None:
    assert "was not evaluated: whether it helps is not known" in card.card(
        replace(entry, score=None), card.known_base("smollm2-135m")
    )


def test_what_its_maker_told_is_told_as_such(entry) -> None:
    text = card.card(replace(entry, score=replace(entry.score, folder=None)), card.known_base("smollm2-135m"))
    assert "As told by its maker." in text


def test_no_name_can_break_out_of_the_card(entry) -> None:
    odd = "x](https://evil.example) <img src=y> | `z`\n---\nlicense: none"
    text = card.card(
        replace(entry, method=odd, score=replace(entry.score, verdict=odd, folder=None)), card.Base(odd, "", "a\nb: c")
    )
    body = text.split("---\n", 2)[2]
    assert "](https://evil" not in text
    assert not re.search(r"(?<!\\)<img", text)
    assert "\n---\n" not in body.replace("| ---", "")
    assert "b: c" not in text.split("---\n", 2)[1]
