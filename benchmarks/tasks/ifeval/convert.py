"""IFEval (Zhou et al. 2023, arXiv:2311.07911): prompts whose instructions the checks of off-task prompts can verify."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from sources import Row, lines, shuffled

Check = list[Any]
_LONGEST = 256  # tokens of an answer
_CHECKS: Mapping[str, Callable[[Mapping[str, Any]], list[Check]]] = {
    "punctuation:no_comma": lambda given: [["omits", ","]],
    "change_case:english_lowercase": lambda given: [["lowercase"]],
    "change_case:english_capital": lambda given: [["uppercase"]],
    "startend:quotation": lambda given: [["wrapped", '"', '"']],
    "startend:end_checker": lambda given: [["ends", given["end_phrase"]]],
    "detectable_format:title": lambda given: [["enclosed", "<<", ">>"]],
    "detectable_format:number_bullet_lists": lambda given: [["bullets", given["num_bullets"]]],
    "detectable_content:postscript": lambda given: [["contains", given["postscript_marker"]]],
    "keywords:existence": lambda given: [["contains", word] for word in given["keywords"]],
    "keywords:forbidden_words": lambda given: [["omits", word] for word in given["forbidden_words"]],
    "length_constraints:number_words": lambda given: [
        ["min_words", given["num_words"]] if given["relation"] == "at least" else ["max_words", given["num_words"] - 1]
    ],
}


def convert(files: Mapping[str, bytes], rows: int, held_out: int) -> dict[str, list[Row]]:
    """Return ``held_out`` of the prompts, all of whose instructions can be verified."""
    (content,) = files.values()
    known = [entry for entry in shuffled(lines(content)) if set(entry["instruction_id_list"]) <= _CHECKS.keys()]
    return {"off_task": [_prompt(entry) for entry in known[:held_out]]}


def _prompt(entry: Mapping[str, Any]) -> Row:
    instructions = zip(entry["instruction_id_list"], entry["kwargs"], strict=True)
    checks = [check for name, given in instructions for check in _CHECKS[name](given)]
    return {
        "id": str(entry["key"]),
        "category": "instructions",
        "prompt": entry["prompt"],
        "checks": checks,
        "max_tokens": _LONGEST,
    }
