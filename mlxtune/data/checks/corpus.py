"""Facts about every row, collected in one pass over a source and kept small so that they take less memory than the file."""

from __future__ import annotations  # Python 3.11 cannot subscript array

import hashlib
import json
import sys
from array import array
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from mlxtune.data.checks.check_input import CheckInput, scored_answer, target_text
from mlxtune.data.checks.forms import Form, forms_of
from mlxtune.data.duplicates import Pair, components, near_duplicate_links, normalize_text
from mlxtune.data.rows import Conversation, Preference, Row, TextRow, earlier_prompts, json_value, messages_text, prompt_text
from mlxtune.recipe.schema import Turns

ANSWER = "answer"  # the tag of a row whose whole answer is a label
MAX_LABEL = 100  # characters
MAX_LABELS = 200  # distinct ones
MAX_VALUES = 40  # a metadata key or answer field with more distinct values is not a tag
BOILERPLATE_ROWS = 3  # a sentence or line that this many rows share does not distinguish them
_HASH_BYTES = 16  # leading bytes of a row's hash; enough to identify the row
_ENDS = "!?\n。！？"  # characters that end a sentence or line, besides a period
_MIN_PASSAGE = 16  # characters; shorter ones weigh too little to matter


@dataclass
class Corpus:
    """The input for checks over all rows. Lists are indexed by rank among the valid rows; ``indices`` has the record numbers.

    ``splits`` has each row's split, ``template_notes`` the number of rows with each note; ``read`` loads a row again by its
    record number. With a contract, it says which form answers must have, not the other answers.
    """

    read: Callable[[int], Row]
    has_contract: bool = False
    indices: array[int] = field(default_factory=lambda: array("i"))
    prompts: list[str] = field(default_factory=list)
    passages: array[int] = field(default_factory=lambda: array("q"))  # hashes of the sentences and lines of all prompts
    passage_ranks: array[int] = field(default_factory=lambda: array("i"))  # the rank of each passage's row
    contexts: array[int] = field(default_factory=lambda: array("q"))  # hashes of whole prompts and tools, without case and spaces
    earlier: dict[int, list[int]] = field(default_factory=dict)  # hashes of the prompts that earlier turns train, by rank
    splits: list[str] = field(default_factory=list)
    published: set[int] = field(default_factory=set)  # record numbers of the rows in a test file, which are not training data
    hashes: bytearray = field(default_factory=bytearray)  # 16 bytes of content hash per row
    lengths: array[int] = field(default_factory=lambda: array("i"))  # characters in the whole row
    answers: array[int] = field(default_factory=lambda: array("i"))  # characters in the target
    pairs: dict[int, tuple[int, int]] = field(default_factory=dict)  # characters in chosen and rejected, by rank
    short_answers: dict[int, tuple[str, str]] = field(default_factory=dict)  # part and text of answers that may be labels, by rank
    forms: dict[int, frozenset[Form]] = field(default_factory=dict)  # of the answers, by rank
    sentences: array[int] = field(default_factory=lambda: array("q"))  # hashes of the first and last sentences of the answers
    sentence_ranks: array[int] = field(default_factory=lambda: array("i"))  # the rank of each sentence's row
    tags: dict[str, Counter[str] | None] = field(default_factory=dict)
    template_notes: Counter[str] = field(default_factory=Counter)
    _distinct_forms: dict[frozenset[Form], frozenset[Form]] = field(default_factory=dict)  # many answers share one set

    @cached_property
    def copies(self) -> dict[int, int]:
        """Map the rank of each row that repeats an earlier row's content to the first such rank."""
        first: dict[bytes, int] = {}
        copies = {}
        for rank in range(len(self.indices)):
            if (before := first.setdefault(bytes(self.hashes[rank * _HASH_BYTES : (rank + 1) * _HASH_BYTES]), rank)) != rank:
                copies[rank] = before
        return copies

    @cached_property
    def boilerplate(self) -> frozenset[int]:
        """The hashes of sentences and lines that occur in the prompts of three or more rows; copies of a row count once."""
        first = np.arange(len(self.indices))
        first[list(self.copies)] = list(self.copies.values())
        pairs = np.stack([np.asarray(self.passages, np.int64), first[np.asarray(self.passage_ranks, np.int64)]])
        hashes, counts = np.unique(np.unique(pairs, axis=1)[0], return_counts=True)
        return frozenset(hashes[counts >= BOILERPLATE_ROWS].tolist())

    @cached_property
    def counted(self) -> list[int]:
        """The ranks of the rows that are training data or are split from it."""
        return [rank for rank, index in enumerate(self.indices) if index not in self.published]

    @cached_property
    def openings(self) -> Counter[str]:
        """The number of prompts that begin with the same three words."""
        return Counter(" ".join(self.prompts[rank][:80].split()[:3]) for rank in self.counted)

    @cached_property
    def links(self) -> list[Pair]:
        """Near-duplicate pairs of prompts, by rank. They are just enough to connect each group."""
        return near_duplicate_links(self.prompts)

    @cached_property
    def labels(self) -> list[int]:
        """For each rank, the lowest rank in its group of near-duplicates."""
        return components(len(self.prompts), self.links)

    def add(self, row_input: CheckInput, split: str, turns: Turns = "auto", *, published: bool = False) -> None:
        """Record the facts about a row, of which ``turns`` are trained. One that is ``published`` is in a test file."""
        rank, row, target = len(self.indices), row_input.row, target_text(row_input.row)
        prompt = prompt_text(row)
        hashes = [hash(passage) for passage in passages(prompt) if len(passage) >= _MIN_PASSAGE]
        self.passages.extend(hashes)
        self.passage_ranks.extend([rank] * len(hashes))
        self.indices.append(row_input.index)
        self.prompts.append(normalize_text(prompt))
        context: Any = row.text if isinstance(row, TextRow) else [[turn.as_dict() for turn in row.prompt], row.tools]
        text = normalize_text(json.dumps(context, ensure_ascii=False))
        self.contexts.append(int.from_bytes(hashlib.blake2b(text.encode(errors="replace"), digest_size=7).digest()))
        if earlier := earlier_prompts(row, turns):
            self.earlier[rank] = [hash(normalize_text(messages_text(prompt))) for prompt in earlier]
        self.splits.append(split)
        self.hashes += bytes.fromhex(row.hash[: 2 * _HASH_BYTES])
        self.lengths.append(sum(len(part.text) for part in row_input.parts if part.exact))
        self.answers.append(len(target))
        self.template_notes.update(row_input.tokens.notes if row_input.tokens else ())
        part, answer = scored_answer(row)
        if not published and answer:
            forms, sentences = forms_of(answer)
            self.forms[rank] = self._distinct_forms.setdefault(forms, forms)
            self.sentences.extend(map(hash, sentences))
            self.sentence_ranks.extend([rank] * len(sentences))
        if isinstance(row, Conversation) and is_label(target):
            self.short_answers[rank] = part, sys.intern(target)
        if isinstance(row, Preference):
            self.pairs[rank] = (len(row.chosen), len(row.rejected))
        if published:
            self.published.add(row_input.index)
        for key, value in labels(row, target) if not published else ():
            self._count_tag(key, value)

    def _count_tag(self, key: str, value: Any) -> None:
        counts = self.tags.setdefault(key, Counter())
        if counts is None or value is None:
            return
        for item in value if isinstance(value, list) else [value]:
            if not isinstance(item, str | int | bool) or (isinstance(item, str) and len(item) > MAX_LABEL):
                self.tags[key] = None
                return
            counts[str(item)] += 1
        if len(counts) > (MAX_LABELS if key == ANSWER else MAX_VALUES):
            self.tags[key] = None


def is_label(text: str) -> bool:
    """Return whether an answer may be a label: it is short and not JSON."""
    return 0 < len(text) <= MAX_LABEL and "\n" not in text and text[0] not in "{["


def passages(text: str) -> list[str]:
    """Return the sentences and lines of ``text``, case-folded."""
    text = text.casefold()
    for end in _ENDS:  # faster than a regular expression
        text = text.replace(end, ".")
    return [stripped for passage in text.split(".") if (stripped := passage.strip())]


def labels(row: Row, target: str) -> Iterator[tuple[str, Any]]:
    """Yield the metadata of a row and, as ``answer.KEY``, the fields of its JSON answer, or as ``answer`` its short answer."""
    yield from row.meta.items()
    if isinstance(row, Conversation) and is_label(target):
        yield ANSWER, target
    for key, value in json_fields(target).items():
        yield f"answer.{key}", value


def json_fields(answer: str) -> dict[str, Any]:
    return (json_object(answer) if answer.startswith("{") else None) or {}


def json_object(text: str) -> dict[str, Any] | None:
    value = json_value(text)
    return value if isinstance(value, dict) else None
