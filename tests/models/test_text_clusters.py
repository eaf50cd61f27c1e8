"""Clusters of vectors whose groups are known, and the worker on the tiny random model."""

import json

import numpy as np
import pytest
from tiny_model import make_tiny

from mlxtune.data.groups import CLUSTER, OUTLIERS
from mlxtune.models.clusters import MAX_ROWS, cluster
from mlxtune.planning.cluster_process import ClusterProcess, ClusterResult

TOPICS = ("refund money card", "parcel tracking courier", "tent pole fabric")


def _planted(per_topic: int = 30):
    """Return unit vectors in three tight groups and one far from all, with their texts."""
    random = np.random.default_rng(1)
    centers = np.eye(3, 16, dtype=np.float32)
    rows = [center + random.normal(0, 0.05, 16).astype(np.float32) for center in centers for _ in range(per_topic)]
    rows.append(-np.eye(1, 16, 9, dtype=np.float32)[0])
    vectors = np.stack(rows)
    texts = [f"{topic} number {index}" for topic in TOPICS for index in range(per_topic)] + ["zebra"]
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True), dict(enumerate(texts))


def test_planted_groups_and_the_outlier_are_found():
    vectors, texts = _planted()
    found = cluster(vectors, texts)
    assert found.labels[-1] == -1
    assert found.labels.count(-1) < 5
    for label, words in enumerate(found.words):
        topics = {index // 30 for index, own in enumerate(found.labels) if own == label}
        assert len(topics) == 1  # a cluster never mixes topics
        assert set(words.split()) <= {"number", *TOPICS[topics.pop()].split()}
    assert cluster(vectors, texts) == found


def test_few_or_equal_texts_are_one_cluster():
    assert cluster(np.ones((3, 4), np.float32) / 2, dict.fromkeys(range(3), "a")).labels == (0, 0, 0)
    assert cluster(np.zeros((0, 4), np.float32), {}).labels == ()
    assert set(cluster(np.ones((20, 4), np.float32) / 2, dict.fromkeys(range(20), "same text")).labels) == {0}


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
    result = ClusterProcess(recipe).follow(lambda step, share: steps.append(step))
    assert result is not None
    assert result.rows == tuple(range(18))
    assert "computing hidden states" in steps
    steps.clear()
    assert ClusterProcess(recipe).follow(lambda step, share: steps.append(step)) == result
    assert "computing hidden states" not in steps
    assert MAX_ROWS > 18
