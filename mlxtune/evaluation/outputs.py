"""Generate each arm's answers to the held-out rows, or read them from the cache if nothing that matters has changed."""

import math
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, replace
from functools import cached_property, lru_cache
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

from mlxtune.core.errors import InputError, MlxtuneError, TemplateError
from mlxtune.core.hashing import sha256_file, sha256_json
from mlxtune.core.journal import Journal, read
from mlxtune.core.sequences import grouped
from mlxtune.data.rows import Conversation, Preference, PromptRow, assistant_message
from mlxtune.evaluation.answer_budget import loop_rule, schema_ends
from mlxtune.evaluation.answers import Answer, ArmAnswers
from mlxtune.evaluation.arms import Arm
from mlxtune.evaluation.scorers import GRAMMAR_LIMIT
from mlxtune.models.call_grammar import call_syntax, calls_grammar
from mlxtune.models.generate import GenerationSettings, Progress, PromptGroup, generate
from mlxtune.models.grammar import Grammar
from mlxtune.models.likelihood import negative_log_likelihoods
from mlxtune.models.load import LoadedModel
from mlxtune.models.prefix_cache import PrefixCache, SharedPrefix
from mlxtune.models.template import ChatTemplate, TemplateSettings, load_template
from mlxtune.models.thoughts import GeneratedAnswer
from mlxtune.recipe.parent import CONFIG, WEIGHTS
from mlxtune.runs.events import HELD_OUT_ROW, TIMED, TOKEN, WAITING

SAVED = ".saved.jsonl"  # suffix of a model's answers to single prompts, and of the likelihoods that it assigns to given answers
IndexedText = tuple[int, str | None]  # the index of a row, and one of its answers
IndexedTokens = tuple[int, list[int]]  # the same as tokens
GenerateOne = Callable[[Sequence[int], int, Progress], GeneratedAnswer]
"""Answers a prompt with at most some number of tokens. The progress callback is called after every token."""
PROBES = 3  # number of rows that are answered alone to measure how long that takes
PROBE_TOKENS = 24  # maximum length of each of these answers
Result = TypeVar("Result")


@dataclass(frozen=True)
class AnswerOptions:
    """How every arm answers."""

    settings: TemplateSettings
    max_tokens: int
    thinking_tokens: int  # the maximum length of the reasoning before an answer, if the model reasons
    batch_size: int
    cache: Path  # the folder of answers and likelihoods that are already known
    stop_loops: bool = True  # end answers that repeat themselves, except where a reference or the schema allows it
    schema: Any = None  # of answers


Part = tuple[Arm, Sequence[PromptRow], AnswerOptions]  # rows that an arm answers


@dataclass(frozen=True)
class Latency:
    """The seconds to the first token of an answer that is generated alone, and per subsequent token.

    An evaluation generates many answers at once, and none of them takes as long as it would for a single user. Therefore, the first
    tokens of a few answers are generated again, one row at a time. The other answers' times follow from their numbers of tokens. The
    part of the prompt that all rows share is already computed, as in a server that caches it.
    """

    first: float
    further: float

    def seconds(self, tokens: int) -> float:
        """Return the time of an answer with ``tokens`` tokens, reasoning included."""
        return self.first + self.further * max(0, tokens - 1)


def comparable_pairs(template: ChatTemplate, rows: Sequence[PromptRow], max_tokens: int) -> frozenset[str]:
    """Return the IDs of the preference pairs whose answers fit the training window. Raises ``DataError`` for an unusable pair."""
    return frozenset(row.id for row in rows if isinstance(row, Preference) and template.can_compare(row, max_tokens))


def answer_room(
    arms: Sequence[Arm], loaded: LoadedModel, template: ChatTemplate, rows: Sequence[PromptRow], thinking_tokens: int
) -> int | None:
    """Return how many tokens the model's context leaves for an answer after the longest prompt of ``arms``, if it has a limit."""
    context = _context_length(loaded)
    if context is None:
        return None
    longest = max(len(template.prompt(arm.prompt_for(row), row.tools)) for arm in arms for row in rows)
    return context - longest - template.thinking_limit(thinking_tokens)


