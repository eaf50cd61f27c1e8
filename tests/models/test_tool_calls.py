"""Calls in a model's output, read back as JSON, and the shipped template with tools."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from test_template import template as make_template

from mlxtune.core.errors import TemplateError
from mlxtune.data.readers.formats import parse
from mlxtune.data.rows import Conversation, Location
from mlxtune.evaluation.arms import Arm
from mlxtune.evaluation.outputs import _answer_tokens
from mlxtune.models.template import ChatTemplate, TemplateSettings
from mlxtune.models.tool_calls import CallReader, CallSplitter, FunctionCall
from mlxtune.recipe import dump, read_template
from mlxtune.recipe import parse as parse_recipe
from mlxtune.recipe.schema import SHIPPED_TEMPLATES

TOOLS = [{"type": "function", "function": {"name": name, "parameters": {"properties": {"q": {}}}}} for name in ("find", "look")]
FIND, LOOK = {"name": "find", "arguments": {"q": "a “b”", "n": [1, None]}}, {"name": "look", "arguments": {}}
RECIPE = parse_recipe('name = "t"\n[model]\nbase = "b"\ntemplate = "chatml-tools"\n[data]\nsource = "d"\n')


GEMMA = (
    "{{ bos_token }}{% for message in messages %}<start_of_turn>{{ 'model' if message.role == 'assistant' else message.role }}\n"
    "{{ message.content | trim }}<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)


def gemma(folder: Path, template: str) -> ChatTemplate:
    """Return the chat template of a model with Gemma 3's control tokens, replaced by the shipped ``template`` if it is not empty."""
    settings = TemplateSettings(source=SHIPPED_TEMPLATES[template].read_text() if template else "")
    return make_template(folder, GEMMA, "<end_of_turn>", ("<start_of_turn>",), settings=settings)


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> ChatTemplate:
    return make_template(tmp_path_factory.mktemp("tokenizer"), settings=TemplateSettings(source=read_template(RECIPE)))


def row(*calls: dict[str, Any], content: str = "") -> Conversation:
    turn = {"role": "assistant", "content": content, "tool_calls": [{"type": "function", "function": call} for call in calls]}
    return parse({"messages": [{"role": "user", "content": "Find it"}, turn], "tools": TOOLS}, Location(Path("rows.jsonl"), 1))


@pytest.mark.parametrize("calls", [(FIND,), (FIND, LOOK)])
def test_the_shipped_template_trains_calls_that_are_read_back(chat: ChatTemplate, calls: tuple[dict[str, Any], ...]) -> None:
    conversation = row(*calls)
    (encoded,) = chat.encode(conversation, 5000)
    output = chat.tokenizer.decode(encoded.tokens[encoded.trained].tolist()).removesuffix("<|im_end|>")
    assert json.loads(conversation.reference) == (calls[0] if len(calls) == 1 else list(calls))
    assert chat.calls.read(output, TOOLS) == conversation.reference


def test_gemma_trains_calls_with_its_shipped_template(tmp_path: Path) -> None:
    chat = gemma(tmp_path, "gemma-tools")
    for calls in ((FIND,), (FIND, LOOK)):
        (encoded,) = chat.encode(row(*calls), 5000)
        output = chat.tokenizer.decode(encoded.tokens[encoded.trained].tolist())
        assert output.endswith("</tool_call><end_of_turn>")
        assert chat.calls.read(output.removesuffix("<end_of_turn>"), TOOLS) == row(*calls).reference


@pytest.mark.parametrize("template", ["", "phi-tools"])
def test_a_template_that_does_not_fit_names_the_one_that_does(template: str, tmp_path: Path) -> None:
    with pytest.raises(TemplateError) as caught:
        gemma(tmp_path, template).encode(row(FIND), 5000)
    assert caught.value.hint.startswith('Set model.template to "gemma-tools"')


def test_results_are_in_a_user_turn_of_the_shipped_template(chat: ChatTemplate) -> None:
    turns = [*row(FIND).content["messages"], {"role": "tool", "content": "here"}, {"role": "assistant", "content": "Found."}]
    conversation = parse({"messages": [{"role": "system", "content": "Be kind."}, *turns], "tools": TOOLS}, Location(Path("r"), 1))
    (encoded,) = chat.encode(conversation, 5000)
    text = chat.tokenizer.decode(encoded.tokens.tolist())
    assert text.startswith("<|im_start|>system\nBe kind.\n\nYou can call these functions:\n<tools>\n{")
    assert "<|im_start|>user\n<tool_response>\nhere\n</tool_response><|im_end|>\n<|im_start|>assistant\nFound.<|im_end|>" in text


@pytest.mark.parametrize(
    "output",
    [
        "Hello.",
        '{"name": "find", "arguments": {}}',
        'Well: <tool_call>{"name": "find", "arguments": {}}</tool_call>',
        "<tool_call>{nothing}</tool_call>",
        "<tool_call>[1]</tool_call>",
        '<tool_call>{"name": "find"}</tool_call>',
    ],
)
def test_other_outputs_stay_as_they_are(chat: ChatTemplate, output: str) -> None:
    assert chat.calls.read(output, TOOLS) == output


