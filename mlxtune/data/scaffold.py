"""Write a first recipe for a file of rows: its format and column map, the method, a token limit, and the contract of its answers."""

import json
import os
import re
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from mlxtune.core.errors import DataError, InputError
from mlxtune.core.files import write_text
from mlxtune.core.sequences import grouped
from mlxtune.core.text import one_line
from mlxtune.data.checks.check_input import scored_answer
from mlxtune.data.checks.corpus import json_object
from mlxtune.data.checks.forms import sentences
from mlxtune.data.checks.labels import label_set
from mlxtune.data.column_map import ColumnUse, column_use, first_records, named_mapping, proposed_mapping
from mlxtune.data.readers.columns import columns, mapping_option
from mlxtune.data.readers.formats import NO_MAPPING, detect
from mlxtune.data.rows import Conversation, Preference, Row, RowError, TextRow, Unpaired, json_strings, row_text, row_tools
from mlxtune.data.source import read_records
from mlxtune.data.source_files import source_files
from mlxtune.data.tool_schema import ARGUMENTS, calls_schema, union
from mlxtune.recipe.edit import toml_literal
from mlxtune.recipe.schema import RECIPE_NAME

_BASE = "smollm2-135m"
_TOOLS_TEMPLATE = """template = "chatml-tools"      # renders tools; leave it out if the base's own template does"""
_MAX_NAME = 60  # characters
_MOST_ROWS = 20_000  # maximum number of rows to base the guesses on
_LETTERS_PER_TOKEN = 4  # in words; any other byte can be a separate token
_JSON_PER_TOKEN = 3  # characters per token in JSON: 3.6 in the tools of the samples
_TEMPLATE_TOKENS = 64  # maximum number of tokens added by a chat template
_TEXT_WINDOW = 1024  # tokens; longer texts are divided
_TOKEN_LIMITS = (256, 512, 1024, 2048, 4096, 8192)  # the base's context has 8,192 tokens
_NEARLY_ALL = 0.9  # minimum share of the answers that a guess fits
_MOST_VALUES = 20  # maximum number of values in an enum
_USES = 10  # of each value that is copied from prompts, from which there are hardly any others
_USUAL_VALUES = 5  # number of a field's most frequent values that are searched for in each prompt
_MOST_TOOLS = 100  # maximum number of tools in a schema
_COMMON = 0.3  # minimum share of the answers that contain a suggested sentence
_FINAL_NUMBER = re.compile(r"(?:(?:^|####|\b[Aa]nswer(?: is)?:?)\s*[-−$]*|\\boxed\s*\{[^{}\n]*)\d[\d,.]*[.%}$\s]*\Z", re.MULTILINE)
_FORMS = {"#### NUMBER": "#### [-$]?[0-9][0-9,.]*$", r"\boxed{…}": r"\\boxed\{.+\}"}  # of a final number, and their patterns
_WORDS = re.compile(r"[A-Za-z\s]")
_CONTRACT_EXAMPLE = (
    "# What an answer must satisfy. Without it, an answer passes only if it equals its reference.",
    '# forbid = ["As an AI language model"]',
    '# length = { max = 300, unit = "words" }',
    '# pattern = "^(yes|no)[.,]"  # a regular expression, if the answers have a fixed form',
    '# schema = "answer.schema.json"  # a JSON Schema, if the answers are JSON',
    '# disclaimers = ["This is not legal advice."]',
)

Schema = dict[str, Any]
_TYPES = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array", dict: "object", type(None): "null"}


@dataclass(frozen=True)
class Sentence:
    """A sentence that recurs in the answers, and the value of a field that goes with it. ``share`` is the fraction of the answers
    with this value that contain the sentence."""

    text: str
    when: tuple[str, str] | None
    share: float