def generate_answers(
    arm: Arm,
    loaded: LoadedModel,
    rows: Sequence[PromptRow],
    options: AnswerOptions,
    tell: Callable[[str], Progress],
    *,
    of: str = HELD_OUT_ROW,
    shared: PrefixCache | None = None,
    compared: frozenset[str] = frozenset(),
    score_references: bool = True,
    timed: bool = False,
) -> ArmAnswers:
    """Generate greedy answers to ``rows`` with ``arm``'s prompts and, with ``score_references``, compute the likelihood of their references.

    For pairs with an ID in ``compared``, the likelihood of the rejected answer is computed too. Each answer and each likelihood is
    saved in the cache as soon as it is known, under a hash of everything that affects it: weights, tokenizer, adapter, grammar, tokens,
    decoding, compute path and versions. An interrupted evaluation therefore continues where it ended, and an evaluation of more rows
    computes only what is missing. ``tell`` returns the progress callback for a kind of work (``of``
    describes ``rows``); ``shared`` holds prefixes that ``loaded`` has processed with its current weights. If ``timed``, the time
    that each answer would take alone is estimated, too. Raises ``InputError`` if a prompt and its answer exceed the model's context,
    and ``MlxtuneError`` for NaNs.
    """
    generator = _Generator(arm, loaded, options, rows, shared or PrefixCache(loaded.model), compared, score_references)
    generated = generator.generate(tell, of)
    answers = generator.answers(generated, generator.likelihoods(tell))
    if not timed:
        return answers
    latency = generator.latency(tell(TIMED))
    alone = (replace(one, seconds=latency.seconds(one.thought_tokens + one.answer_tokens)) for one in answers.answers)
    return replace(answers, answers=tuple(alone))


def answer_together(parts: Sequence[Part], loaded: LoadedModel, shared: PrefixCache, progress: Progress) -> list[ArmAnswers]:
    """Return what several arms, none of which has another adapter than ``loaded``, answer in shared batches."""
    generators = [_Generator(arm, loaded, options, rows, shared, score_references=False) for arm, rows, options in parts]
    results, is_new = _generate(generators, dict, progress)
    rest = iter(results)
    return [one.answers(one.counted(list(islice(rest, len(one.prompts))), is_new), {}) for one in generators]


def model_identity(arm: Arm, loaded: LoadedModel) -> dict[str, Any]:
    """Return what identifies the model of ``arm`` in the cache: weights, tokenizer, adapter, compute path and versions."""
    patterns, folder = ("model*.safetensors", "tokenizer*"), loaded.source.folder
    files = sorted(file for pattern in patterns for file in folder.glob(pattern) if file.is_file())
    return {
        "v": 10,
        "made with": {name: version(name) for name in ("mlxtune", "mlx", "mlx-lm")},
        "base": [loaded.source.fingerprint, [_file_hash(file, file.stat().st_size, file.stat().st_mtime_ns) for file in files]],
        "adapter": [sha256_file(arm.adapter / name) for name in (WEIGHTS, CONFIG)] if arm.adapter else [],
        "compute": loaded.description,
    }


