"""Conversations: ``messages`` (OpenAI's chat fine-tuning, TRL) and ShareGPT's ``conversations`` of ``from`` and ``value``."""

from functools import partial

from mlxtune.data.readers.row_format import Record, RowFormat, metadata, with_system
from mlxtune.data.readers.turns import check_answered, read_tools, read_turns, with_calls
from mlxtune.data.rows import Conversation, Location


def read(record: Record, location: Location, key: str = "messages") -> Conversation:
    messages, tools = with_system(read_turns(record.get(key), key), record), read_tools(record.get("tools"))
    return Conversation(location, metadata(record, key, "tools", "system"), check_answered(with_calls(messages, tools)), tools)


CHAT = RowFormat("chat", ("messages", "tools", "system"), lambda record: "messages" in record, read)
SHAREGPT = RowFormat(
    "sharegpt", ("conversations", "tools", "system"), lambda record: "conversations" in record, partial(read, key="conversations")
)