@dataclass(frozen=True)
class Scaffold:
    """Settings guessed from a file. ``schema`` is ``None`` unless the answers are JSON objects; ``labels`` has the distinct answers
    if they are few. ``tools`` says whether rows have tools or calls, which the base's own template does not render. ``correct`` is
    the recipe's; answers that end with a number, as in GSM8K, have the form ``number_form`` if there is a common one. ``formats``
    counts the rows of each format, and ``unreadable`` the other ones by check; ``format`` is the recipe's, usually ``auto``.
    """

    source: Path
    rows: int
    unreadable: Mapping[str, int]
    formats: Mapping[str, int]
    format: str
    columns: ColumnUse
    method: str
    max_tokens: int
    schema: Schema | None
    tools: bool
    labels: tuple[str, ...]
    sentences: tuple[Sentence, ...]
    correct: tuple[str, ...]
    number_form: str

    @property
    def only_texts(self) -> bool:
        """Whether there are no answers that could be evaluated."""
        return set(self.formats) == {"text"}

    @property
    def required_sentences(self) -> int:
        """The number of sentences that every answer they apply to has."""
        return sum(sentence.share == 1 for sentence in self.sentences)

    @property
    def needs_contract(self) -> bool:
        """Whether the recipe does not say what a good answer is, other than being the reference itself."""
        guessed = self.schema is not None or self.correct or self.required_sentences
        return not guessed and self.method != "dpo" and not self.only_texts


def guess(path: Path, mapping: Mapping[str, str] = NO_MAPPING, format: str = "auto") -> Scaffold:
    """Guess a recipe for the rows of ``path``. Raises ``DataError`` if none of them can be read, or if the names of their columns do
    not indicate what they contain."""
    mapping = dict(mapping) or (_mapping_by_name(path) if format == "auto" else {})
    files = [file for part, file in source_files(path).items() if part != "test"]  # published test rows decide nothing
    rows, errors = (list(chain(*parts)) for parts in zip(*(read_records(file, format, mapping) for file in files), strict=True))
    if not rows:
        raise DataError(f"{path.name} has no valid rows: {errors[0].message}", hint=errors[0].hint)
    sample = rows[:_MOST_ROWS]
    answers = [answer for answer in (scored_answer(row)[1] for row in sample) if answer]
    values = [value for value in map(json_object, answers) if value is not None]
    is_json = bool(answers) and len(values) >= _NEARLY_ALL * len(answers)
    kinds = Counter(type(row) for row in sample)
    method = {Preference: "dpo", Unpaired: "kto"}.get(kinds.most_common(1)[0][0], "sft")
    with_numbers = method == "sft" and not is_json and _most_match(_FINAL_NUMBER, answers)
    labels = () if is_json or not kinds[Conversation] else label_set([answer.strip() for answer in answers])
    calls = [_calls(row) for row in sample]
    copied = _copied_fields(sample) if is_json else frozenset()
    schema = _calls_schema(sample, calls) if all(calls) else infer_schema(values, copied) if is_json else None
    has_calls = sum(map(bool, calls)) > len(sample) / 2
    correct = ("answer",) if labels else ("number",) if with_numbers else ("calls",) if has_calls else ()
    return Scaffold(
        source=path,
        rows=len(rows),
        unreadable=Counter(error.kind if isinstance(error, RowError) else "bad-row" for error in errors),
        formats=dict(Counter(row.format for row in rows).most_common()),
        format=format,
        columns=column_use(path, mapping, format),
        method=method,
        max_tokens=_token_limit(sample),
        schema=schema,
        tools=any(row_tools(row) for row in sample),
        labels=labels,
        sentences=tuple(recurring_sentences(answers, values if is_json else [])),
        correct=_compared_fields(values, copied) if is_json and not all(calls) else correct,
        number_form=next((form for form, pattern in _FORMS.items() if with_numbers and _most_match(pattern, answers)), ""),
    )


def _most_match(pattern: str | re.Pattern[str], answers: Sequence[str]) -> bool:
    matching = sum(re.search(pattern, answer.strip()) is not None for answer in answers)
    return bool(answers) and matching >= _NEARLY_ALL * len(answers)


def _mapping_by_name(path: Path) -> dict[str, str]:
    """Return the map that the first record needs. Raises ``DataError`` if it cannot be guessed from the column names."""
    sample = first_records(path, 100)
    record, mapping = sample.records[0][1], named_mapping(sample)
    if detect(record) is not None or mapping.keys() - {"text"} or not any(isinstance(value, str) for _, value in columns(record)):
        return mapping
    command = f"mlxtune init --from {shlex.quote(str(path))}"
    hint = f"For example: {command} {mapping_option(proposed_mapping(sample) or {'prompt': 'COLUMN', 'completion': 'COLUMN'})}"
    names = ", ".join(one_line(column, 20) for column in [*record][:6])
    raise DataError(f"The column names of {one_line(path.name)} do not indicate what the columns contain: {names}.", hint=hint)