class _Generator:
    """Generates the answers of an arm and computes likelihoods, as far as the cache does not have them."""

    def __init__(
        self, arm: Arm, loaded: LoadedModel, options: AnswerOptions, rows: Sequence[PromptRow], prefixes: PrefixCache,
        compared: frozenset[str] = frozenset(), score_references: bool = True,
    ) -> None:  # fmt: skip
        template = load_template(loaded.source, options.settings, loaded.tokenizer)
        options = replace(options, thinking_tokens=template.thinking_limit(options.thinking_tokens))
        self._arm, self.loaded, self._options, self._rows = arm, loaded, options, rows
        self._template, self._prefixes = template, prefixes
        self.prompts = [template.prompt(arm.prompt_for(row), row.tools) for row in rows]
        _require_room(arm, loaded, rows, self.prompts, options.max_tokens + options.thinking_tokens)
        self._references, self._no_likelihood_reason = _answer_tokens(  # none if one of them is unknown
            template, arm, rows, [(index, row.reference) for index, row in enumerate(rows) if score_references]
        )
        pairs = [(index, row.rejected) for index, row in enumerate(rows) if isinstance(row, Preference) and row.id in compared]
        self._rejected = _answer_tokens(template, arm, rows, pairs)[0] if self._references else []
        self.cached = True  # whether nothing was computed
        self.seconds = 0.0  # what the answers and the likelihoods took
        self._loops = None
        if options.stop_loops and arm.schema is None:
            self._loops = loop_rule((row.reference for row in rows), loaded.tokenizer, options.schema)
        self._call_grammars = {} if arm.schema is None else _call_grammars(template, self.prompts, rows, arm.schema)
        texts = sorted(set(self._call_grammars.values()))
        decoding: dict[str, Any] = {
            "grammar": None if arm.schema is None else [arm.schema, version("llguidance"), *texts],
            "max_tokens": options.max_tokens,
            **({"thinking_tokens": options.thinking_tokens} if options.thinking_tokens else {}),
            "stops": sorted(template.stop_tokens),
            "loops": [self._loops.least, options.schema] if self._loops else [],
        }
        model = model_identity(arm, loaded)
        self.file, self._likelihoods = (  # a grammar does not change likelihoods
            options.cache / f"{sha256_json({**model, **how})[:32]}{SAVED}" for how in (decoding, {})
        )

    def answers(self, generated: Sequence[GeneratedAnswer], likelihoods: dict[tuple[int, bool], tuple[float, int]]) -> ArmAnswers:
        """Return the answers to the rows from what was ``generated``, and from the result of :meth:`likelihoods`."""
        arm, answers = self._arm, list[Answer]()
        for index, (row, one) in enumerate(zip(self._rows, generated, strict=True)):
            early = arm.schema is not None and one.ended == "length" and schema_ends(one.text, arm.schema)
            text, ended = self._template.calls.read(one.text, row.tools), GRAMMAR_LIMIT if early else one.ended
            known = *likelihoods.get((index, False), (0.0, 0)), likelihoods.get((index, True))
            answers.append(Answer(row.id, text, ended, one.tokens, one.thought, one.thought_tokens, None, *known))
        prompt_tokens = sum(map(len, self.prompts))
        return ArmAnswers(arm.name, tuple(answers), self.cached, self.seconds, self._no_likelihood_reason, prompt_tokens)

    def group(self, prompts: Sequence[Sequence[int]]) -> PromptGroup:
        """Return some of the prompts with how to answer them."""
        return PromptGroup(prompts, self._settings, self._prefix)

    def generate(self, tell: Callable[[str], Progress], of: str) -> list[GeneratedAnswer]:
        def listeners() -> dict[str, Any]:
            if of != HELD_OUT_ROW:  # other prompts have short answers
                return {}
            tell_tokens, longest_allowed = tell(TOKEN), self._options.max_tokens + self._options.thinking_tokens
            tell_tokens(0, longest_allowed)
            return {
                "on_token": lambda longest: tell_tokens(longest, longest_allowed),
                "on_batch": lambda waiting: tell(WAITING)(waiting, len(self._rows)),
            }

        return self.counted(*_generate([self], listeners, tell(of)))

    def likelihoods(self, tell: Callable[[str], Progress]) -> dict[tuple[int, bool], tuple[float, int]]:
        """Return the negative log-likelihood and the tokens of each answer, by its row's index and whether it is the rejected one."""
        texts = [
            (index, rejected, tokens) for rejected, own in enumerate((self._references, self._rejected)) for index, tokens in own
        ]
        pairs = [(self.prompts[index], tokens) for index, _, tokens in texts]

        def compute(left: Sequence[int], **listeners: Any) -> None:
            some, size, prefix = [pairs[index] for index in left], self._options.batch_size, self._prefix
            negative_log_likelihoods(self.loaded.model, some, batch_size=size, prefix=prefix, **listeners)

        def to_json(nats: float) -> dict[str, float]:
            if not math.isfinite(nats):
                hint = "Train or import the adapter again: it may be corrupt."
                raise MlxtuneError(f"{self._arm.name} assigns zero probability to a reference answer.", hint=hint)
            return {"nats": nats}

        inputs = [(self._likelihoods, pair) for pair in pairs]
        nats = self.counted(*_complete(inputs, compute, tell("reference"), to_json, lambda record: float(record["nats"])))
        return {(index, bool(rejected)): (value, len(tokens)) for value, (index, rejected, tokens) in zip(nats, texts, strict=True)}

    def latency(self, progress: Progress) -> Latency:
        """Return how long answers to these prompts take alone."""

        def answer_alone(prompt: Sequence[int], max_tokens: int, progress: Progress) -> GeneratedAnswer:
            thinking_tokens = min(max_tokens, self._settings.thinking_tokens)
            alone = replace(self._settings, max_tokens=max_tokens, thinking_tokens=thinking_tokens, batch_size=1)
            group = replace(self.group([prompt]), settings=alone)
            return generate(self.loaded.model, self.loaded.tokenizer, [group], progress=progress)[0]

        def compute(_: Any, on_answer: Callable[[int, Latency], None], **__: Any) -> None:
            on_answer(0, measure_latency(self.prompts, answer_alone, progress))

        inputs = [(self.file, {"timed": self.prompts})]
        ((_, latency),), _ = _complete(inputs, compute, lambda done, total: None, asdict, lambda record: Latency(**record))
        return latency

    @cached_property
    def _prefix(self) -> SharedPrefix | None:
        return self._prefixes(self.prompts)

    @cached_property
    def _settings(self) -> GenerationSettings:
        template, schema, limits = self._template, self._arm.schema, self._options
        tokenizer, stops = self.loaded.tokenizer, template.stop_tokens
        grammar = Grammar(tokenizer, schema, stops) if schema is not None else None
        by_text: dict[str, Grammar] = {}
        for text in set(self._call_grammars.values()):
            with suppress(InputError):  # a tool has a schema that llguidance does not support: the contract's applies
                by_text[text] = Grammar(tokenizer, None, stops, text)
        grammars = {prompt: by_text[text] for prompt, text in self._call_grammars.items() if text in by_text}
        return GenerationSettings(
            max_tokens=limits.max_tokens, stops=template.stop_tokens, batch_size=limits.batch_size, grammar=grammar, grammars=grammars,
            thinking_tokens=limits.thinking_tokens, thought_starts=template.thought_starts, loops=self._loops,
        )  # fmt: skip

    def counted(self, results: Sequence[tuple[float, Result]], is_new: bool) -> list[Result]:
        """Return ``results`` without their seconds, which are added to those of the arm."""
        self.cached &= not is_new
        self.seconds += sum(seconds for seconds, _ in results)
        return [result for _, result in results]


