"""Split a source into train, valid and test by content, not by position, so that every row stays in its split.

The assignment is recorded in a sidecar file next to the source, which also holds the hashes of sealed rows: rows that an evaluation
or an export has used and that must never be used for training. Generated rows are only ever used for training.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shlex
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Literal, TypeVar, get_args

from mlxtune.core.errors import DataError, InputError
from mlxtune.core.files import disk_errors, read_json, require_version, write_json
from mlxtune.core.hashing import unit_interval
from mlxtune.core.sequences import grouped
from mlxtune.core.text import plural
from mlxtune.data.generate.lineage import lineage_of
from mlxtune.data.rows import PromptRow, Prompts, Row, messages_text, prompt_hash, prompt_hashes, row_prompts, row_tags, turn_rows
from mlxtune.data.source import Source, read_source
from mlxtune.data.source_files import GENERATED, PARTS, sidecar_path
from mlxtune.recipe import DataSection, Recipe
from mlxtune.recipe.schema import Turns

SplitName = Literal["train", "valid", "test"]
SPLIT_NAMES: tuple[SplitName, ...] = get_args(SplitName)
VERSION = 1
_MAX_TAGS = 8  # in a summary
AnyRow = TypeVar("AnyRow", bound=Row)


@dataclass(frozen=True)
class SplitSettings:
    """The settings of a split. Different settings produce a different split."""

    seed: int
    holdout: float
    validation: float
    group_by: str

    @classmethod
    def from_section(cls, data: DataSection) -> SplitSettings:
        return cls(data.seed, data.holdout, data.validation, data.group_by)


@dataclass(frozen=True)
class Membership:
    """The sidecar file: ``splits`` maps settings to the split of each row and prompt, by hash; ``sealed`` has hashes of both."""

    splits: Mapping[SplitSettings, Mapping[str, SplitName]] = field(default_factory=dict)
    sealed: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Splits:
    """The three splits of a source. ``set_aside`` has new rows whose near-duplicates are in several splits, and generated ones that are
    too close to held-out rows.

    ``previously_sealed`` has the hashes of rows and prompts that an earlier evaluation or export has sealed. ``turns`` says which
    answers of a conversation are trained. ``reserved`` has the test rows that only the last look evaluates.
    """

    train: tuple[Row, ...]
    valid: tuple[Row, ...]
    test: tuple[Row, ...]
    set_aside: tuple[Row, ...] = ()
    previously_sealed: frozenset[str] = frozenset()
    turns: Turns = "auto"
    reserved: tuple[Row, ...] = ()

    @property
    def evaluated(self) -> tuple[Row, ...]:
        """The test rows that are not reserved."""
        reserved = {row.hash for row in self.reserved}
        return tuple(row for row in self.test if row.hash not in reserved)

    @cached_property
    def prompts(self) -> list[PromptRow]:
        """The evaluated rows that have a prompt. With ``turns`` = "each", these are all turns of their conversations, except earlier
        ones whose prompt nearly duplicates a trained one."""
        rows = [row for row in self.evaluated if isinstance(row, PromptRow)]
        if self.turns != "each":
            return rows
        trained = [use for row in (*self.train, *self.valid) for use in row_prompts(row, self.turns)]
        turns = [(one, prompt_hash(one)) for row in rows for one in turn_rows(row)]
        repeated, last = near_prompts(trained, [(hash, one.prompt) for one, hash in turns]), {row.hash for row in rows}
        return list({one.hash: one for one, hash in turns if one.hash in last or hash not in repeated}.values())

    @property
    def sealed(self) -> frozenset[str]:
        """Hashes that must never be used for training: earlier sealed ones, and the prompts of the test split."""
        return self.previously_sealed | {prompt_hash(row) for row in self.test}

    @property
    def sealed_count(self) -> int:
        """The number of test rows that an evaluation or an export has recorded."""
        return sum(row.hash in self.previously_sealed for row in self.test)

    @property
    def tags(self) -> dict[str, dict[SplitName, int]]:
        """The number of rows in each split that have each of the most frequent tags."""
        counts = {name: Counter(next(iter(row_tags(row)), "") for row in getattr(self, name)) for name in SPLIT_NAMES}
        total: Counter[str] = sum(counts.values(), Counter())
        return {tag: {name: counts[name][tag] for name in SPLIT_NAMES} for tag, _ in total.most_common(_MAX_TAGS) if tag}

    def refuse_sealed(self, rows: Iterable[Row]) -> None:
        """Raise ``DataError`` if one of the training ``rows`` is sealed or trains an answer to a held-out prompt."""
        sealed = self.sealed
        leaked = [row for row in rows if row.hash in sealed or not sealed.isdisjoint(prompt_hashes(row, self.turns))]
        if leaked:
            locations = "; ".join(str(row.location) for row in leaked[:5])
            raise DataError(
                f"{plural(len(leaked), 'training row')} {'is' if len(leaked) == 1 else 'are'} also in the test split: {locations}.",
                hint=f"An evaluation on rows used for training proves nothing, so leave them out: {_fix_command(leaked)}",
            )


def _fix_command(rows: Sequence[Row]) -> str:
    """Return the command that leaves training ``rows`` out. In a folder, rejecting them would also reject their copies in other
    files."""
    file = rows[0].location.file
    if file.name in {f"{part}.jsonl" for part in PARTS} and (file.parent / "test.jsonl").is_file():
        return f"mlxtune data check {shlex.quote(os.path.relpath(file.parent))} --fix"
    numbers = " ".join(dict.fromkeys(str(row.location.number) for row in rows))
    return f"mlxtune data review {shlex.quote(os.path.relpath(file))} {numbers} --reject"


def recipe_splits(recipe: Recipe) -> Splits:
    """Read the source of ``recipe`` and split it as :func:`split` does."""
    return split(read_source(recipe.source, recipe.data), recipe.data)


def split(source: Source, data: DataSection) -> Splits:
    """Split ``source``. Splits that the source's own files define are kept.

    Rows that :func:`group_labels` groups stay together: in the split that was recorded for them (by :func:`record_splits`,
    with the same settings), or else in the split that :func:`assign` draws. A row without near-duplicates or tags never moves when
    others are added, and a recorded row never moves at all. Sealed rows are always in the test split. New rows whose
    near-duplicates are in several splits are set aside.

    Generated rows are training rows, and do not change the size of the other splits. A new row that nearly duplicates one is a training
    row, too. A generated row is set aside if it nearly duplicates a row in the test or valid split, or was generated from one.

    Raises ``DataError`` if a requested split is empty, or if held-out rows are among the others.
    """
    parts = dict(source.parts)
    generated = parts.pop(GENERATED, ())
    pool = parts.pop("all" if "all" in parts else "train")
    generated += tuple(row for row in pool if lineage_of(row))
    pool = tuple(row for row in pool if not lineage_of(row))
    if not data.generated:
        generated = ()
    membership = load_membership(source.path)
    recorded = membership.splits.get(SplitSettings.from_section(data), {})

    def known_split(row: Row) -> SplitName | None:
        if not recorded and not membership.sealed:
            return None
        own, *earlier = prompt_hashes(row, data.turns)
        return _known_split((row.hash, source.edited.get(row.hash, row.hash), own), earlier, recorded, membership.sealed)

    known = [None if name in parts else name for name in map(known_split, pool)]
    others = [*generated, *(row for name in ("test", "valid") for row in parts.get(name, ()))] if generated else []
    is_new = None in known or any(known_split(row) != "train" for row in generated)
    # if every row's split is known, near-duplicates do not matter
    everything = [*pool, *others]
    labels: Sequence[int] = group_labels(everything, data.turns, data.group_by) if is_new else range(len(everything))
    generated_labels = labels[len(pool) : len(pool) + len(generated)]
    held_out = {label for name, label in zip(known, labels, strict=False) if name in ("test", "valid")}
    held_out |= set(labels[len(pool) + len(generated) :])
    near_generated: dict[int, SplitName] = dict.fromkeys(set(generated_labels) - held_out, "train")
    items = [
        SplitItem(label, group_name(row, data.group_by), next(iter(row_tags(row)), ""), name or near_generated.get(label))
        for row, label, name in zip(pool, labels, known, strict=False)
    ]
    requested: dict[SplitName, float] = {"train": 1.0, "valid": data.validation, "test": data.holdout}
    fractions: dict[SplitName, float] = {name: 0.0 if name in parts else requested[name] for name in ("test", "valid")}
    rows: dict[SplitName | None, list[Row]] = {None: []} | {name: list(parts.get(name, ())) for name in SPLIT_NAMES}
    for row, assigned in zip(pool, assign(items, fractions, data.seed), strict=True):
        rows[assigned].append(row)
    _check_not_empty(rows, requested, len(source.rows))
    ids = {id for name in ("test", "valid") for row in rows[name] for id in (row.id, source.edited.get(row.hash, "")[:12])}
    for row, label in zip(generated, generated_labels, strict=True):
        lineage = lineage_of(row)
        is_close = label in held_out or known_split(row) in ("test", "valid")
        derived = lineage is not None and not ids.isdisjoint(lineage.examples)
        rows[None if is_close or derived else "train"].append(row)
    train, valid, test, set_aside = (tuple(rows[name]) for name in (*SPLIT_NAMES, None))
    result = Splits(train, valid, test, set_aside, membership.sealed, data.turns, _reserved(test, data))
    result.refuse_sealed((*result.train, *result.valid))
    return result


def _reserved(test: Sequence[Row], data: DataSection) -> tuple[Row, ...]:
    """Return the rows of the groups that draw a number below ``data.reserve``. A row without near-duplicates never moves."""
    if not data.reserve:
        return ()
    labels = group_labels(test, data.turns, data.group_by)
    hashes = grouped(zip(labels, map(prompt_hash, test), strict=True))
    drawn = {label for label, own in hashes.items() if unit_interval("reserve", data.seed, min(own)) < data.reserve}
    return tuple(row for row, label in zip(test, labels, strict=True) if label in drawn)


def _check_not_empty(rows: Mapping[SplitName | None, Sequence[Row]], requested: Mapping[SplitName, float], total: int) -> None:
    for name, fraction in requested.items():
        if fraction and not rows[name]:
            raise DataError(
                f"The {name} split is empty: {plural(total, 'row')} {'is' if total == 1 else 'are'} too few.",
                hint="Add rows, or give this split more of them with data.holdout and data.validation.",
            )


def _known_split(
    hashes: Iterable[str], earlier: Iterable[str], recorded: Mapping[str, SplitName], sealed: frozenset[str]
) -> SplitName | None:
    """Return the recorded split of a row with these hashes, unless they differ, as after an edit of its prompt.

    A new row that trains an answer to a sealed prompt in an ``earlier`` turn is a test row.
    """
    if not sealed.isdisjoint(hashes):
        return "test"
    names = {recorded[hash] for hash in hashes if hash in recorded}
    if not names and not sealed.isdisjoint(earlier):
        return "test"
    return names.pop() if len(names) == 1 else None


# Groups of rows that stay together


def group_name(row: Row, key: str) -> str:
    """Return the value that a row is grouped by: its metadata for ``key`` if it has any, or else its prompt."""
    if key and row.meta.get(key) is not None:
        return f"{key}={row.meta[key]}"
    return prompt_hash(row)


def group_labels(rows: Sequence[Row], turns: Turns, key: str = "") -> list[int]:
    """Return a label for each row; rows with the same label must stay in one split.

    Rows are tied by near-duplicate prompts, by their metadata value for ``key``, and if one trains an answer to a near-duplicate of the
    other's prompt, in any of its ``turns``.
    """
    from mlxtune.data import duplicates  # loads numpy, which `mlxtune --help` does not need

    prompts = [row_prompts(row, turns) for row in rows]
    numbers = {hash: number for number, hash in enumerate(dict.fromkeys(last for (last, _), *_ in prompts))}
    prompt_numbers = [numbers[last] for (last, _), *_ in prompts]
    groups = near_prompts([last for last, *_ in prompts], [one for _, *earlier in prompts for one in earlier])
    texts = [""] * len(numbers)
    first: dict[str, int] = {}
    ties: list[duplicates.Pair] = []
    for row, number, trained in zip(rows, prompt_numbers, prompts, strict=True):
        texts[number] = texts[number] or messages_text(trained[0][1])
        names = [groups[hash] for hash, _ in trained if hash in groups]
        if key and row.meta.get(key) is not None:
            names.append(f"{key}={row.meta[key]}")
        ties += [(number, first.setdefault(name, number), 1.0) for name in names]
    links = duplicates.near_duplicate_links(texts, Counter(prompt_numbers))
    labels = duplicates.components(len(texts), [*ties, *links])
    return [labels[number] for number in prompt_numbers]


def near_prompts(one: Prompts, other: Prompts) -> dict[str, str]:
    """Return, by hash, the group of each prompt in ``one`` that nearly duplicates one in ``other``, and the reverse.

    Both have a prompt and its hash for each row that uses it. Only prompts after the same number of answers are compared, so those of one
    conversation, each of which contains the one before, never are.
    """
    from mlxtune.data import duplicates

    uses, groups = Counter(hash for hash, _ in (*one, *other)), dict[str, str]()
    by_answers = [
        grouped((sum(turn.role == "assistant" for turn in prompt), (hash, prompt)) for hash, prompt in prompts)
        for prompts in (one, other)
    ]
    for answers in by_answers[0].keys() & by_answers[1].keys():
        first, second = (prompts[answers] for prompts in by_answers)
        texts = {hash: messages_text(prompt) for hash, prompt in (*first, *second)}
        links = duplicates.near_duplicate_links([*texts.values()], Counter({at: uses[hash] for at, hash in enumerate(texts)}))
        labels = dict(zip(texts, duplicates.components(len(texts), links), strict=True))
        both = {labels[hash] for hash, _ in first} & {labels[hash] for hash, _ in second}
        groups |= {hash: f"{answers} {label}" for hash, label in labels.items() if label in both}
    return groups


# The seeded assignment


@dataclass(frozen=True)
class SplitItem:
    """A row to assign: its group's label, its name for the draw, its tag, and its split if known."""

    label: int
    name: str
    tag: str
    split: SplitName | None


