"""Every base's frozen template, rendered by the engine whose errors LM Studio reports, @huggingface/jinja: the prompts are those of training."""

import json
import os
import shutil
import subprocess
from typing import Any

import pytest
from bases import Base
from downloads import Package
from exhaustive import cases
from table import AVAILABLE, REPRESENTATIVE, open_chat
from test_program_prompts import MODES, TWO_TEMPLATES

from mlxtune.data.rows import PromptRow
from mlxtune.models.template import ChatTemplate

ENGINE = Package(
    "@huggingface/jinja@0.5.11", "c92401a23cdef23be5a2773eafc22db6723e113380aa02fedd0ca40ceb123f29", "package/dist", ("index.cjs",)
)
SCRIPT = """
const { Template } = require(process.argv[1] + "/index.cjs");
const cases = JSON.parse(require("fs").readFileSync(0, "utf8"));
const templates = new Map();
const parsed = (text) => templates.get(text) ?? templates.set(text, new Template(text)).get(text);
const render = ({ template, variables }) => { try { return parsed(template).render(variables) } catch (error) { return String(error) } };
console.log(JSON.stringify(cases.map(render)));
"""
UNSUPPORTED = {"Apriel 1.5": "its own template takes the length of undefined tools, and the text of objects"}
UNSUPPORTED_TOOLS = {"SmolLM3": "its own template takes the text of objects"}


@pytest.mark.skipif(shutil.which("node") is None and not os.environ.get("CI"), reason="needs Node.js")
@pytest.mark.parametrize(
    "base", cases((*AVAILABLE, TWO_TEMPLATES), *REPRESENTATIVE, "Gemma 2", "one for tools", name=lambda base: base.name)
)
def test_lm_studios_engine_renders_the_prompts_of_training(base: Base) -> None:
    if base.name in UNSUPPORTED:
        pytest.skip(UNSUPPORTED[base.name])
    requests, expected = list[dict[str, Any]](), []
    for mode in MODES:
        chat = open_chat(base, mode)
        for row, _ in chat.rendered_prompts():
            if row.tools and base.name in UNSUPPORTED_TOOLS:
                continue
            requests.append(request(chat, row))
            expected.append(chat.render(row.prompt, row.tools, generation_prompt=True))
    assert rendered(requests) == expected


def request(chat: ChatTemplate, row: PromptRow) -> dict[str, Any]:
    """Return what LM Studio renders for ``row``. Its messages have the arguments of calls as objects."""
    tokens = {f"{kind}_token": getattr(chat.tokenizer, f"{kind}_token") or "" for kind in ("bos", "eos")}
    tools = {"tools": list(row.tools)} if row.tools else {}
    variables = {"messages": [turn.as_dict() for turn in row.prompt], "add_generation_prompt": True, **tokens, **tools}
    return {"template": chat.frozen_source, "variables": variables}


def rendered(requests: list[dict[str, Any]]) -> list[str]:
    """Return the prompts, or the errors."""
    command = ["node", "-e", SCRIPT, str(ENGINE.folder())]
    done = subprocess.run(command, input=json.dumps(requests), capture_output=True, text=True, check=True, timeout=120)
    return json.loads(done.stdout)
