"""Generate each arm's answers to the held-out rows, or read them from the cache if nothing that matters has changed."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, replace
from functools import lru_cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

from mlxtune.core.errors import InputError, MlxtuneError, TemplateError
from mlxtune.core.files import write_text
from mlxtune.core.hashing import sha256_file, sha256_json
from mlxtune.core.journal import Journal, read
from mlxtune.data.rows import Conversation, Preference, PromptRow, assistant_message
from mlxtune.evaluation.arms import Arm
from mlxtune.evaluation.latency import measure_latency
from mlxtune.evaluation.scorers.preference import PairLogprobs
from mlxtune.models import lora
from mlxtune.models.generate import GenerationSettings, Progress, generate
from mlxtune.models.grammar import Grammar
from mlxtune.models.likelihood import negative_log_likelihoods
from mlxtune.models.load import LoadedModel
from mlxtune.models.prefix_cache import PrefixCache
from mlxtune.models.template import ChatTemplate, TemplateSettings, load_template
from mlxtune.models.thoughts import GeneratedAnswer
from mlxtune.recipe import Recipe
from mlxtune.runs.events import HELD_OUT_ROW, TIMED, TOKEN, WAITING

SAVED = ".saved.jsonl"  # suffix of a model's answers to single prompts, and of the likelihoods that it assigns to given answers
IndexedText = tuple[int, str | None]  # the index of a row, and one of its answers
Input = TypeVar("Input")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Output:
    """One answer: the row's ID, the text of ``answer_tokens`` tokens, and why it ended (see :class:`ModelAnswer`).

    ``thought`` is the reasoning before the answer, which has ``thought_tokens`` tokens. ``nats`` is the total negative
    log-likelihood of the row's reference answer, which has ``tokens`` tokens; ``rejected`` holds the same two values for the rejected
    answer of a preference pair. ``seconds`` is how long the answer would take alone, if that was measured.
    """

    id: str
    output: str
    ended: str
    nats: float
    tokens: int
    rejected: tuple[float, int] | None = None
    thought: str = ""
    thought_tokens: int = 0
    answer_tokens: int = 0
    seconds: float | None = None

    @property
    def logprobs(self) -> PairLogprobs | None:
        """The mean log-probabilities of the row's pair, if both were computed."""
        if not self.rejected or not self.tokens:
            return None
        return PairLogprobs(-self.nats / self.tokens, -self.rejected[0] / self.rejected[1])


@dataclass(frozen=True)
class ArmAnswers:
    """All answers of one arm, in row order. ``no_likelihood_reason`` says why the references' likelihood is missing, if it is."""

    arm: str
    outputs: tuple[Output, ...]
    cached: bool
    seconds: float
    no_likelihood_reason: str = ""


def comparable_pairs(loaded: LoadedModel, recipe: Recipe, rows: Sequence[PromptRow]) -> frozenset[str]:
    """Return the IDs of the preference pairs whose answers fit the training window. Raises ``DataError`` for an unusable pair."""
    template = load_template(loaded.source, TemplateSettings.from_recipe(recipe), loaded.tokenizer)
    pairs = (row for row in rows if isinstance(row, Preference))
    return frozenset(pair.id for pair in pairs if template.can_compare(pair, recipe.data.max_tokens))


def answer_room(
    arms: Sequence[Arm], loaded: LoadedModel, rows: Sequence[PromptRow], *, settings: TemplateSettings, thinking_tokens: int
) -> int | None:
    """Return how many tokens the model's context leaves for an answer after the longest prompt of ``arms``, if it has a limit."""
    most = _context_length(loaded)
    if most is None:
        return None
    template = load_template(loaded.source, settings, loaded.tokenizer)
    longest = max(len(template.prompt(arm.prompt_for(row), row.tools)) for arm in arms for row in rows)
    return most - longest - template.thinking_limit(thinking_tokens)