def assign(items: Sequence[SplitItem], fractions: Mapping[SplitName, float], seed: int) -> list[SplitName | None]:
    """Return the split of each item; ``None`` for a new one whose group is in several splits already.

    ``fractions`` has the requested fractions of the test and valid splits. Each group draws a number in [0, 1) from ``seed`` and its
    smallest name. A group without a tag (the tag of its smallest name) goes to test if the number is below
    ``fractions["test"]``, and to valid if it is in the next interval of ``fractions["valid"]``, independent of other groups. Groups
    with a tag are assigned in the order of the numbers until the tag's splits are full; the rounding error carries over to the next
    tag in alphabetical order, so that many small tags add up. A group of more than twice a split's size never goes there.
    """
    groups = grouped((item.label, item) for item in items)
    assigned: dict[int, SplitName | None] = {}
    strata: defaultdict[str, list[tuple[float, int]]] = defaultdict(list)
    for label, members in groups.items():
        known = {item.split for item in members} - {None}
        if known:
            assigned[label] = known.pop() if len(known) == 1 else None
            continue
        first = min(members, key=lambda item: (item.name, item.tag))
        number = unit_interval(seed, first.name)
        if first.tag:
            strata[first.tag].append((number, label))
        else:
            assigned[label] = _draw(number, len(members), len(items), fractions)
    sizes = {label: len(members) for label, members in groups.items()}
    placed = Counter((item.tag, item.split) for item in items if item.split and item.tag)
    assigned |= _stratify(strata, sizes, placed, fractions)
    return [item.split or assigned[item.label] for item in items]


