"""Answers of a model at an OpenAI-compatible endpoint to the held-out rows, cached like those of any other arm."""

import json
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from mlxtune.core.errors import MachineError
from mlxtune.core.hashing import sha256_json
from mlxtune.core.text import plural
from mlxtune.data.rows import Message, PromptRow, calls_as_json
from mlxtune.evaluation.answers import Answer, ArmAnswers
from mlxtune.evaluation.arms import Arm
from mlxtune.evaluation.judge.endpoint import CostMeter, EndpointClient, api_key, host
from mlxtune.evaluation.judge.paid_calls import PaidCall, make_calls, read_calls
from mlxtune.evaluation.scorers import THINKING_LIMIT
from mlxtune.models.generate import Progress
from mlxtune.models.thoughts import split_thought
from mlxtune.recipe import Endpoint
from mlxtune.runs.events import HELD_OUT_ROW
from mlxtune.runs.locks import file_lock

WORKERS = 4  # concurrent requests
CALLS = ".calls.jsonl"  # suffix of the journal of calls


def endpoint_answers(
    arm: Arm,
    endpoint: Endpoint,
    rows: Sequence[PromptRow],
    *,
    max_tokens: int,
    cache: Path,
    tell: Callable[[str], Progress],
    count_tokens: Callable[[str], int],
    workers: int = WORKERS,
) -> tuple[ArmAnswers, float]:
    """Return the endpoint's answers to ``rows``, and the dollars spent on them so far.

    Answers have at most ``max_tokens``, reasoning included. Each reply is saved as it arrives, so that an interrupted evaluation
    continues where it ended. A reply that was lost may have been billed: its worst-case cost counts toward the cap, and only
    another evaluation requests it again. ``count_tokens`` is used if the endpoint does not report tokens. Raises ``InputError`` if
    the endpoint rejects a request, ``MachineError`` if it cannot be reached or replies were lost, and ``CostCapReached`` at the cap.
    """
    start = time.perf_counter()
    requests = row_requests(arm, rows)
    keys = [key for key, *_ in requests]
    name = sha256_json({"v": 2, "endpoint": [endpoint.url, endpoint.model], "max_tokens": max_tokens, "calls": keys})
    journal = cache / f"{name[:32]}{CALLS}"
    cached = set(keys) <= read_calls(journal).replies.keys()
    if not cached:
        meter = CostMeter(endpoint.price_in, endpoint.price_out, endpoint.cap or None, max_tokens)
        client = EndpointClient(endpoint.url, endpoint.model, api_key(endpoint.url, endpoint.key_env), meter)

        def ask(messages: list[dict[str, Any]], tools: Sequence[dict[str, Any]]) -> dict[str, Any]:
            return asdict(client.complete(messages, tools))

        calls = [
            PaidCall(key, {"row": row.id}, meter.worst_case(messages, tools), partial(ask, messages, tools))
            for row, (key, messages, tools) in zip(rows, requests, strict=True)
        ]
        with file_lock(cache / f"{name[:32]}.lock", busy=f"Another evaluation is asking {arm.name}.", timeout=0.3):
            make_calls(calls, meter, journal, tell(HELD_OUT_ROW), workers=workers, done=read_calls(journal).replies)
    log = read_calls(journal)
    if missing := sum(key not in log.replies for key in keys):
        raise MachineError(
            f"Replies from {host(endpoint.url)} to {plural(missing, 'row')} were lost, may have been billed, and count toward the cap.",
            hint="Run again to ask for the lost ones; the others are saved.",
        )
    answers = tuple(_output(row.id, log.replies[key], count_tokens) for row, key in zip(rows, keys, strict=True))
    tell(HELD_OUT_ROW)(len(rows), len(rows))
    return ArmAnswers(arm.name, answers, cached, time.perf_counter() - start), log.spent


def row_requests(arm: Arm, rows: Sequence[PromptRow]) -> list[tuple[str, list[dict[str, Any]], Sequence[dict[str, Any]]]]:
    """Return the key in the journal, the messages, and the tools, in OpenAI's format, of the request for each row's answer."""
    requests = [([openai_message(turn) for turn in arm.prompt_for(row)], row.tools) for row in rows]
    return [(sha256_json([row.id, *request])[:32], *request) for row, request in zip(rows, requests, strict=True)]


def openai_message(turn: Message) -> dict[str, Any]:
    """Return a turn in the form that OpenAI's API accepts, without reasoning and with arguments of calls as text."""
    message: dict[str, Any] = {"role": turn.role, "content": turn.content}
    message |= {key: turn.extra[key] for key in ("name", "tool_call_id") if key in turn.extra}
    if calls := turn.extra.get("tool_calls"):
        message["tool_calls"] = [
            {
                "id": call.get("id") or f"call_{index}",
                "type": "function",
                "function": {**call["function"], "arguments": json.dumps(call["function"].get("arguments", {}))},
            }
            for index, call in enumerate(calls)
        ]
    return message


def _output(row: str, reply: dict[str, Any], count_tokens: Callable[[str], int]) -> Answer:
    """Return a completion as an answer: the text after its reasoning, or its calls as JSON."""
    thought, text = split_thought(reply["text"])
    thought_tokens = reply["thought_tokens"] or (count_tokens(thought) if thought else 0)
    calls = []
    for function in (call.get("function") or {} for call in reply["calls"]):
        arguments = function.get("arguments") or "{}"
        with suppress(ValueError):  # they are JSON
            arguments = json.loads(arguments)
        calls.append({"function": {"name": function.get("name", ""), "arguments": arguments}})
    answer = calls_as_json(calls) if calls else text
    tokens = max(0, reply["tokens"] - thought_tokens) if reply["tokens"] is not None else count_tokens(answer)
    ended = THINKING_LIMIT if reply["ended"] == "length" and thought_tokens and not answer else reply["ended"]
    return Answer(row, answer, ended, tokens, thought, thought_tokens, reply["seconds"])