def generate_answers(
    arm: Arm,
    loaded: LoadedModel,
    rows: Sequence[PromptRow],
    *,
    settings: TemplateSettings,
    max_tokens: int,
    thinking_tokens: int,
    batch_size: int,
    cache: Path,
    tell: Callable[[str], Progress],
    of: str = HELD_OUT_ROW,
    shared: PrefixCache | None = None,
    compared: frozenset[str] = frozenset(),
    score_references: bool = True,
    timed: bool = False,
) -> ArmAnswers:
    """Generate greedy answers to ``rows`` with ``arm``'s prompts and, with ``score_references``, compute the likelihood of their references.

    Answers have at most ``max_tokens``, after at most ``thinking_tokens`` of reasoning. For pairs with an ID in
    ``compared``, the likelihood of the rejected answer is computed too. Results are stored in ``cache`` under a hash of everything that
    affects them: weights, tokenizer, adapter, grammar, tokens, decoding, compute path and versions. Each answer and each likelihood is
    saved as soon as it is known, so that an interrupted evaluation continues where it ended, and an evaluation of more rows computes
    only what is missing. ``tell`` returns the progress callback for a kind of work (``of`` describes ``rows``); ``shared`` holds
    prefixes that ``loaded`` has processed with its current weights. If ``timed``, the time that each answer would take alone is
    estimated, too. Raises ``InputError`` if a prompt and its answer exceed the model's context, and ``MlxtuneError`` for NaNs.
    """
    start = time.perf_counter()
    template = load_template(loaded.source, settings, loaded.tokenizer)
    prompts = [template.prompt(arm.prompt_for(row), row.tools) for row in rows]
    chosen: list[IndexedText] = [(index, row.reference) for index, row in enumerate(rows) if score_references]
    references, no_likelihood_reason = _answer_tokens(template, arm, rows, chosen)
    others: list[IndexedText] = [
        (index, row.rejected) for index, row in enumerate(rows) if isinstance(row, Preference) and row.id in compared
    ]
    rejected = _answer_tokens(template, arm, rows, others)[0] if references else []
    thinking_tokens = template.thinking_limit(thinking_tokens)
    _require_room(arm, loaded, rows, prompts, max_tokens + thinking_tokens)
    model_identity = {
        "v": 7,
        "made with": {name: version(name) for name in ("mlxtune", "mlx", "mlx-lm")},
        "base": [loaded.source.fingerprint, _content_hashes(loaded.source.folder)],
        "adapter": [sha256_file(arm.adapter / name) for name in (lora.WEIGHTS_FILE, lora.CONFIG_FILE)] if arm.adapter else [],
        "compute": loaded.description,
    }
    decoding_identity = {
        **model_identity,
        "grammar": None if arm.schema is None else [arm.schema, version("llguidance")],
        "max_tokens": max_tokens,
        **({"thinking_tokens": thinking_tokens} if thinking_tokens else {}),
        "stops": sorted(template.stop_tokens),
    }
    identity = {
        **decoding_identity,
        "prompts": prompts,
        "references": references,
        "rejected": [others, rejected],
        "rows": [row.id for row in rows],
    }
    file = cache / f"{sha256_json(identity)[:32]}.jsonl"
    outputs = load_outputs(file, rows)
    cached = bool(outputs)
    if cached:
        tell(of)(len(rows), len(rows))
    if cached and not (timed and None in [output.seconds for output in outputs]):
        return ArmAnswers(arm.name, outputs, True, time.perf_counter() - start, no_likelihood_reason)
    grammar = Grammar(loaded.tokenizer, arm.schema, template.stop_tokens) if arm.schema is not None else None
    prefix = (shared or PrefixCache(loaded.model))(prompts)
    generation = GenerationSettings(
        max_tokens=max_tokens, stops=template.stop_tokens, batch_size=batch_size, thinking_tokens=thinking_tokens, grammar=grammar,
        thought_starts=template.thought_starts, stop_loops=grammar is None,
    )  # fmt: skip
    generate_arm = partial(generate, loaded.model, loaded.tokenizer, settings=generation, prefix=prefix)
    if not cached:
        options: dict[str, Any] = {}
        if of == HELD_OUT_ROW:  # other prompts have short answers
            tell_tokens, most = tell(TOKEN), max_tokens + thinking_tokens
            tell_tokens(0, most)
            options["on_token"] = lambda longest: tell_tokens(longest, most)
            options["on_batch"] = lambda waiting: tell(WAITING)(waiting, len(rows))
        answers, earlier_seconds = _saved_as_they_end(
            cache / f"{sha256_json(decoding_identity)[:32]}{SAVED}", prompts, partial(generate_arm, **options), tell(of),
            to_json=asdict, from_json=lambda record: GeneratedAnswer(**record),
        )  # fmt: skip
        indices = [index for index, _ in (chosen if references else []) + (others if rejected else [])]
        pairs = [(prompts[index], tokens) for index, tokens in zip(indices, references + rejected, strict=True)]
        nats, seconds = _saved_as_they_end(  # a grammar does not change them
            cache / f"{sha256_json(model_identity)[:32]}{SAVED}", pairs,
            partial(negative_log_likelihoods, loaded.model, batch_size=batch_size, prefix=prefix), tell("reference"),
            to_json=partial(_nats_to_json, arm), from_json=lambda record: float(record["nats"]),
        )  # fmt: skip
        start -= earlier_seconds + seconds
        likelihoods = [(value, len(tokens)) for value, (_, tokens) in zip(nats, pairs, strict=True)]
        rejected_likelihoods = dict(zip(indices[len(rows) :], likelihoods[len(rows) :], strict=True))
        outputs = tuple(
            Output(
                row.id,
                template.calls.read(answer.text, row.tools),
                answer.ended,
                *(likelihoods[index] if likelihoods else (0.0, 0)),
                rejected_likelihoods.get(index),
                answer.thought,
                answer.thought_tokens,
                answer.tokens,
            )
            for index, (row, answer) in enumerate(zip(rows, answers, strict=True))
        )
    if timed:

        def answer_alone(prompt: Sequence[int], most: int, progress: Progress) -> GeneratedAnswer:
            alone = replace(generation, max_tokens=most, thinking_tokens=min(most, thinking_tokens), batch_size=1)
            return generate_arm([prompt], settings=alone, progress=progress)[0]

        latency = measure_latency(prompts, answer_alone, tell(TIMED))
        outputs = tuple(replace(one, seconds=latency.seconds(one.thought_tokens + one.answer_tokens)) for one in outputs)
    save_outputs(file, outputs)
    return ArmAnswers(arm.name, outputs, cached, time.perf_counter() - start, no_likelihood_reason)