def _draw(number: float, size: int, total: int, fractions: Mapping[SplitName, float]) -> SplitName:
    start = 0.0
    for name in ("test", "valid"):
        if start <= number < start + fractions[name]:
            return name if size == 1 or size <= 2 * fractions[name] * total else "train"
        start += fractions[name]
    return "train"


def _stratify(
    strata: Mapping[str, Iterable[tuple[float, int]]],
    sizes: Mapping[int, int],
    placed: Mapping[tuple[str, SplitName], int],
    fractions: Mapping[SplitName, float],
) -> dict[int, SplitName]:
    """Return the split of each group ``(number, label)`` of each stratum; ``placed`` counts the items whose split is known."""
    assigned: dict[int, SplitName] = {}
    carry = dict.fromkeys(fractions, 0.0)
    for tag, groups in sorted(strata.items()):
        total = sum(sizes[label] for _, label in groups) + sum(count for (other, _), count in placed.items() if other == tag)
        room = {name: carry[name] + fraction * total - placed.get((tag, name), 0) for name, fraction in fractions.items()}
        for _, label in sorted(groups):
            name: SplitName = next(
                (name for name in ("test", "valid") if fractions[name] and 2 * room[name] >= sizes[label]), "train"
            )
            assigned[label] = name
            if name != "train":
                room[name] -= sizes[label]
        carry = {name: max(-1.0, min(1.0, left)) for name, left in room.items()}
    return assigned


