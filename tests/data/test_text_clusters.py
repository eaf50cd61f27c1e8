"""Clusters of vectors whose groups are known, their names, and vectors of words."""

import numpy as np

from mlxtune.data.text_clusters import cluster, cluster_names, word_vectors

TOPICS = ("refund money card", "parcel tracking courier", "tent pole fabric")


def _planted(per_topic: int = 30):
    """Return unit vectors in three tight groups and one far from all, with their texts."""
    random = np.random.default_rng(1)
    centers = np.eye(3, 16, dtype=np.float32)
    rows = [center + random.normal(0, 0.05, 16).astype(np.float32) for center in centers for _ in range(per_topic)]
    rows.append(-np.eye(1, 16, 9, dtype=np.float32)[0])
    vectors = np.stack(rows)
    texts = [f"{topic} number {index}" for topic in TOPICS for index in range(per_topic)] + ["zebra"]
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True), texts


def test_planted_groups_and_the_outlier_are_found():
    vectors, texts = _planted()
    labels, names = cluster(vectors, texts)
    assert labels[-1] == -1
    assert labels.count(-1) < 5
    for label, words in enumerate(names):
        topics = {index // 30 for index, own in enumerate(labels) if own == label}
        assert len(topics) == 1  # a cluster never mixes topics
        assert set(words.split()) <= {"number", *TOPICS[topics.pop()].split()}
    assert cluster(vectors, texts) == (labels, names)


def test_few_or_equal_texts_are_one_cluster():
    assert cluster(np.ones((3, 4), np.float32) / 2, ["a"] * 3) == ((0, 0, 0), ("",))
    assert cluster(np.zeros((0, 4), np.float32), []) == ((), ())
    assert set(cluster(np.ones((20, 4), np.float32) / 2, ["same text"] * 20)[0]) == {0}


def test_a_name_has_the_content_words_that_set_a_cluster_apart_in_their_order():
    texts = ["I don't know how to cancel my order", "how can I cancel an order, please", "cancelling the order"]
    texts += ["I don't know how to get a refund", "could you help me get refunds", "do you know about my refund"]
    assert cluster_names([0, 0, 0, 1, 1, 1], texts) == ("cancel order", "refund")
    assert cluster_names([0, 0, 0, -1, -1, -1], texts) == ("cancel order",)
    assert cluster_names([], []) == ()


def test_word_vectors_of_one_topic_are_closest():
    vectors = word_vectors(["cancel my order", "please cancel that order", "where is the refund", "about a refund", "hm"])
    similarity = vectors @ vectors.T
    assert np.allclose(np.diag(similarity), 1)
    assert similarity[0, 1] > 0.99
    assert similarity[2, 3] > 0.99
    assert abs(similarity[0, 2]) < 0.01
