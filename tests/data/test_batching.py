"""On real data, batches use every row and add at most 10% padding."""

import json
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest

from mlxtune.data import batching, samples
from mlxtune.data.rows import Conversation, Location, Message, Row, TextRow
from mlxtune.data.source import read_file
from mlxtune.models.load import LoadedModel
from mlxtune.models.template import ChatTemplate
from mlxtune.training import sft

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"


def rows_of(name: str) -> list[Row]:
    if name == "samples":
        return list(read_file(Path(samples.__file__).resolve().parents[2] / "data" / "samples" / "support.jsonl"))
    file = SHARED / {"wikisql": "wikisql/train.jsonl", "gsm8k": "peers/gsm8k_test.jsonl"}[name]
    if not file.is_file():
        pytest.skip(f"{file} is missing")
    records = [json.loads(line) for line in file.read_text().splitlines() if line.strip()]
    if name == "wikisql":
        return [TextRow(Location(file, index), {}, record["text"]) for index, record in enumerate(records)]
    return [
        Conversation(Location(file, index), {}, (Message("user", record["question"]), Message("assistant", record["answer"])))
        for index, record in enumerate(records)
    ]


@pytest.fixture(scope="module", params=["wikisql", "samples", "gsm8k"])
def tokens(request: pytest.FixtureRequest, real: LoadedModel) -> tuple[int, list[int]]:
    """The tokens that the rows of a file share at their beginning, and how many follow in each."""
    encode = ChatTemplate(real.tokenizer).encode
    rows = [encode(row, 1024)[0] for row in rows_of(request.param)]
    prefix = sft.shared_prefix(rows)
    return prefix, [len(row.tokens) - 1 - prefix for row in rows]


@pytest.mark.real
@pytest.mark.parametrize("size", [0, 4], ids=["tokens", "rows"])
def test_batches_use_every_row_with_little_padding(tokens: tuple[int, list[int]], size: int) -> None:
    prefix, lengths = tokens
    arrange = partial(batching.group_by_length, lengths, batch_tokens=2048, batch_size=size, prefix=prefix)
    batches = batching.epoch_batches(len(lengths), arrange, seed=7, number=0)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    computed = sum(len(batch) * batching.padded_length(max(lengths[index] for index in batch)) for batch in batches)
    assert computed / sum(lengths) <= 1.10
    widths = [max(lengths[index] for index in batch) for batch in batches]
    rising = sum(a < b for a, b in pairwise(widths)) / (len(widths) - 1)
    assert 0.3 < rising < 0.7  # batches are not sorted by length