# The sidecar file


def membership_path(source: Path) -> Path:
    """Return the path of the sidecar: ``support.split.json`` next to ``support.jsonl``."""
    return sidecar_path(source, "split.json")


def load_membership(source: Path) -> Membership:
    """Load the recorded splits of ``source``. Raises ``DataError`` if the file is invalid, ``InputError`` if another version wrote it."""
    path = membership_path(source)
    if not path.exists():
        return Membership()
    try:
        value = read_json(path)
        version = value["v"]
        splits = {
            SplitSettings(**entry["asked"]): {hash: name for name in SPLIT_NAMES for hash in entry[name]}
            for entry in value["splits"]
        }
        membership = Membership(splits, frozenset(value["sealed"]))
    except (KeyError, TypeError, InputError) as error:
        raise DataError(
            f"{path} is not an mlxtune split file.", hint="Restore it: without it, held-out rows could be used for training."
        ) from error
    require_version(version, VERSION, path, hint="Use the version that wrote it.")
    return membership


def with_recorded_settings(source: Path, data: DataSection) -> DataSection:
    """Return ``data`` with the settings of the last recorded split of ``source``, if there is one."""
    settings = list(load_membership(source).splits)
    return replace(data, **vars(settings[-1])) if settings else data


def record_splits(source: Source, data: DataSection, splits: Splits, *, seal: bool = False) -> None:
    """Record the split of each row in the sidecar; with ``seal``, the test split can never be used for training.

    Writes nothing if nothing is new. Raises ``DataError`` if the existing file is invalid, ``MachineError`` if it is not writable.
    """
    with _locked(source.path):
        before = load_membership(source.path)
        settings = SplitSettings.from_section(data)
        recorded = dict(before.splits.get(settings, {}))
        sealed = set(before.sealed)
        for name in SPLIT_NAMES:
            for row in getattr(splits, name):
                hashes = {row.hash, prompt_hash(row), source.edited.get(row.hash, row.hash)}
                recorded |= dict.fromkeys(hashes, name)
                if seal and name == "test":
                    sealed |= hashes
        after = Membership({**before.splits, settings: recorded}, frozenset(sealed))
        if after != before:
            _save(source.path, after)


