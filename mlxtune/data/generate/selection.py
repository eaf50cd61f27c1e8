"""Decide which generated rows are proposed: refuse those that break a rule, keep the best candidate of each prompt, and rank them."""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from mlxtune.core.files import write_bytes
from mlxtune.core.sequences import grouped
from mlxtune.data.checks.base import Values
from mlxtune.data.checks.check_input import TokenCount, target_text
from mlxtune.data.checks.contract import ContractScorer
from mlxtune.data.checks.run import recheck
from mlxtune.data.duplicates import THRESHOLD, components, jaccard, links, normalize_text, shingles, similarity
from mlxtune.data.export import jsonl_bytes, native_record
from mlxtune.data.rows import Preference, Row, prompt_hash, prompt_hashes, prompt_text
from mlxtune.data.source import read_file
from mlxtune.data.source_files import GENERATED, all_files, generated_path

HELD_OUT = "held_out"
_CONTAINED = 0.8  # minimum share of a held-out prompt's shingles in a generated text for it to count as copied
_MIN_SHINGLES = 24  # minimum for a held-out prompt; a shorter one occurs in many texts by chance
_MAX_COMPARED = 2000  # known texts in one group of near-duplicates that a text is compared with
_MAX_NOVELTY_ROWS = 10_000  # training rows that novelty is measured against
SAME_ANSWER = 0.97  # similarity at or above which both answers of a pair count as the same


@dataclass(frozen=True)
class Proposal:
    """A generated row for subject number ``subject``. ``scores`` has the teacher's grades from 0 to 1 and the ``novelty``."""

    subject: int
    row: Row
    scores: dict[str, float] = field(default_factory=dict)

    @property
    def grade(self) -> float:
        """The mean grade, or 0.5 if there is none."""
        grades = [value for name, value in self.scores.items() if name != "novelty"]
        return sum(grades) / len(grades) if grades else 0.5


@dataclass(frozen=True)
class Refusal:
    """A generated row or text that is not proposed. Refusals are counted by ``kind``."""

    kind: str  # a check, or a code (see ``present/generation.py``)
    text: str
    reason: str = ""  # and the values of the check's finding
    values: Values = field(default_factory=dict)


class KnownTexts:
    """The texts that a generated row must not repeat, by kind: ``training``, ``held_out``, ``proposed``, or ``rejected``."""

    def __init__(self, rows: Iterable[tuple[str, Row]]) -> None:
        self._kinds: list[str] = []
        self._texts: list[str] = []
        self._prompts: dict[str, str] = {}
        self._postings: defaultdict[str, list[int]] = defaultdict(list)
        self._held_out: list[int] = []  # the number of shingles of each held-out prompt
        for kind, row in rows:
            self._kinds.append(kind)
            self._texts.append(twin_text(row))
            self._prompts.setdefault(prompt_hash(row), kind)
            if kind == HELD_OUT:
                self._prompts[prompt_hash(row)] = kind
                tokens = shingles(normalize_text(prompt_text(row)))
                for token in tokens:
                    self._postings[token].append(len(self._held_out))
                self._held_out.append(len(tokens))

    def repeated(self, rows: Sequence[Row]) -> list[str]:
        """Return the kind of text that each of ``rows`` repeats: that of a known text, ``generated`` for an earlier one of
        ``rows``, or ``""``.

        A row is a repetition if its text is a near-duplicate (Jaccard similarity of at least 0.8), if it has the prompt of a held-out
        row, or if most of a held-out prompt occurs in it.
        """
        texts = [twin_text(row) for row in rows]
        every = [*self._texts, *texts]
        labels = components(len(every), links(every, THRESHOLD))
        known = grouped(zip(labels, range(len(self._texts)), strict=False))
        earlier: defaultdict[int, list[int]] = defaultdict(list)
        result: list[str] = []
        for number, (row, label) in enumerate(zip(rows, labels[len(self._texts) :], strict=True)):
            found = known.get(label, [])[:_MAX_COMPARED]
            kinds = [self._kinds[index] for index in found if jaccard(self._texts[index], texts[number]) >= THRESHOLD]
            known_prompt, *earlier_prompts = (self._prompts.get(hash, "") for hash in prompt_hashes(row))
            if HELD_OUT in (*kinds, known_prompt, *earlier_prompts) or self.copies_held_out(row):
                result.append(HELD_OUT)
                continue
            kind = kinds[0] if kinds else "" if isinstance(row, Preference) else known_prompt
            if not kind and any(
                not result[index] and jaccard(texts[index], texts[number]) >= THRESHOLD for index in earlier[label]
            ):
                kind = "generated"
            result.append(kind)
            earlier[label].append(number)
        return result

    def copies_held_out(self, row: Row) -> bool:
        """Return whether most of a held-out prompt occurs in the texts of ``row`` that a teacher wrote."""
        text = f"{prompt_text(row)}\n{target_text(row)}" if not isinstance(row, Preference) else row.rejected
        shared = Counter(index for token in shingles(normalize_text(text)) for index in self._postings.get(token, ()))
        return any(
            self._held_out[index] >= _MIN_SHINGLES and count >= _CONTAINED * self._held_out[index]
            for index, count in shared.items()
        )


