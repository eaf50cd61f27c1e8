"""Padding and rows used, on real sets with the bundled model's tokens: what is computed is at most a tenth more than what is there."""

from __future__ import annotations

import json
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest

from mlxtune.data import batching, samples
from mlxtune.data.rows import Conversation, Message, Place, Row, Text
from mlxtune.data.source import read_file
from mlxtune.models.load import LoadedModel
from mlxtune.models.template import ChatTemplate
from mlxtune.training import batches

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"


def rows_of(name: str) -> list[Row]:
    if name == "samples":
        return list(read_file(Path(samples.__file__).resolve().parents[2] / "data" / "samples" / "support.jsonl"))
    file = SHARED / {"wikisql": "wikisql/train.jsonl", "gsm8k": "peers/gsm8k_test.jsonl"}[name]
    if not file.is_file():
        pytest.skip(f"{file} is not here")
    records = [json.loads(line) for line in file.read_text().splitlines() if line.strip()]
    if name == "wikisql":
        return [Text(Place(file, at), {}, record["text"]) for at, record in enumerate(records)]
    return [
        Conversation(Place(file, at), {}, (Message("user", record["question"]), Message("assistant", record["answer"])))
        for at, record in enumerate(records)
    ]


@pytest.mark.real
@pytest.mark.parametrize("name", ["wikisql", "samples", "gsm8k"])
@pytest.mark.parametrize("bounds", [(0, 2048), (4, 2048)], ids=["tokens", "rows"])
def test_real_sets_are_used_whole_with_little_padding(real: LoadedModel, name: str, bounds: tuple[int, int]) -> None:
    size, tokens = bounds
    encode = ChatTemplate(real.tokenizer).encode
    rows = [encode(row, 1024) for row in rows_of(name)]
    prefix = batches.shared_prefix(rows)
    lengths = [len(row.tokens) - 1 - prefix for row in rows]
    arrange = partial(batching.group, lengths, batch_tokens=tokens, batch_size=size, prefix=prefix)
    made = batching.epoch(len(rows), arrange, seed=7, number=0)
    assert sorted(at for batch in made for at in batch) == list(range(len(rows)))
    computed = sum(len(batch) * batching.padded(max(lengths[at] for at in batch)) for batch in made)
    assert computed / sum(lengths) <= 1.10
    widths = [max(lengths[at] for at in batch) for batch in made]
    rising = sum(a < b for a, b in pairwise(widths)) / (len(widths) - 1)
    assert 0.3 < rising < 0.7  # the order is no order of length
