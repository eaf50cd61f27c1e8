"""Areas with too few rows: failures of the newest evaluation, rare labels, and unusual texts. Only training rows are considered."""

import json
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

from evaluation_files import BAD, GOOD, write_evaluation
from texts import WORDS
from typer.testing import CliRunner

from mlxtune.cli.main import app
from mlxtune.data.generate.context import training_rows
from mlxtune.data.groups import ClusterResult
from mlxtune.evaluation import thin_rows as module
from mlxtune.evaluation.thin_rows import thin_clusters, thin_rows
from mlxtune.present.generation import thin_rows_text
from mlxtune.recipe import Recipe, load


def write_source(folder: Path, *, labeled: bool = True) -> Recipe:
    """Write 64 rows, of which six have the category ``account``, and return their recipe."""
    rows = [
        {"prompt": f"The {WORDS[at % 16]} and my {WORDS[at * 7 % 13]}, number {at * 7919}?", "completion": "Yes."}
        | ({"category": "account" if at % 10 == 3 else ("order", "product")[at % 2]} if labeled else {})
        for at in range(64)
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "r.toml").write_text('name = "r"\n[model]\nbase = "m"\n[data]\nsource = "rows.jsonl"\nvalidation = 0.1\n')
    return load(folder / "r.toml")


def test_a_rare_label_is_thin(tmp_path):
    recipe = write_source(tmp_path)
    [place] = thin_rows(tmp_path, recipe)
    train = training_rows(recipe)
    accounts = [row for row in train if row.meta["category"] == "account"]
    assert (place.kind, place.name, place.count, place.total) == ("label", "category: account", len(accounts), len(train))
    assert thin_rows_text(place) == f"few rows have category: account ({len(accounts)} of {len(train)})"
    assert place.examples == tuple(row.id for row in accounts)


def test_failures_come_first(tmp_path):
    write_evaluation(tmp_path, base=[BAD] * 4, tuned=[GOOD, BAD, BAD, BAD])
    recipe = load(tmp_path / "shop.toml")
    places = thin_rows(tmp_path, recipe)
    assert (places[0].kind, places[0].count, places[0].name) == ("failures", 3, "prose")
    assert set(places[0].examples) <= {row.id for row in training_rows(recipe)}


def test_without_labels_the_texts_unlike_all_others_and_small_clusters_are_thin(tmp_path, monkeypatch):
    recipe = write_source(tmp_path, labeled=False)
    assert thin_rows(tmp_path, recipe) == []
    labels = [-1, -1, *[0] * 8, *[1] * 54]
    result = ClusterResult(tuple(range(64)), tuple(labels), ("anchor", "basket"))
    monkeypatch.setattr(module, "start_clustering", lambda recipe: SimpleNamespace(result=lambda progress: result))
    places = thin_clusters(tmp_path / "r.toml", recipe, lambda step, share: None)
    train = {row.location.line: row.id for row in training_rows(recipe)}
    expected = [[train[line] for line in lines if line in train] for lines in ((1, 2), range(3, 11), range(11, 65))]
    assert [list(place.examples) for place in places] == [ids for ids in expected if ids]
    assert [(place.kind, place.name) for place in places][-1] == ("cluster", "basket")


def test_the_command_lists_thin_rows_and_uses_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    [place] = thin_rows(tmp_path, write_source(tmp_path))
    command = ["data", "generate", "r.toml"]
    listed = CliRunner().invoke(app, [*command, "--json"])
    assert json.loads(listed.output)["thin"] == [asdict(place) | {"examples": list(place.examples)}]
    assert thin_rows_text(place) in CliRunner().invoke(app, command).output
    teacher = ["--local", "m", "--dry-run"]
    chosen = CliRunner().invoke(app, [*command, *teacher])
    assert f"because {thin_rows_text(place)}" in " ".join(chosen.output.split())
    for options, message in (
        (["--thin", "2"], "no entry 2"),
        (["--thin", "1", "--like", "meta.category:order"], "cannot be combined"),
    ):
        refused = CliRunner().invoke(app, [*command, *teacher, *options])
        assert refused.exit_code
        assert message in str(refused.exception)
    assert "because" not in CliRunner().invoke(app, [*command, *teacher, "--thin", "0"]).output
