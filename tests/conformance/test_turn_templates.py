"""The text around turns, derived from real chat templates, renders the same tokens; the Go template renders the same text."""

import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from bases import Base
from exhaustive import cases
from table import AVAILABLE, open_chat

from mlxtune.adapters.export.turn_template import TurnTemplate, derive, first_difference
from mlxtune.core.errors import TemplateError
from mlxtune.data.rows import Conversation, Location, Message
from mlxtune.models.template import ChatTemplate

CONVERSATIONS = {
    "one turn": [("user", "Is the café open?\nOn Sundays 🎉 {{ .X }}")],
    "system": [("system", "Answer in JSON.\n\nAlways."), ("user", 'Hi, "you" \\n')],
    "two turns": [("user", "One"), ("assistant", "Two"), ("user", "Three")],
    "system, three turns": [("system", "S"), ("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"), ("user", "e")],
}
GO = """
package main
import ("encoding/json"; "os"; "text/template")
type message struct{ Role, Content string }
func main() {
  var cases []struct{ Template string; Messages []message }
  if err := json.NewDecoder(os.Stdin).Decode(&cases); err != nil { panic(err) }
  var texts []string
  for _, one := range cases {
    t := template.Must(template.New("").Option("missingkey=zero").Parse(one.Template))
    var b stringsBuilder
    if err := t.Execute(&b, map[string]any{"Messages": one.Messages, "System": "", "Tools": nil}); err != nil { panic(err) }
    texts = append(texts, string(b))
  }
  json.NewEncoder(os.Stdout).Encode(texts)
}
type stringsBuilder []byte
func (b *stringsBuilder) Write(p []byte) (int, error) { *b = append(*b, p...); return len(p), nil }
"""


def row(name: str, turns: list[tuple[str, str]]) -> Conversation:
    messages = tuple(Message(role, text) for role, text in [*turns, ("assistant", "x")])
    return Conversation(Location(Path("rows"), 1), {}, messages)


def renders(chat: ChatTemplate, conversation: Conversation) -> bool:
    try:
        chat.prompt(conversation.prompt)
    except TemplateError:
        return False
    return True


def expressed(base: Base) -> tuple[ChatTemplate, TurnTemplate, str, dict[str, Conversation]]:
    """Return the template, its text around turns, the token that programs add at the start, and the conversations it accepts."""
    chat = open_chat(base, "off")
    text = chat.render([Message("user", "Hi")], (), generation_prompt=True)
    bos = base.bos if base.bos and text.startswith(base.bos) else ""
    turns = derive(chat, bos)
    assert turns is not None, base.name
    known = {name: row(name, turns) for name, turns in CONVERSATIONS.items() if renders(chat, row(name, turns))}
    if chat.dialect.systems == "last":  # text around turns cannot move a system turn behind others
        del known["system, three turns"]
    return chat, turns, bos, known


EACH = cases(AVAILABLE, "Llama 3.2", "Gemma 2", "Gemma 3", "Qwen2.5", "Qwen3", name=lambda base: base.name)


@pytest.mark.parametrize("base", EACH)
def test_text_around_turns_renders_the_same_tokens(base):
    chat, turns, bos, known = expressed(base)
    assert {"one turn", "two turns"} <= {*known}
    assert first_difference(chat, turns, list(known.values()), bos) is None


def test_a_wrong_template_is_named_with_the_token_where_it_differs():
    base = next(base for base in AVAILABLE if base.name == "Llama 3.2")
    chat, turns, bos, known = expressed(base)
    rows = list(known.values())
    wrong = replace(turns, user=(turns.user[0].replace("user", "human"), turns.user[1]))
    difference = first_difference(chat, wrong, rows, bos)
    expected = chat.prompt(rows[0].prompt)
    own = chat.tokenizer.encode(bos + (wrong.render(rows[0].prompt) or ""), add_special_tokens=False)
    assert expected[: difference.position] == own[: difference.position]
    assert expected[difference.position] != own[difference.position]
    assert (difference.expected, difference.actual) == ("u", "h")
    twice = first_difference(chat, replace(turns, start=bos + turns.start), rows, bos)
    assert twice.position == 1  # a second token at the start


def test_rows_with_tools_cannot_be_expressed():
    base = next(base for base in AVAILABLE if base.name == "Qwen3")
    chat, turns, bos, known = expressed(base)
    tool = {"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object", "properties": {}}}}
    difference = first_difference(chat, turns, [replace(known["one turn"], tools=(tool,))], bos)
    assert difference.actual == ""


@pytest.mark.exhaustive
@pytest.mark.skipif(shutil.which("go") is None, reason="needs Go")
def test_go_renders_the_same_text(tmp_path):
    (tmp_path / "main.go").write_text(GO)
    expected, requests = [], []
    for base in AVAILABLE:
        _, turns, _, known = expressed(base)
        for one in known.values():
            expected.append(turns.render(one.prompt))
            messages = [{"Role": turn.role, "Content": turn.content} for turn in one.prompt]
            requests.append({"Template": turns.go, "Messages": messages})
    assert len(expected) > 3 * len(AVAILABLE)
    done = subprocess.run(
        ["go", "run", "main.go"], cwd=tmp_path, input=json.dumps(requests), capture_output=True, text=True, check=True, timeout=300
    )
    assert json.loads(done.stdout) == expected