def infer_schema(values: Sequence[Mapping[str, Any]], copied: frozenset[str] = frozenset()) -> Schema:
    """Return a JSON Schema that all ``values`` conform to. Keys that all of them have are required, and strings with few values must be
    one of these, except rare ones in the ``copied`` fields."""
    return _schema_of(list(values), copied) | {"$schema": "https://json-schema.org/draft/2020-12/schema"}


def _schema_of(values: Sequence[Any], copied: frozenset[str] = frozenset(), pointer: str = "") -> Schema:
    kinds = {_TYPES[type(value)] for value in values}
    if kinds == {"integer", "number"}:
        kinds = {"number"}
    schema: Schema = {"type": next(iter(kinds)) if len(kinds) == 1 else sorted(kinds)}
    if kinds == {"object"}:
        parts = grouped(field for value in values for field in value.items())
        schema["properties"] = {name: _schema_of(own, copied, _below(pointer, name)) for name, own in parts.items()}
        schema["required"] = [name for name, own in parts.items() if len(own) == len(values)]
        schema["additionalProperties"] = False
    elif kinds == {"array"}:
        items = [item for value in values for item in value]
        schema |= {"items": _schema_of(items, copied, pointer)} if items else {}
    elif kinds == {"string"} and (labels := label_set(values, _MOST_VALUES)):
        has_others = pointer in copied and min(Counter(values).values()) < _USES
        schema |= {} if has_others else {"enum": list(labels)}
    return schema


def _calls(row: Row) -> list[dict[str, Any]]:
    """Return the calls that the answer of ``row`` consists of: a name, and ``arguments`` or, in some JSON answers, ``parameters``."""
    if isinstance(row, Conversation) and (calls := row.messages[-1].extra.get("tool_calls")):
        return [{"name": call["function"]["name"], "arguments": call["function"]["arguments"]} for call in calls]
    value = json_object(scored_answer(row)[1]) or {}
    has_arguments = any(value.keys() == {"name", key} and isinstance(value[key], dict) for key in ARGUMENTS)
    return [value] if has_arguments and isinstance(value["name"], str) else []


def _calls_schema(rows: Sequence[Row], calls: Sequence[Sequence[dict[str, Any]]]) -> Schema | None:
    """Return a JSON Schema of the declared tools, or of the calls if a tool is not declared; ``None`` if the rows' tools differ."""
    tools = union([row.tools for row in rows if isinstance(row, Conversation)])
    if tools is None or len(tools) > _MOST_TOOLS:
        return None
    key = next(key for key in ARGUMENTS if key in calls[0][0])
    given = grouped((call["name"], call.get(key, {})) for own in calls for call in own)
    if given.keys() - {tool["function"]["name"] for tool in tools}:
        tools = [{"name": name, "parameters": _schema_of(arguments)} for name, arguments in sorted(given.items())]
    return calls_schema(tools, several=any(len(own) > 1 for own in calls), arguments=key)


def _copied_fields(rows: Sequence[Row]) -> frozenset[str]:
    """Return JSON Pointers to the fields of JSON answers that are mostly copied from the prompts, such as names."""
    found = grouped(
        (name, ([text.casefold() for text in json_strings(item)], prompt))
        for row in rows
        for prompt in ["\n".join(json_strings(row.prompt_content)).casefold()]
        for name, item in _leaves(json.loads(json.dumps(json_object(scored_answer(row)[1]) or {}), parse_int=str, parse_float=str))
    )
    return frozenset(name for name, uses in found.items() if sum(_copies(uses)) > len(uses) / 2)


def _copies(uses: Sequence[tuple[Sequence[str], str]]) -> Iterator[bool]:
    """Yield whether each value of a field is copied from its prompt, which must not also have most of the field's usual values, as a
    prompt that lists all classes does."""
    usual = [text for text, _ in Counter(text for texts, _ in uses for text in texts).most_common(_USUAL_VALUES)]
    for texts, prompt in uses:
        others = [text in prompt for text in usual if text not in texts]
        # one or two letters, such as A, may be there by chance
        is_there = all((len(text) > 2 or text.isdigit()) and text in prompt for text in texts)
        yield is_there and sum(others) <= len(others) / 2


