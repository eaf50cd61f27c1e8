"""Conversations: ``messages`` (OpenAI's chat fine-tuning, TRL) and ShareGPT's ``conversations`` of ``from`` and ``value``."""

from __future__ import annotations

from mlxtune.data.readers.row_format import Record, RowFormat, metadata, with_system
from mlxtune.data.readers.turns import check_answered, read_tools, read_turns, sharegpt_tools
from mlxtune.data.rows import Conversation, Location


def read(record: Record, location: Location) -> Conversation:
    messages = with_system(read_turns(record.get("messages"), "messages"), record)
    meta = metadata(record, "messages", "tools", "system")
    return Conversation(location, meta, check_answered(messages), read_tools(record.get("tools")))


def _read_sharegpt(record: Record, location: Location) -> Conversation:
    messages = with_system(read_turns(record.get("conversations"), "conversations"), record)
    meta = metadata(record, "conversations", "tools", "system")
    return Conversation(location, meta, check_answered(messages), sharegpt_tools(record.get("tools")))


CHAT = RowFormat("chat", ("messages", "tools", "system"), lambda record: "messages" in record, read)
SHAREGPT = RowFormat("sharegpt", ("conversations", "tools", "system"), lambda record: "conversations" in record, _read_sharegpt)
