"""The groups of a result, and the worker on the tiny random model."""

import json
from types import SimpleNamespace

import pytest
from tiny_model import make_tiny

from mlxtune.core.child_process import Request
from mlxtune.core.json_fields import to_json
from mlxtune.data.groups import CLUSTER, OUTLIERS, ClusterResult, start_clustering
from mlxtune.models.clusters import MAX_ROWS, clusters

TOPICS = ("refund money card", "parcel tracking courier", "tent pole fabric")


def test_groups_of_a_result():
    groups = ClusterResult((3, 5, 8, 9), (0, 0, -1, 1), ("lamp", "boots")).groups
    assert [(group.kind, group.rows, group.label) for group in groups] == [(OUTLIERS, (8,), ""), (CLUSTER, (3, 5), "lamp")]


@pytest.mark.slow
def test_the_worker_clusters_a_source_and_stores_the_result(tmp_path, monkeypatch):
    monkeypatch.setenv("MLXTUNE_HOME", str(tmp_path / "home"))
    make_tiny(tmp_path / "tiny")
    rows = [{"prompt": f"{topic} {index}", "completion": "ok"} for topic in TOPICS for index in range(6)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = tmp_path / "r.toml"
    recipe.write_text('name = "r"\n[model]\nbase = "tiny"\n[data]\nsource = "rows.jsonl"\n')
    steps = []
    result = start_clustering(recipe).result(lambda step, share: steps.append(step))
    assert result.rows == tuple(range(18))
    assert "computing hidden states" in steps
    monkeypatch.setattr("mlxtune.models.load.load", lambda *_, **__: pytest.fail("loaded again"))
    request = Request(1, "clusters", {"recipe": str(recipe)}, SimpleNamespace(reply=lambda *_: None))
    assert clusters(request) == to_json(result)
    assert MAX_ROWS > 18
