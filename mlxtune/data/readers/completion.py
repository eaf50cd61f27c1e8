"""TRL's prompt-completion formats: ``prompt`` and ``completion``, or unpaired preferences for KTO if there is a ``label``.

Only the completion is trained on, even if the prompt has assistant turns. In LLaMA-Factory's KTO format, the last turn of a
conversation is the completion.
"""

from dataclasses import replace

from mlxtune.data.readers import turns
from mlxtune.data.readers.row_format import InvalidRecord, Record, RowFormat, metadata, with_system
from mlxtune.data.rows import Conversation, Location, Unpaired

_CONVERSATIONS = ("messages", "conversations")
_LABELS = {"true": True, "1": True, "false": False, "0": False}


def read(record: Record, location: Location) -> Conversation:
    prompt = (replace(turn, trained=turn.role != "assistant") for turn in turns.turns_or_text(record, "prompt", "user"))
    messages = with_system((*prompt, *turns.turns_or_text(record, "completion", "assistant")), record)
    tools = turns.read_tools(record.get("tools"))
    meta = metadata(record, "prompt", "completion", "tools", "system")
    return Conversation(location, meta, turns.check_answered(turns.with_calls(messages, tools)), tools)


def read_unpaired(record: Record, location: Location) -> Unpaired:
    value = record.get("label")
    label = _LABELS.get(str(value).strip().lower()) if isinstance(value, bool | int | str) else None
    if label is None:
        raise InvalidRecord("label must be true or false.")
    if key := next((key for key in _CONVERSATIONS if key in record), None):
        *given, answer = turns.check_answered(turns.read_turns(record[key], key))
        completion = turns.answer_text(answer, f"the last turn of {key}")
    else:
        given, completion = [*turns.turns_or_text(record, "prompt", "user")], turns.single_answer(record, "completion")
    prompt = turns.check_prompt(with_system(given, record))
    tools = turns.read_tools(record.get("tools"))
    meta = metadata(record, "prompt", "completion", "label", "tools", "system", *_CONVERSATIONS)
    return Unpaired(location, meta, prompt, completion, label, tools)


def has_preference_label(record: Record) -> bool:
    """Return whether ``label`` is true or false, or one of these words. A number may be the user's own class label."""
    label = record.get("label")
    return isinstance(label, bool) or (isinstance(label, str) and label.strip().lower() in ("true", "false"))


def _matches(record: Record) -> bool:
    return "prompt" in record and "completion" in record


COMPLETION = RowFormat("completion", ("prompt", "completion", "tools", "system"), _matches, read)
UNPAIRED = RowFormat(
    "unpaired",
    ("prompt", "completion", "messages", "conversations", "label", "tools", "system"),
    lambda record: (_matches(record) or any(key in record for key in _CONVERSATIONS)) and has_preference_label(record),
    read_unpaired,
)
