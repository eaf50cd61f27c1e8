"""The shapes of rows that people train on, one record of each: with or without a system turn, tools, thinking, special tokens …"""

from typing import Any

Record = dict[str, Any]

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "find_harbor",
            "description": "Find a harbor by name.",
            "parameters": {
                "type": "object",
                "properties": {"town": {"type": "string", "description": "Name of the town"}},
                "required": ["town"],
            },
        },
    },
    {
        "type": "function",
        "function": {
            "name": "read_tides",
            "description": "Read the tide table.",
            "parameters": {
                "type": "object",
                "properties": {
                    "port": {"type": "string"},
                    "days": {"type": "integer"},
                    "wanted": {"type": "array", "items": {"type": "string"}},
                    "unit": {"type": "object", "properties": {"length": {"type": "string"}}},
                },
                "required": ["port"],
            },
        },
    },
]


def user(text: str, **extra: Any) -> Record:
    return {"role": "user", "content": text, **extra}


def assistant(text: str, **extra: Any) -> Record:
    return {"role": "assistant", "content": text, **extra}


def system(text: str) -> Record:
    return {"role": "system", "content": text}


def call(name: str, arguments: Any, number: int = 1) -> Record:
    return {"id": f"call{number:05d}", "type": "function", "function": {"name": name, "arguments": arguments}}


def calling(*calls: Record, text: str | None = None, **extra: Any) -> Record:
    return {"role": "assistant", "content": text, "tool_calls": list(calls), **extra}


def result(text: str, name: str, number: int = 1) -> Record:
    return {"role": "tool", "tool_call_id": f"call{number:05d}", "name": name, "content": text}


SKIPPER = "You are the harbor clerk of Lindau."
ROUND = [
    user("Where can I moor in Bregenz?"),
    calling(call("find_harbor", {"town": "Bregenz"})),
    result('{"harbor": "Sporthafen", "berths": 12}', "find_harbor"),
    assistant("The Sporthafen has 12 free berths."),
]
TURNS = [
    user("Is the ferry running?"),
    assistant("Yes, every hour."),
    user("And on Sundays?"),
    assistant("Every two hours."),
    user("Thank you."),
    assistant("Have a good trip!"),
]
PAIR = {"chosen": [assistant("The ferry leaves at noon.")], "rejected": [assistant("No idea, sorry.")]}
QUESTION = [user("When does the ferry leave?")]
THOUGHT = "The timetable says hourly departures."

