"""Alpaca format: ``instruction``, ``input``, ``output``, ``history``. A newline joins instruction and input, as in LLaMA-Factory."""

from mlxtune.data.readers.row_format import InvalidRecord, Record, RowFormat, answer_value, metadata, text_field, with_system
from mlxtune.data.readers.turns import check_answered
from mlxtune.data.rows import Conversation, Location, Message, assistant_message

_KEYS = ("instruction", "input", "output", "history", "system")


def read_instruction(record: Record) -> str:
    """Return the instruction, followed by the input if there is one. Some files have the whole question in the input."""
    extra_input = record.get("input")
    if extra_input is not None and not isinstance(extra_input, str):
        raise InvalidRecord("input must be a string.")
    if extra_input and record.get("instruction") == "":
        return text_field(record, "input")
    instruction = text_field(record, "instruction")
    return f"{instruction}\n{extra_input}" if extra_input and extra_input.strip() else instruction


def _read(record: Record, location: Location) -> Conversation:
    pairs = record.get("history") or []
    if not isinstance(pairs, list) or not all(
        isinstance(pair, list) and len(pair) == 2 and all(isinstance(text, str) for text in pair) for pair in pairs
    ):
        raise InvalidRecord("history must be a list of [question, answer] pairs.")
    messages = [
        *(turn for question, answer in pairs for turn in (Message("user", question), assistant_message(answer))),
        Message("user", read_instruction(record)),
        assistant_message(text_field({"output": answer_value(record.get("output"))}, "output")),
    ]
    return Conversation(location, metadata(record, *_KEYS), check_answered(with_system(messages, record)))


ALPACA = RowFormat("alpaca", _KEYS, lambda record: "instruction" in record and "output" in record, _read)