def _generate(
    generators: Sequence[_Generator], listeners: Callable[[], dict[str, Any]], progress: Progress
) -> tuple[list[tuple[float, GeneratedAnswer]], bool]:
    """Return the answers of ``generators``, which have one model, and what :func:`_complete` says of them."""
    work = [(generator, prompt) for generator in generators for prompt in generator.prompts]

    def compute(left: Sequence[int], **others: Any) -> None:
        groups = [generator.group(prompts) for generator, prompts in grouped(work[index] for index in left).items()]
        loaded = generators[0].loaded
        generate(loaded.model, loaded.tokenizer, groups, **listeners(), **others)

    inputs = [(generator.file, prompt) for generator, prompt in work]
    return _complete(inputs, compute, progress, asdict, lambda record: GeneratedAnswer(**record))


def _complete(
    inputs: Sequence[tuple[Path, Any]], compute: Callable[..., None], progress: Progress,
    to_json: Callable[[Result], dict[str, Any]], from_json: Callable[[dict[str, Any]], Result],
) -> tuple[list[tuple[float, Result]], bool]:  # fmt: skip
    """Return the result of each of ``inputs`` with the seconds that it took, and whether any was computed.

    Results are saved in the files beside the inputs. ``compute`` takes the indices of the inputs whose results are missing there,
    and listeners.
    """
    places, saved = [(file, sha256_json(given)) for file, given in inputs], dict[tuple[Path, str], tuple[float, Result]]()
    for file in {file for file, _ in places}:
        for record in read(file):
            with suppress(KeyError, TypeError, ValueError):  # a damaged record, whose result is computed again, or another kind
                key, seconds = record.pop("input"), float(record.pop("seconds"))
                saved[file, key] = seconds, from_json(record)
    left = [index for index, place in enumerate(places) if place not in saved]
    known, last = len(places) - len(left), time.perf_counter()
    if known:
        progress(known, len(places))
    with ExitStack() as stack:
        for folder in {places[index][0].parent for index in left}:
            folder.mkdir(parents=True, exist_ok=True)
        journals = {file: stack.enter_context(Journal(file)) for file in {places[index][0] for index in left}}

        def save(index: int, result: Result) -> None:
            nonlocal last
            place, before, last = places[left[index]], last, time.perf_counter()
            saved[place] = last - before, result
            journals[place[0]].append({"input": place[1], "seconds": last - before, **to_json(result)})

        if left:
            compute(left, progress=lambda done, _: progress(known + done, len(places)), on_answer=save)
    return [saved[place] for place in places], bool(left)