def prompt_rows(rows: Sequence[Row]) -> list[PromptRow]:
    """Return the held-out rows that have a prompt. Raises ``DataError`` if there are none."""
    prompts = [row for row in rows if isinstance(row, PromptRow)]
    if not prompts:
        hint = "Evaluation needs chat, completion or preference rows; check data.holdout."
        raise DataError("There are no held-out conversations to evaluate on.", hint=hint)
    return prompts


def sample_rows(rows: Sequence[AnyRow], count: int) -> list[AnyRow]:
    """Return ``count`` of ``rows`` (0 means all) in their original order. The choice depends only on their content."""
    chosen = {row.hash for row in sorted(rows, key=lambda row: row.hash)[: count or None]}
    return [row for row in rows if row.hash in chosen]


def _save(source: Path, membership: Membership) -> None:
    splits = [
        {"asked": vars(settings), **{name: sorted(hash for hash, own in recorded.items() if own == name) for name in SPLIT_NAMES}}
        for settings, recorded in membership.splits.items()
    ]
    write_json(membership_path(source), {"v": VERSION, "sealed": sorted(membership.sealed), "splits": splits})


@contextlib.contextmanager
def _locked(source: Path) -> Iterator[None]:
    """Lock the sidecar against other processes, so that a run and an evaluation that finish together both record their rows."""
    path = membership_path(source)
    with disk_errors(path.name):
        folder = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)