def _saved_as_they_end(
    file: Path,
    inputs: Sequence[Input],
    compute: Callable[..., list[Result]],
    progress: Progress,
    *,
    to_json: Callable[[Result], dict[str, Any]],
    from_json: Callable[[dict[str, Any]], Result],
) -> tuple[list[Result], float]:
    """Return the results for ``inputs``, and the seconds that earlier evaluations spent on those that they saved in ``file``.

    The others are computed with ``compute`` and added to the file.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    keys, saved = [sha256_json(one) for one in inputs], {}
    for record in read(file):
        with suppress(KeyError, TypeError, ValueError):  # a damaged record: its result is computed again
            key, seconds = record.pop("input"), float(record.pop("seconds"))
            saved[key] = seconds, from_json(record)
    results = {index: saved[key][1] for index, key in enumerate(keys) if key in saved}
    left = [index for index in range(len(inputs)) if index not in results]
    known, last = len(results), time.perf_counter()
    if known:
        progress(known, len(inputs))
    if left:
        with closing(Journal(file)) as journal:

            def save(index: int, result: Result) -> None:
                nonlocal last
                before, last = last, time.perf_counter()
                journal.append({"input": keys[left[index]], "seconds": last - before, **to_json(result)})

            new = compute(
                [inputs[index] for index in left],
                progress=lambda done, _: progress(known + done, len(inputs)),
                on_answer=save,
            )
        results |= zip(left, new, strict=True)
    return [results[index] for index in range(len(inputs))], sum(saved[key][0] for key in set(keys) & saved.keys())


def _nats_to_json(arm: Arm, nats: float) -> dict[str, float]:
    if not math.isfinite(nats):
        raise MlxtuneError(
            f"{arm.name} assigns zero probability to a reference answer.",
            hint="The adapter may be corrupt. Train or import it again.",
        )
    return {"nats": nats}


def _answer_tokens(
    template: ChatTemplate, arm: Arm, rows: Sequence[PromptRow], answers: Sequence[IndexedText]
) -> tuple[list[list[int]], str]:
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
        encoded.append(answer.tokens[answer.start : answer.end])
    return encoded, ""


def _require_room(
    arm: Arm, loaded: LoadedModel, rows: Sequence[PromptRow], prompts: Sequence[Sequence[int]], max_tokens: int
) -> None:
    """Raise ``InputError`` if an arm's longest prompt and its answer exceed the model's maximum length."""
    most = _context_length(loaded)
    index = max(range(len(prompts)), key=lambda index: len(prompts[index]))
    if most is not None and len(prompts[index]) + max_tokens > most:
        raise InputError(
            f"{rows[index].location}: the prompt of {arm.name} has {len(prompts[index]):,} tokens and the answer can have up to "
            f"{max_tokens:,}, but the model is limited to {most:,}.",
            hint="Lower evaluation.max_tokens or evaluation.shots, or leave the arm out.",
        )


def _context_length(loaded: LoadedModel) -> int | None:
    """Return how many tokens a prompt and its answer may have, or ``None`` if the model does not specify it."""
    config = loaded.source.config
    most = config.get("max_position_embeddings") or config.get("text_config", {}).get("max_position_embeddings")
    return most if isinstance(most, int) else None


def _content_hashes(folder: Path) -> list[str]:
    """Return the hashes of a model's weights and tokenizer files, computed once per process."""
    files = sorted(file for pattern in ("model*.safetensors", "tokenizer*") for file in folder.glob(pattern) if file.is_file())
    return [_file_hash(file, file.stat().st_size, file.stat().st_mtime_ns) for file in files]


@lru_cache
def _file_hash(file: Path, size: int, changed: int) -> str:
    return sha256_file(file)


def save_outputs(file: Path, outputs: Sequence[Output]) -> None:
    """Write a line with the hash of ``outputs``, then ``outputs``."""
    lines = "".join(json.dumps(asdict(output), ensure_ascii=True) + "\n" for output in outputs)
    write_text(file, json.dumps({"sha256": hashlib.sha256(lines.encode()).hexdigest()}) + "\n" + lines)


def load_outputs(file: Path, rows: Sequence[PromptRow]) -> tuple[Output, ...]:
    """Read cached outputs; empty if the file is missing, damaged, or belongs to different rows."""
    try:
        head, _, lines = file.read_bytes().partition(b"\n")
        if json.loads(head)["sha256"] != hashlib.sha256(lines).hexdigest():
            return ()
        records = [json.loads(line) for line in lines.splitlines()]
        outputs = tuple(Output(**{**record, "rejected": tuple(record["rejected"] or ()) or None}) for record in records)
    except (OSError, ValueError, KeyError, TypeError):
        return ()
    return outputs if [output.id for output in outputs] == [row.id for row in rows] else ()
