from __future__ import annotations

import json
import os
from pathlib import Path
from random import Random

import pytest

from mlxtune.data import review
from mlxtune.data.decisions import keyed
from mlxtune.data.groups import asked
from mlxtune.data.rows import Conversation, Message, Place
from mlxtune.data.similar import jaccard
from mlxtune.data.source import read_source
from mlxtune.evaluation import nearest
from mlxtune.evaluation.evidence import Near, linked
from mlxtune.evaluation.wording import nearby


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _: None)


def _row(text: str, line: int = 1) -> Conversation:
    return Conversation(Place(Path("d.jsonl"), line), {}, (Message("user", text), Message("assistant", "Yes.")))


def test_nearest_are_those_of_all_pairs(monkeypatch):
    monkeypatch.setattr(nearest, "_FAILED", 4)
    monkeypatch.setattr(nearest, "_TRAIN", 7)
    random = Random(3)
    words = ["where", "is", "my", "parcel", "the", "order", "tent", "rope", "stove", "wet", "lost", "back", "money", "colour"]
    rows = [_row(" ".join(random.choices(words, k=random.randint(1, 12))), at) for at in range(60)]
    failed, train = rows[:9], rows[9:]
    for row, found in zip(failed, nearest.nearest(failed, train), strict=True):
        alike = [(at, jaccard(asked(row), asked(other))) for at, other in enumerate(train)]
        wanted = sorted((item for item in alike if item[1] > 0), key=lambda item: (-item[1], item[0]))[:3]
        assert [(at, pytest.approx(share)) for at, share in wanted] == found


def test_rows_that_share_nothing_are_not_near():
    assert nearest.nearest([_row("Where is my parcel?")], [_row("qqqqq zzzzz")]) == [[]]
    assert nearest.nearest([], [_row("a")]) == []
    assert nearest.nearest([_row("")], [_row("")]) == [[(0, 1.0)]]


@pytest.fixture
def shop(tmp_path):
    file = tmp_path / "shop.jsonl"
    turns = [[("user", f"Where is my parcel number {at}?"), ("assistant", "Near.")] for at in range(6)]
    lines = [json.dumps({"messages": [{"role": role, "content": text} for role, text in turn]}) + "\n" for turn in turns]
    file.write_text("".join(lines))
    return file


def _kept(folder: Path, file: Path) -> tuple[Near, ...]:
    source = read_source(file)
    nearest.keep(folder, source.rows[:1], source.rows[1:], source)
    [(id, found)] = linked(folder).items()
    assert id == source.rows[0].id
    return found.near


def test_reviewers_are_named_with_what_they_decided(tmp_path, shop):
    rows = list(keyed(read_source(shop).rows))
    with review.Review(shop, who="ann") as deciding:
        deciding.decide("accept", rows[1:3])
        deciding.decide("tag", rows[1:2], add=["delivery"])
        deciding.decide("skip", rows[3:4])
        deciding.undo()
    near = _kept(tmp_path, shop)
    assert [row.line for row in near] == [2, 3, 4]
    assert [[(by.who, by.action) for by in row.reviewed] for row in near] == [
        [("ann", "accept"), ("ann", "tag")], [("ann", "accept")], [],
    ]  # fmt: skip
    assert "shop.jsonl, line 2, accepted by ann on 20" in nearby(near[0])
    assert "tagged by ann" in nearby(near[0])
    assert "not reviewed" in nearby(near[2])


def test_an_edited_row_is_linked_as_it_trained_and_to_who_edited_it(tmp_path, shop):
    rows = list(keyed(read_source(shop).rows))
    record = {"messages": [{"role": "user", "content": "Where is my parcel number 0"}, {"role": "assistant", "content": "Near."}]}
    with review.Review(shop, who="bo") as deciding:
        deciding.decide("edit", rows[5:], record=record)
    near = _kept(tmp_path, shop)
    assert near[0].asks == "Where is my parcel number 0"
    assert [(by.who, by.action) for by in near[0].reviewed] == [("bo", "edit")]