def measure_latency(
    prompts: Sequence[Sequence[int]], generate_one: GenerateOne, progress: Progress = lambda done, total: None
) -> Latency:
    """Answer :data:`PROBES` of ``prompts``, of different lengths, one at a time, and return the medians of their times."""
    by_length = sorted(prompts, key=len)
    probes = [by_length[(2 * index + 1) * len(by_length) // (2 * PROBES)] for index in range(PROBES)]
    first, further = [], []
    for number, prompt in enumerate(probes):
        progress(number, PROBES)
        times: list[float] = []
        start = time.perf_counter()
        answer = generate_one(prompt, PROBE_TOKENS, lambda done, total, times=times: times.append(time.perf_counter()))  # type: ignore[misc]
        count = max(1, answer.tokens + answer.thought_tokens + (answer.ended == "stop"))
        times = times[-count:]  # without the calls during prefill
        first.append(times[0] - start)
        further += [(times[-1] - times[0]) / (len(times) - 1)] if len(times) > 1 else []
    return Latency(median(first), median(further) if further else 0.0)


def _call_grammars(
    template: ChatTemplate, prompts: Sequence[Sequence[int]], rows: Sequence[PromptRow], schema: Any
) -> dict[tuple[int, ...], str]:
    """Return the grammar of the calls of each row's tools by its prompt, in the template's syntax, if the template has one."""
    if not any(row.tools for row in rows) or (syntax := call_syntax(template)) is None:
        return {}
    known: dict[str, str] = {}
    grammars: dict[tuple[int, ...], str] = {}
    for prompt, row in zip(prompts, rows, strict=True):
        if row.tools and (key := sha256_json(row.tools)) not in known:
            known[key] = calls_grammar(template, syntax, row.tools, schema)
        grammars |= {tuple(prompt): known[key]} if row.tools else {}
    return grammars


def _answer_tokens(
    template: ChatTemplate, arm: Arm, rows: Sequence[PromptRow], answers: Sequence[IndexedText]
) -> tuple[list[IndexedTokens], str]:
    """Return the trained tokens of ``answers`` after ``arm``'s prompts, or no tokens and a reason if one cannot be separated."""
    encoded = []
    for index, text in answers:
        row = rows[index]
        if text is None:
            return [], "some rows have no reference answer"
        try:
            message = assistant_message(text)
            if isinstance(row, Conversation) and text == row.reference and not row.messages[-1].content:
                message = row.messages[-1]  # a call, whose reference is JSON
            answer = template.answer((*arm.prompt_for(row), message), row.tools, row.location)
        except TemplateError as error:
            return [], error.message
        encoded.append((index, answer.tokens[answer.start : answer.end]))
    return encoded, ""


def _require_room(
    arm: Arm, loaded: LoadedModel, rows: Sequence[PromptRow], prompts: Sequence[Sequence[int]], max_tokens: int
) -> None:
    context = _context_length(loaded)
    index = max(range(len(prompts)), key=lambda index: len(prompts[index]))
    if context is not None and len(prompts[index]) + max_tokens > context:
        raise InputError(
            f"{rows[index].location}: the prompt of {arm.name} has {len(prompts[index]):,} tokens and the answer can have up to "
            f"{max_tokens:,}, but the model is limited to {context:,}.",
            hint="Lower evaluation.max_tokens or evaluation.shots, or leave the arm out.",
        )


def _context_length(loaded: LoadedModel) -> int | None:
    """Return how many tokens a prompt and its answer may have, or ``None`` if the model does not specify it."""
    config = loaded.source.config
    context = config.get("max_position_embeddings") or config.get("text_config", {}).get("max_position_embeddings")
    return context if isinstance(context, int) else None


@lru_cache  # computed once per process
def _file_hash(file: Path, size: int, changed: int) -> str:
    return sha256_file(file)
