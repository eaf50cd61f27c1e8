"""Every base's frozen template, rendered by each program's own code: the prompts are those of training, token for token."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from bases import BASES, CHATML_TEMPLATE, Base, write_base
from exhaustive import cases
from llama_cpp import Llama
from mlx_lm.utils import load_model
from table import AVAILABLE, REPRESENTATIVE, UNTRAINABLE, open_chat
from tiny_model import make_tiny

from mlxtune.adapters.export import gguf
from mlxtune.adapters.export.llama_server import LlamaSettings, llama_server
from mlxtune.adapters.export.program_prompts import folder_difference
from mlxtune.adapters.publish import copy_tokenizer
from mlxtune.core.files import read_json, write_json
from mlxtune.data.rows import REASONING, Conversation, Location, Message, PromptRow
from mlxtune.evaluation.endpoint_answers import openai_message
from mlxtune.models.resolve import ModelFolder, resolve
from mlxtune.models.template import ChatTemplate
from mlxtune.serving.chat_session import ChatSession
from mlxtune.serving.completions import parse_message

MODES = ("off", "on", "keep")
LLAMA_CPP_REWRITES = {"Gemma 4 (first revision)": "it merges the results of calls into the turn of the call"}
TWO_TEMPLATES = replace(next(base for base in BASES if base.name == "Qwen2.5"), name="one for tools", default=CHATML_TEMPLATE)
EACH = cases((*AVAILABLE, TWO_TEMPLATES), *REPRESENTATIVE, "Gemma 2", "one for tools", name=lambda base: base.name)
TIDES = {
    "type": "function",
    "function": {"name": "tides", "description": "Look up tides", "parameters": {"type": "object", "properties": {}}},
}


def rare(*turns: tuple[str, str] | Message, tools: tuple[dict[str, Any], ...] = ()) -> Conversation:
    messages = (turn if isinstance(turn, Message) else Message(*turn) for turn in (*turns, ("assistant", "At noon.")))
    return Conversation(Location(Path("rare"), 1), {}, tuple(messages), tools)


def called(first: str, second: str, *results: tuple[str, str]) -> Conversation:
    """Return a conversation with two calls that have these IDs, and results, each with the ID of its call."""
    calls = [({"id": id} if id else {}) | {"type": "function", "function": TIDES_CALL} for id in (first, second)]
    answers = [Message("tool", text, {"tool_call_id": id} if id else {}) for id, text in results]
    return rare(("user", "When is high tide?"), Message("assistant", "", {"tool_calls": calls}), *answers, tools=(TIDES,))


TIDES_CALL = {"name": "tides", "arguments": {}}
ASKED, ANSWERED, SYSTEM = ("user", "Is it low tide?"), ("assistant", "Not yet."), ("system", "Answer in French.")
RARE = (
    rare(ASKED, ANSWERED, SYSTEM, ("user", "When?")),
    rare(ASKED, SYSTEM),
    rare(("system", "You are a sailor."), SYSTEM, ASKED),
    rare(("developer", "You are a sailor."), ASKED),
    rare(ASKED, ANSWERED, ("developer", "Be brief."), ("user", "When?")),
    rare(("system", " \n"), ASKED),
    rare(("system", ""), ASKED, ANSWERED, ("user", "When?")),
    rare(ASKED, ("user", "When?")),
    rare(Message("user", "When?", {"name": "Ann"})),
    called("", "", ("", "12:00"), ("", "13:00")),
    called("call_abcdefgh_12345", "call_abcdefgh_67890", ("call_abcdefgh_67890", "13:00"), ("call_abcdefgh_12345", "12:00")),
    called("abcdefgh1", "abcdefgh2", ("abcdefgh2", "13:00"), ("abcdefgh1", "12:00")),
)  # fmt: skip
by_name = pytest.mark.parametrize("base", EACH)


@by_name
def test_transformers_and_mlx_lm_render_the_prompts_of_training(base: Base, tmp_path: Path) -> None:
    source = ModelFolder(base.name, write_base(base, None, tmp_path / "base"), {}, "")
    for mode in MODES:
        chat = open_chat(base, mode)
        assert chat.rendered_prompts() or base.name in UNTRAINABLE or not base.thinking
        (tmp_path / mode).mkdir()
        copy_tokenizer(source, tmp_path / mode, chat.frozen_source)
        assert folder_difference(chat, tmp_path / mode) is None
        assert folder_difference(chat, source.folder, RARE, chat.frozen_source) is None


@by_name
def test_the_server_and_chat_render_the_prompts_of_training(base: Base) -> None:
    for mode in MODES:
        chat = open_chat(base, mode)
        for row, expected in chat.rendered_prompts():
            assert chat.prompt([parse_message(turn, "") for turn in openai_messages(row)], row.tools) == expected
            if not row.tools:
                session = ChatSession(*(turn.content for turn in row.prompt[:1] if turn.is_system))
                *turns, question = [turn for turn in row.prompt if not turn.is_system]
                for asked, answer in zip(turns[::2], turns[1::2], strict=True):
                    session.add(asked.content, answer.content, answer.extra.get(REASONING, ""))
                assert chat.prompt([*session.messages, question]) == expected


@pytest.mark.exhaustive
@by_name
def test_llama_cpp_renders_the_prompts_of_training(base: Base, tmp_path: Path) -> None:
    if base.name in LLAMA_CPP_REWRITES:
        pytest.skip(LLAMA_CPP_REWRITES[base.name])
    file = gguf_file(base, tmp_path / "model")
    chats = {mode: open_chat(base, mode) for mode in MODES}
    for source in {chat.frozen_source for chat in chats.values()}:
        with llama_server(LlamaSettings(str(file), template=source)) as url:
            for mode, chat in chats.items():
                assert chat.frozen_source != source or not differing(chat, Llama(url), mode, base.bos)


def openai_messages(row: PromptRow) -> list[dict[str, Any]]:
    reasoning = [{REASONING: turn.extra[REASONING]} if REASONING in turn.extra else {} for turn in row.prompt]
    return [openai_message(turn) | more for turn, more in zip(row.prompt, reasoning, strict=True)]


def differing(chat: ChatTemplate, server: Llama, mode: str, bos: str) -> dict[str, tuple[str, str]]:
    """Return the prompts of training that llama.cpp renders differently, and what it renders."""
    found = {}
    for row, _ in chat.rendered_prompts():
        body: dict[str, Any] = {"messages": openai_messages(row)}
        text = server.post("/apply-template", body | ({"tools": list(row.tools)} if row.tools else {}))["prompt"]
        expected = chat.render(row.prompt, row.tools, generation_prompt=True)
        if text.removeprefix(bos) != expected.removeprefix(bos):
            found[expected] = text
    return found


def gguf_file(base: Base, folder: Path) -> Path:
    """Write a tiny model with the tokens that begin and end texts of ``base``; llama.cpp's engine needs no other ones."""
    make_tiny(folder, stop=base.stops[0], specials=(base.bos,) if base.bos else (), texts=["the quick brown fox "] * 20)
    settings = read_json(folder / "tokenizer_config.json")
    write_json(folder / "tokenizer_config.json", settings | ({"bos_token": base.bos} if base.bos else {}))
    source = resolve(str(folder))
    model, config = load_model(source.folder)
    gguf.write_gguf(model, config, source, folder / "model.gguf")
    return folder / "model.gguf"