def _compared_fields(values: Sequence[Any], copied: frozenset[str]) -> tuple[str, ...]:
    """Return what ``evaluation.correct`` lists for JSON answers: the fields that are right or wrong, or all ``fields`` if the others are."""
    telling = tuple(telling_fields(values))
    found = grouped((name, json.dumps(item)) for value in values for name, item in _leaves(value))
    others = [name in copied or label_set(texts, _MOST_VALUES) for name, texts in found.items() if name not in telling]
    return ("fields",) if others and all(others) else telling


def telling_fields(values: Sequence[Any]) -> Iterator[str]:
    """Yield JSON Pointers to the fields that all ``values`` have and that are right or wrong: booleans, and few repeated values."""
    found = grouped((name, json.dumps(item)) for value in values for name, item in _leaves(value))
    for name, texts in found.items():
        is_told = set(texts) == {"true", "false"} or label_set(texts, _MOST_VALUES)
        if is_told and len(texts) == len(values) and len(set(texts)) > 1:
            yield name


def _leaves(value: Mapping[str, Any], pointer: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the JSON Pointer and the value of each field in a JSON object, except objects, whose fields are yielded."""
    for name, item in value.items():
        below = _below(pointer, name)
        yield from _leaves(item, below) if isinstance(item, dict) else [(below, item)]


def _below(pointer: str, name: str) -> str:
    return f"{pointer}/{name.replace('~', '~0').replace('/', '~1')}"


def recurring_sentences(answers: Sequence[str], values: Sequence[Mapping[str, Any]]) -> Iterable[Sentence]:
    """Yield the sentences that are in many answers, or in all answers whose field has one value.

    A sentence also counts where it follows text that does not end like a sentence, because the contract only asks for its words.
    """
    items: Sequence[Any] = values or answers
    texts = ["\n".join(json_strings(item)) for item in items]
    found = [{sentence for text in json_strings(item) for sentence in sentences(text)} for item in items]
    counts = Counter(sentence for own in found for sentence in own)
    for text, count in counts.most_common():
        if count < 3:
            return
        is_frequent = count >= _COMMON / 2 * len(items)  # few sentences are, so that all texts can be searched for them
        having = [text in own for own in (texts if is_frequent else found)]
        share = sum(having) / len(items)
        condition = None if share == 1 else _condition(text, having, values)
        if share >= _COMMON or condition:
            yield Sentence(text, condition, 1.0 if condition else share)


def _condition(text: str, having: Sequence[bool], values: Sequence[Mapping[str, Any]]) -> tuple[str, str] | None:
    """Return the field and value that exactly the answers with the sentence ``text`` have, other than the sentence itself."""
    chosen = [value for value, has_it in zip(values, having, strict=False) if has_it]
    for key, wanted in chosen[0].items() if chosen else ():
        if isinstance(wanted, str) and text not in wanted and [value for value in values if value.get(key) == wanted] == chosen:
            return key, wanted
    return None


def _estimated_tokens(text: str) -> float:
    """Estimate the number of tokens in a row. This is an upper bound for nearly all texts: digits and signs are counted one by one."""
    words = len(_WORDS.findall(text))
    return words / _LETTERS_PER_TOKEN + len(_WORDS.sub("", text).encode("utf-8", "surrogatepass")) + _TEMPLATE_TOKENS


def _token_limit(rows: Sequence[Row]) -> int:
    if all(isinstance(row, TextRow) for row in rows):
        return _TEXT_WINDOW
    longest = max(_estimated_tokens(row_text(row)) + len(json.dumps(row_tools(row))) / _JSON_PER_TOKEN for row in rows)
    return next((limit for limit in _TOKEN_LIMITS if limit >= longest), _TOKEN_LIMITS[-1])


def recipe_text(scaffold: Scaffold, name: str, source: str, schema: str) -> str:
    """Return the recipe as TOML, with ``source`` and ``schema`` as its paths."""
    formats = ", ".join(f"{count:,} {format}" for format, count in scaffold.formats.items())
    length = "longer texts are divided" if scaffold.only_texts else "estimated from the longest row; mlxtune plan counts the tokens"
    lines = [
        f"# A first recipe for {one_line(scaffold.source.name)} ({formats}). Change it freely. mlxtune plan shows the effect.",
        f"name = {toml_literal(name)}",
        "",
        "[model]",
        f"base = {toml_literal(_BASE)}        # small, for a first run; mlxtune advise suggests one for this task and machine",
        *([_TOOLS_TEMPLATE] if scaffold.tools else []),
        "",
        "[data]",
        f"source = {toml_literal(source)}",
        *([f"format = {toml_literal(scaffold.format)}"] if scaffold.format != "auto" else []),
        *([f"map = {toml_literal(dict(scaffold.columns.mapping))}"] if scaffold.columns.mapping else []),
        f"max_tokens = {scaffold.max_tokens}            # {length}",
        *(["holdout = 0                 # texts have no answers to evaluate", "validation = 0.2"] if scaffold.only_texts else []),
        "",
        "[method]",
        f"kind = {toml_literal(scaffold.method)}",
    ]
    if scaffold.only_texts:
        return "\n".join(lines) + "\n"
    lines += ["", "[evaluation]"]
    if scaffold.schema is not None:
        lines.append(f"schema = {toml_literal(schema)}")
    elif scaffold.number_form:
        lines.append(f"pattern = {toml_literal(_FORMS[scaffold.number_form])}      # the answers end with {scaffold.number_form}")
    elif scaffold.method != "dpo" and not scaffold.correct:
        lines += _CONTRACT_EXAMPLE
    if scaffold.correct:
        lines.append(f"correct = {toml_literal(list(scaffold.correct))}      # must equal the reference")
    if scaffold.labels:
        lines.append(f"labels = {toml_literal(list(scaffold.labels))}")
    for sentence in scaffold.sentences:
        block = ["[[evaluation.disclaimers]]", f"text = {toml_literal(sentence.text)}"]
        block += [f"when = {toml_literal(dict([sentence.when]))}"] if sentence.when else []
        if sentence.share < 1:
            block = [f"In {sentence.share:.0%} of the answers. Uncomment it if every answer must contain it.", *block]
            block = [f"# {line}" for line in block]
        lines += ["", *block]
    return "\n".join(lines) + "\n"


def default_name(source: Path) -> str:
    """Return a recipe's name for the rows of ``source``: ``my-rows`` for ``My rows.csv``."""
    return re.sub(r"[^a-z0-9]+", "-", source.stem.lower()).strip("-")[:_MAX_NAME].strip("-") or "rows"


def new_files(scaffold: Scaffold, folder: Path, name: str, *, hint: str = "Choose another name with --name.") -> tuple[Path, Path]:
    """Return the paths at which to write the recipe, ``recipes/NAME.toml`` in ``folder``, and its schema.

    Raises ``InputError``, with ``hint`` if one of them exists, or if the name is invalid.
    """
    if not RECIPE_NAME.is_valid(name):
        raise InputError(f"{one_line(name, 40)} is not a valid name for a recipe.", hint=f"Use {RECIPE_NAME.expected}.")
    recipe, schema = (folder / "recipes" / f"{name}{suffix}" for suffix in (".toml", ".schema.json"))
    for file in (recipe, *([schema] if scaffold.schema else [])):
        if file.exists():
            raise InputError(f"{file} already exists, so nothing was written.", hint=hint)
    return recipe, schema


def write(scaffold: Scaffold, folder: Path, name: str = "") -> Path:
    """Write the files of :func:`new_files`, and return the recipe. Raises the same errors."""
    name = name or default_name(scaffold.source)
    recipe, schema = new_files(scaffold, folder, name)
    source = os.path.relpath(scaffold.source.resolve(), recipe.parent.resolve())
    if scaffold.schema is not None:
        write_text(schema, json.dumps(scaffold.schema, indent=2, ensure_ascii=False) + "\n")
    write_text(recipe, recipe_text(scaffold, name, Path(source).as_posix(), schema.name))
    return recipe