def twin_text(row: Row) -> str:
    """Return the text by which ``row`` is compared with others: its prompt and, in a pair, the worse answer, which is the new
    part."""
    return f"{prompt_text(row)}\n{row.rejected}" if isinstance(row, Preference) else prompt_text(row)


def check_row(
    row: Row, scorer: ContractScorer | None, tokens: TokenCount | None, max_tokens: int, muted: Collection[str] = ()
) -> Refusal | None:
    """Return why ``row`` is refused: a check that warns or blocks and is not ``muted``, or the contract; ``None`` if it passes."""
    if isinstance(row, Preference) and jaccard(row.chosen, row.rejected) >= SAME_ANSWER:
        return Refusal("no_difference", row.rejected)
    findings = (one for one in recheck(0, row, scorer, tokens, max_tokens) if one.severity != "note" and one.check not in muted)
    found = next(findings, None)
    return Refusal(found.check, target_text(row), found.reason, dict(found.values)) if found else None


def best_of_each(proposals: Iterable[Proposal]) -> tuple[list[Proposal], list[Proposal]]:
    """Return the best proposal of each subject, and the others.

    The best has the highest grade and, among equals, the answer that most candidates agree with, by the mean similarity to them.
    """
    best, others = [], []
    for candidates in grouped((proposal.subject, proposal) for proposal in proposals).values():
        texts = [target_text(one.row) for one in candidates]
        agreement = [sum(jaccard(text, other) for other in texts) for text in texts] if len(texts) > 1 else [0.0]
        order = sorted(range(len(candidates)), key=lambda index: (-candidates[index].grade, -agreement[index], index))
        best.append(candidates[order[0]])
        others += [candidates[index] for index in order[1:]]
    return best, others


def ranked(proposals: Sequence[Proposal], train: Sequence[Row]) -> list[Proposal]:
    """Return ``proposals``, most useful first, with the ``novelty`` of each in its scores.

    Usefulness is the grade plus the novelty: 1 minus the highest similarity to a training row or a proposal that ranks higher (maximal
    marginal relevance, Carbonell and Goldstein 1998).
    """
    sizes, postings = list[int](), defaultdict[str, list[int]](list)  # of the training rows, and their numbers by shingle
    for index, row in enumerate(train[:_MAX_NOVELTY_ROWS]):
        tokens = shingles(normalize_text(twin_text(row)))
        sizes.append(len(tokens))
        for token in tokens:
            postings[token].append(index)
    sets = [shingles(normalize_text(twin_text(one.row))) for one in proposals]
    closest = []
    for tokens in sets:
        shared = Counter(index for token in tokens for index in postings.get(token, ()))
        closest.append(max((count / (len(tokens) + sizes[index] - count) for index, count in shared.items()), default=0.0))
    remaining, result = list(range(len(proposals))), []
    while remaining:
        chosen = max(remaining, key=lambda number: (proposals[number].grade - closest[number], -number))
        remaining.remove(chosen)
        scores = proposals[chosen].scores | {"novelty": round(1 - closest[chosen], 3)}
        result.append(replace(proposals[chosen], scores=scores))
        for number in remaining:
            closest[number] = max(closest[number], similarity(sets[chosen], sets[number]))
    return result


def propose(source: Path, rows: Sequence[Row]) -> int:
    """Append ``rows``, the most useful first, to the generated rows of ``source``, and return how many of them are new.

    The file is replaced atomically. A row that it already has is not added again, so this can be repeated after a crash. Raises
    ``DataError`` if the file is invalid, and ``MachineError`` if it is not writable.
    """
    before = read_file(all_files(source)[GENERATED]) if GENERATED in all_files(source) else ()
    known = {row.hash for row in before}
    new = [row for row in {row.hash: row for row in rows}.values() if row.hash not in known]
    if new:
        write_bytes(generated_path(source), jsonl_bytes(map(native_record, [*before, *new])))
    return len(new)