SHAPES: dict[str, Record] = {
    "one turn": {"messages": TURNS[:2]},
    "multi-turn": {"messages": TURNS},
    "system": {"messages": [system(SKIPPER), *TURNS[:2]]},
    "system, multi-turn": {"messages": [system(SKIPPER), *TURNS]},
    "empty system": {"messages": [system(""), *TURNS[:2]]},
    "late system": {"messages": [*TURNS[:2], system("Answer in one word."), *TURNS[2:4]]},
    "developer": {"messages": [{"role": "developer", "content": SKIPPER}, *TURNS[:2]]},
    "names": {"messages": [user("Is the ferry running?", name="Annika"), *TURNS[1:4]]},
    "weight 0": {"messages": [TURNS[0], assistant("I refuse to say.", weight=0), *TURNS[2:4]]},
    "prompt with answers": {"prompt": TURNS[:3], "completion": [TURNS[3]]},
    "text parts": {"messages": [{"role": "user", "content": [{"type": "text", "text": "Is the ferry running?"}]}, TURNS[1]]},
    "pair": {"prompt": QUESTION, **PAIR},
    "pair, multi-turn": {"prompt": [system(SKIPPER), *TURNS[:2], *QUESTION], **PAIR},
    "unpaired": {"prompt": QUESTION, "completion": PAIR["chosen"], "label": True},
    "leading newline": {"messages": [*TURNS[:1], assistant("\nYes, every hour.")]},
    "trailing space": {"messages": [*TURNS[:1], assistant("Yes:\n```\nhourly\n```\n ")]},
    "NFD": {"messages": [*TURNS[:1], assistant("Zu\u0308rich und Bodense\u0301e.")]},
    "Unicode": {"messages": [user("⛵️ 何時に出ますか？"), assistant("毎時です。👩‍👩‍👧 Größe: 3 ½ m — שלום")]},
    "special in question": {"messages": [user("Say {specials} aloud."), TURNS[1]]},
    "special in answer": {"messages": [TURNS[0], assistant("It says {specials} there.")]},
    "tools, no call": {"messages": TURNS[:2], "tools": TOOLS},
    "tool round": {"messages": ROUND, "tools": TOOLS},
    "system, tool round": {"messages": [system(SKIPPER), *ROUND], "tools": TOOLS},
    "several calls": {
        "messages": [
            user("Compare the tides."),
            calling(call("read_tides", {"port": "Lindau"}), call("read_tides", {"port": "Konstanz"}, 2)),
            result("high at six", "read_tides"),
            result("high at seven", "read_tides", 2),
            assistant("An hour apart."),
        ],
        "tools": TOOLS,
    },
    "call with content": {
        "messages": [ROUND[0], calling(call("find_harbor", {"town": "Bregenz"}), text="Let me look that up."), *ROUND[2:]],
        "tools": TOOLS,
    },
    "final call": {"messages": ROUND[:2], "tools": TOOLS},
    "call without tools": {"messages": ROUND[:2]},
    "nested arguments": {
        "messages": [
            user("Tides, please."),
            calling(
                call("read_tides", {"port": "Lindau", "days": 3, "wanted": ["high", 'the "low" one'], "unit": {"length": "Größe"}})
            ),
        ],
        "tools": TOOLS,
    },
    "two tool rounds": {
        "messages": [
            *ROUND[:3],
            calling(call("read_tides", {"port": "Sporthafen"}, 2)),
            result("high at six", "read_tides", 2),
            assistant("Come at six."),
        ],
        "tools": TOOLS,
    },
    "turns after tools": {"messages": [*ROUND, user("And tomorrow?"), assistant("Tomorrow it is full.")], "tools": TOOLS},
    "reasoning_content": {"messages": [TURNS[0], assistant("Yes, every hour.", reasoning_content=THOUGHT)]},
    "reasoning": {"messages": [TURNS[0], assistant("Yes, every hour.", reasoning=THOUGHT)]},
    "thinking": {"messages": [TURNS[0], assistant("Yes, every hour.", thinking=THOUGHT)]},
    "inline <think>": {"messages": [TURNS[0], assistant(f"<think>\n{THOUGHT}\n</think>\n\nYes, every hour.")]},
    "thinking, two turns": {
        "messages": [
            TURNS[0],
            assistant("Yes, every hour.", reasoning_content=THOUGHT),
            TURNS[2],
            assistant("Every two hours.", reasoning_content="Sunday has its own column."),
        ]
    },
    "thinking and a call": {
        "messages": [ROUND[0], {**ROUND[1], "reasoning_content": "A harbor search answers this."}, *ROUND[2:]],
        "tools": TOOLS,
    },
}  # fmt: skip
THINKING = ("reasoning_content", "reasoning", "thinking", "inline <think>", "thinking, two turns", "thinking and a call")
TOOL_SHAPES = tuple(name for name, record in SHAPES.items() if "tools" in record or "call" in name)
GROUPS = {
    "one turn": ("one turn", "text parts", "Unicode"),
    "multi-turn": ("multi-turn", "weight 0", "prompt with answers"),
    "system": ("system", "system, multi-turn", "empty system", "late system", "developer"),
    "pairs": ("pair", "pair, multi-turn", "unpaired"),
    "tools": tuple(name for name in TOOL_SHAPES if name not in THINKING),
    "thinking": THINKING,
}


def with_specials(record: Any, text: str) -> Any:
    """Return ``record`` with ``{specials}`` in its strings replaced by ``text``."""
    if isinstance(record, str):
        return record.replace("{specials}", text)
    if isinstance(record, list):
        return [with_specials(item, text) for item in record]
    return {key: with_specials(value, text) for key, value in record.items()} if isinstance(record, dict) else record
