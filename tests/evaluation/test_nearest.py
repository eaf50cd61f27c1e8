import json
from pathlib import Path
from random import Random

import numpy as np
import pytest
from keyed_rows import with_keys

from mlxtune.data import review
from mlxtune.data.duplicates import jaccard
from mlxtune.data.rows import Conversation, Location, Message, prompt_text
from mlxtune.data.source import read_source
from mlxtune.evaluation import nearest_rows
from mlxtune.evaluation.evidence import NearestRow, load_nearest
from mlxtune.present.report import nearest_row_text


def _row(text: str, line: int = 1) -> Conversation:
    return Conversation(Location(Path("d.jsonl"), line), {}, (Message("user", text), Message("assistant", "Yes.")))


def test_nearest_rows_match_brute_force(monkeypatch):
    monkeypatch.setattr(nearest_rows, "_FAILED", 4)
    random = Random(3)
    words = ["where", "is", "my", "parcel", "the", "order", "tent", "rope", "stove", "wet", "lost", "back", "money", "colour"]
    rows = [_row(" ".join(random.choices(words, k=random.randint(1, 12))), at) for at in range(60)]
    failed, train = rows[:9], rows[9:]
    for row, neighbors in zip(failed, nearest_rows.nearest_rows(failed, train), strict=True):
        alike = [(at, jaccard(prompt_text(row), prompt_text(other))) for at, other in enumerate(train)]
        wanted = sorted((item for item in alike if item[1] > 0), key=lambda item: (-item[1], item[0]))[:3]
        assert [(at, pytest.approx(share)) for at, share in wanted] == neighbors


def test_rows_without_overlap_are_not_near():
    assert nearest_rows.nearest_rows([_row("Where is my parcel?")], [_row("qqqqq zzzzz")]) == [[]]
    assert nearest_rows.nearest_rows([], [_row("a")]) == []
    assert nearest_rows.nearest_rows([_row("")], [_row("")]) == [[(0, 1.0)]]


def test_meaning_counts_as_much_as_wording():
    train = [_row("my parcel is late"), _row("the delivery has not come"), _row("how do I wash a tent")]
    asked = _row("my parcel has gone missing")
    vectors = {
        row.id: np.array(value, np.float32)
        for row, value in zip([asked, *train], [[1, 0], [0.6, 0.8], [0.9, 0.436], [-1, 0]], strict=True)
    }
    wording = np.array([jaccard(prompt_text(asked), prompt_text(row)) for row in train])
    meaning = np.array([0.6, 0.9, -1])
    score = wording / wording.std() + meaning / meaning.std()
    assert nearest_rows.nearest_rows([asked], train, vectors, count=1) == [[(int(np.argmax(score)), pytest.approx(0.6))]]
    [found] = nearest_rows.nearest_rows([asked], train, vectors)
    assert found == [(1, pytest.approx(0.9)), (0, pytest.approx(0.6)), (2, 0.0)]
    assert nearest_rows.nearest_rows([asked], [], vectors) == [[]]


@pytest.fixture
def shop(tmp_path):
    file = tmp_path / "shop.jsonl"
    turns = [[("user", f"Where is my parcel number {at}?"), ("assistant", "Near.")] for at in range(6)]
    lines = [json.dumps({"messages": [{"role": role, "content": text} for role, text in turn]}) + "\n" for turn in turns]
    file.write_text("".join(lines))
    return file


def _kept(folder: Path, file: Path) -> tuple[NearestRow, ...]:
    source = read_source(file)
    nearest_rows.save_nearest(folder, source.rows[:1], source.rows[1:], source)
    [(id, neighbors)] = load_nearest(folder).items()
    assert id == source.rows[0].id
    return neighbors


def test_reviewers_and_decisions_are_listed(tmp_path, shop):
    rows = list(with_keys(read_source(shop).rows))
    with review.ReviewSession(shop, who="ann") as deciding:
        deciding.decide("accept", rows[1:3])
        deciding.decide("tag", rows[1:2], add=["delivery"])
        deciding.decide("skip", rows[3:4])
        deciding.undo()
    near = _kept(tmp_path, shop)
    assert [row.line for row in near] == [2, 3, 4]
    assert [[(by.who, by.action) for by in row.reviews] for row in near] == [
        [("ann", "accept"), ("ann", "tag")], [("ann", "accept")], [],
    ]  # fmt: skip
    assert "shop.jsonl, line 2, accepted by ann on 20" in nearest_row_text(near[0])
    assert "tagged by ann" in nearest_row_text(near[0])
    assert "not reviewed" in nearest_row_text(near[2])


def test_edited_row_links_trained_text_and_editor(tmp_path, shop):
    rows = list(with_keys(read_source(shop).rows))
    record = {"messages": [{"role": "user", "content": "Where is my parcel number 0"}, {"role": "assistant", "content": "Near."}]}
    with review.ReviewSession(shop, who="bo") as deciding:
        deciding.decide("edit", rows[5:], record=record)
    near = _kept(tmp_path, shop)
    assert near[0].question == "Where is my parcel number 0"
    assert [(by.who, by.action) for by in near[0].reviews] == [("bo", "edit")]


@pytest.mark.parametrize(
    ("evaluated", "train", "compared"), [(10, 200, True), (10, 201, False), (72, 402, True), (900, 10_001, False)]
)
def test_meaning_is_compared_only_if_its_time_pays_off(evaluated, train, compared):
    assert nearest_rows.is_meaning_compared(evaluated, train) is compared