def test_without_tools_an_output_is_never_a_call(chat: ChatTemplate) -> None:
    output = '<tool_call>{"name": "find", "arguments": {}}</tool_call>'
    assert chat.calls.read(output, ()) == output


def test_a_recipe_names_the_shipped_template_wherever_it_is_installed() -> None:
    assert 'template = "chatml-tools"' in dump(RECIPE)
    assert "<tool_call>" in read_template(RECIPE)


def test_the_likelihood_of_a_reference_call_is_that_of_its_trained_tokens(chat: ChatTemplate) -> None:
    conversation = row(FIND)
    (encoded,) = chat.encode(conversation, 5000)
    tokens, reason = _answer_tokens(chat, Arm("base"), [conversation], [(0, conversation.reference)])
    assert (tokens, reason) == ([(0, encoded.tokens[encoded.trained].tolist())], "")


LLAMA = """{{- '"parameters": ' }}"""  # the parts by which the templates of Llama 3.1 and gpt-oss are recognized
HARMONY = '{{- "functions." + tool_call.name }}'


@pytest.mark.parametrize(
    ("source", "output", "text", "names"),
    [
        (LLAMA, '{"name": "find", "parameters": {"q": 1}}', "", ["find"]),
        (LLAMA, '<|python_tag|>{"name": "find", "parameters": {"q": 1}}', "", ["find"]),
        (LLAMA, '{"name": "other", "parameters": {"q": 1}}', None, []),
        (LLAMA, '{"name": "find"}', None, []),
        (LLAMA, "{", None, []),
        (HARMONY, ' to=functions.find<|channel|>commentary json<|message|>{"q": 1}', "", ["find"]),
        (HARMONY, '<|channel|>commentary to=functions.look-up.x <|constrain|>json<|message|>{"q": 1}', "", ["look-up.x"]),
        (HARMONY, "<|channel|>commentary<|message|>I will look.", None, []),
        (HARMONY, "to=functions.find<|message|>{", None, []),
        ("", 'Well: <tool_call>{"name": "find", "arguments": {"q": 1}}</tool_call>', "Well:", ["find"]),
        ("", '<tool_call>{"name": "find", "arguments": {"q": 1}}</tool_call>\n<tool_call>{"name": "look", "arguments": {"q": 1}}</tool_call>', "", ["find", "look"]),
        ("", "Use a <tool_call> tag, or <tools", None, []),
        ("", "  Spaces <t  ", None, []),
    ],
)  # fmt: skip
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_calls_in_an_answer_that_arrives_in_pieces(
    chat: ChatTemplate, source: str, output: str, text: str | None, names: list[str], size: int
) -> None:
    """``text`` is ``None`` if the output has no call and stays as it is."""
    splitter = CallSplitter(CallReader(chat.tokenizer, source) if source else chat.calls, TOOLS)
    pieces = [splitter.add(output[start : start + size]) for start in range(0, len(output), size)]
    rest, calls = splitter.end()
    assert "".join([*pieces, rest]) == (output if text is None else text)
    assert calls == [FunctionCall(name, {"q": 1}) for name in names]


def test_text_before_a_call_is_released_at_once(chat: ChatTemplate) -> None:
    splitter = CallSplitter(chat.calls, TOOLS)
    assert [splitter.add(text) for text in ("One ", "<tool", " two", " <tool_call>{", "}")] == ["One", "", " <tool two", "", ""]
    assert splitter.end() == (" <tool_call>{}", [])
    assert CallSplitter(chat.calls, ()).add("<tool_call>") == "<tool_call>"


WRITTEN = {  # a part of a template whose calls mlx-lm does not read, or not rightly, and a call as the template writes it
    "[TOOL_CALLS]{{ name }}[CALL_ID]{{ id }}[ARGS]": "[TOOL_CALLS]find[CALL_ID]call00001[ARGS]{call}",
    "<tool_calls>[": '\n<tool_calls>[{"name": "find", "arguments": {call}}]</tool_calls>',
    "<|START_ACTION|>": '<|START_ACTION|>[\n {"tool_call_id": "0", "tool_name": "find", "parameters": {call}}\n]<|END_ACTION|>',
}


@pytest.mark.parametrize("source", WRITTEN)
def test_calls_with_other_fields_are_read(chat: ChatTemplate, source: str) -> None:
    reader = CallReader(chat.tokenizer, source)
    text = WRITTEN[source].replace("{call}", json.dumps(FIND["arguments"]))
    assert reader.split(text, TOOLS) == ("", [FunctionCall(**FIND)])
    assert reader.split(text[:-20], TOOLS) == (text[:-20], [])
    splitter = CallSplitter(reader, TOOLS)
    assert "".join(map(splitter.add, text)) == ""
    assert splitter.end() == ("", [FunctionCall(**FIND)])
