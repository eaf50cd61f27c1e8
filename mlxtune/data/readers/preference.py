"""Preference pairs: TRL's ``chosen`` and ``rejected`` with an explicit or implicit prompt, and OpenAI's preference fine-tuning."""

from collections.abc import Sequence

from mlxtune.core.sequences import common_length
from mlxtune.core.text import plural
from mlxtune.data.readers import turns
from mlxtune.data.readers.alpaca import read_instruction
from mlxtune.data.readers.row_format import PROMPT_COLUMNS, InvalidRecord, Record, RowFormat, metadata, with_system
from mlxtune.data.rows import Location, Message, Preference


def read(record: Record, location: Location) -> Preference:
    if "chosen_messages" in record:  # LLaMA-Factory v1
        record = {_CONVERSATION_KEYS.get(key, key): value for key, value in record.items()}
    source = next((key for key in ("prompt", "conversations", "messages", "instruction") if record.get(key) is not None), None)
    chosen, rejected = record.get("chosen"), record.get("rejected")
    given: Sequence[Message] = ()
    if source is None and isinstance(chosen, str) and isinstance(rejected, str):
        prompt_text, chosen, rejected = _split_implicit_prompt(record, chosen, rejected)
        given = (Message("user", prompt_text),)
    elif source == "instruction":
        given = (Message("user", read_instruction(record)),)
    elif source is not None:
        given = turns.turns_or_text(record, source, "user")
    answers = {"chosen": chosen, "rejected": rejected}
    better, worse = (turns.turns_or_text(answers, key, "assistant") for key in ("chosen", "rejected"))
    _check_different(better == worse, "chosen and rejected")
    shared = min(common_length(better, worse), len(better) - 1, len(worse) - 1)
    prompt = _merge_prompts(given, better[:shared])
    if len(better) != shared + 1 or len(worse) != shared + 1:
        chosen_rest, rejected_rest = turns.describe_turns(better[shared:]), turns.describe_turns(worse[shared:])
        reason = f"after {plural(shared, 'shared turn')}, chosen has {chosen_rest} and rejected has {rejected_rest}, not one each."
        raise InvalidRecord(reason, "End both with the first answer in which they differ.", "different-prompts")
    good, bad = turns.answer_text(better[-1], "chosen"), turns.answer_text(worse[-1], "rejected")
    _check_different(good == bad, "chosen and rejected")
    tools = turns.read_tools(record.get("tools"))
    prompt_keys = ("instruction", "input") if source == "instruction" else (source or "",)
    meta = metadata(record, "chosen", "rejected", "tools", "system", *prompt_keys)
    return Preference(location, meta, turns.check_prompt(with_system(prompt, record)), good, bad, tools)


def _read_openai(record: Record, location: Location) -> Preference:
    given = record.get("input")
    if not isinstance(given, dict):
        raise InvalidRecord("input must be an object with messages.", 'Write it as {"messages": […], "tools": […]}.')
    prompt = turns.check_prompt(turns.read_turns(given.get("messages"), "input.messages"))
    good, bad = turns.single_answer(record, "preferred_output"), turns.single_answer(record, "non_preferred_output")
    _check_different(good == bad, "preferred_output and non_preferred_output")
    rest = {key: value for key, value in given.items() if key not in ("messages", "tools")}
    meta = {**rest, **metadata(record, "input", "preferred_output", "non_preferred_output")}
    return Preference(location, meta, prompt, good, bad, turns.read_tools(given.get("tools")))


_CONVERSATION_KEYS = {"chosen_messages": "chosen", "rejected_messages": "rejected"}


def _check_different(same: bool, keys: str) -> None:
    if same:
        raise InvalidRecord(f"{keys} are identical.", kind="same-pair")


def _merge_prompts(given: Sequence[Message], shared: Sequence[Message]) -> Sequence[Message]:
    """Return the prompt that is ``given`` explicitly or ``shared`` by both answers. If both exist, they must match."""
    if not given and not shared:
        raise InvalidRecord("there is no prompt, and chosen and rejected do not share a turn.", kind="different-prompts")
    if not given or not shared:
        return given or shared
    plain = [[(turn.role, turn.content.strip()) for turn in one if not turn.is_system] for one in (given, shared)]
    systems = {turn.content.strip() for turn in (*given, *shared) if turn.is_system}
    if plain[0] != plain[1] or len(systems) > 1:
        raise InvalidRecord("the prompt differs from the turns that chosen and rejected share.", kind="different-prompts")
    return max(given, shared, key=len)


def _split_implicit_prompt(record: Record, chosen: str, rejected: str) -> tuple[str, str, str]:
    """Return the prompt that two texts share, and the rest of each text. Unlike TRL's ``extract_prompt``, it never splits a word."""
    if column := next((key for key in PROMPT_COLUMNS if isinstance(record.get(key), str)), None):
        raise InvalidRecord("there is no prompt.", f"Map its column: --map prompt={column}, or data.map in a recipe.")
    shared = chosen[: common_length(chosen, rejected)]
    end = max(shared.rfind(" "), shared.rfind("\n"))
    if end < 0 or not shared[:end].strip():
        raise InvalidRecord(
            "there is no prompt, and chosen and rejected do not begin with the same words.", kind="different-prompts"
        )
    return shared[:end], chosen[end:], rejected[end:]


PREFERENCE = RowFormat(
    "preference",
    ("prompt", "conversations", "messages", "instruction", "input", "chosen", "rejected", "tools", "system", *_CONVERSATION_KEYS),
    lambda record: {"chosen", "rejected"} <= record.keys() or _CONVERSATION_KEYS.keys() <= record.keys(),
    read,
)
OPENAI_PREFERENCE = RowFormat(
    "openai-preference",
    ("input", "preferred_output", "non_preferred_output"),
    lambda record: "preferred_output" in record and "non_preferred_output" in record,
    _read_openai,
)
