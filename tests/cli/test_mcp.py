"""The server for coding agents, through the SDK's own client."""

import asyncio
import csv
import json
import shutil
import sys
from pathlib import Path

import pytest

pytest.importorskip("mcp")
from mcp import Client, MCPError
from mcp_types import ElicitResult

from mlxtune.cli import mcp_server
from mlxtune.cli.mcp_server import server
from mlxtune.runs import registry

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
from agent import take_to_verdict


@pytest.fixture
def inside(workspace, monkeypatch):
    monkeypatch.chdir(workspace)
    return workspace


async def _answer(client, tool, **arguments):
    """Return what a tool answers, or its error."""
    result = await client.call_tool(tool, arguments)
    return result.content[0].text if result.is_error else result.structured_content


def _ask(*actions):
    """Return a user who answers the questions in order, and the questions."""
    asked, left = [], list(actions)

    async def answer(_context, question):
        asked.append(question.message)
        action = left.pop(0)
        return ElicitResult(action=action, content={"agree": True} if action == "accept" else None)

    return answer, asked


async def test_tools_have_descriptions_and_resources_are_readable(inside):
    async with Client(server) as client:
        tools = (await client.list_tools()).tools
        assert {tool.name for tool in tools} >= {
            "check", "plan", "train", "status", "stop", "evaluate", "report", "compare", "score", "export", "generate_text"
        }  # fmt: skip
        assert all(tool.description and "consent" not in tool.input_schema.get("properties", {}) for tool in tools)
        assert "\n# Commands" in (await client.read_resource("mlxtune://docs/commands")).contents[0].text
        assert json.loads((await client.read_resource("mlxtune://runs")).contents[0].text) == []
        with pytest.raises(MCPError):
            await client.read_resource("mlxtune://docs/..%2fREADME")


async def test_paths_stay_within_the_workspace(inside, tmp_path):
    outside = tmp_path / "secret.jsonl"
    outside.write_text('{"prompt": "a", "completion": "b"}\n' * 20)
    (inside / "link.jsonl").symlink_to(outside)
    recipe, unnamed = "recipes/tiny.toml", "recipes/tiny"
    shutil.copy(inside / recipe, inside / unnamed)
    evaluation = inside / "evals" / "20261201-0900-tiny"
    evaluation.mkdir(parents=True)
    for name in ("recipe.toml", "report.json", "report.md"):
        (evaluation / name).symlink_to(outside)
    async with Client(server) as client:
        with pytest.raises(MCPError, match="outside the workspace"):
            await client.read_resource(f"mlxtune://reports/{evaluation.name}")
        for tool, arguments in (
            ("check", {"source": str(outside)}),
            ("check", {"source": "../secret.jsonl"}),
            ("check", {"source": "link.jsonl"}),
            ("check", {"source": "chat.jsonl\0"}),
            ("create_recipe", {"file": "../secret.jsonl"}),
            ("plan", {"recipe": recipe, "overrides": ["data.source=../../secret.jsonl"]}),
            ("plan", {"recipe": unnamed, "overrides": ["data.source=../../secret.jsonl"]}),
            ("train", {"recipe": recipe, "overrides": ["data.source=../link.jsonl"]}),
            ("evaluate", {"subject": recipe, "overrides": ["evaluation.regression=../../secret.jsonl"]}),
            ("score", {"outputs": "link.jsonl", "recipe": recipe}),
            ("status", {"run": ".."}),
            ("report", {"evaluation": str(tmp_path)}),
            ("generate_text", {"prompt": "a", "base": str(tmp_path)}),
        ):
            message = await _answer(client, tool, **arguments)
            assert isinstance(message, str), (tool, arguments)
            assert "outside the workspace" in message, message
    assert registry.list_runs(inside, "train") == []


async def test_an_option_in_the_place_of_a_name_is_a_name(inside):
    async with Client(server) as client:
        assert "There are no training runs" in await _answer(client, "status", run="--help")


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_the_user_is_asked_before_rows_are_sent(inside, monkeypatch, mode):
    started = []

    async def run_command(*arguments):
        started.append(arguments)
        return {"run": "r"}

    monkeypatch.setattr(mcp_server, "run_command", run_command)
    endpoint = '{ url = "https://models.example/v1", model = "m", price_in = 1.0, price_out = 1.0, cap = 2.0 }'
    overrides = [f"evaluation.endpoints.big={endpoint}", 'evaluation.arms=["base", "endpoint:big"]']
    answer, asked = _ask("decline", "accept")
    async with Client(server, mode=mode, elicitation_callback=answer) as client:
        for agreed in (False, True):
            sent = await _answer(client, "evaluate", subject="recipes/tiny.toml", overrides=overrides)
            assert isinstance(sent, dict) == bool(started) == agreed, sent
        assert await _answer(client, "evaluate", subject="recipes/tiny.toml") == {"run": "r"}
    assert asked == 2 * ["Rows will be sent to models.example, for at most $2.00 in total. Send them?"]
    assert ["--send" in arguments for arguments in started] == [True, False]
    async with Client(server, mode=mode) as client:
        with pytest.raises(MCPError):  # a client that cannot ask
            await client.call_tool("evaluate", {"subject": "recipes/tiny.toml", "overrides": overrides})


async def test_work_that_takes_long_is_a_job(inside, monkeypatch):
    monkeypatch.setattr(mcp_server, "PATIENCE", 0.0)
    async with Client(server) as client:
        job = (await _answer(client, "create_recipe", file="chat.jsonl"))["job"]
        answer = {"job": job}
        while "job" in answer:
            await asyncio.sleep(0.01)
            answer = await _answer(client, "status", run=job)
        assert answer["recipe"] == "recipes/chat.toml"


@pytest.mark.slow
@pytest.mark.exhaustive
async def test_an_agent_takes_a_csv_file_to_a_verdict(tiny, tmp_path, capsys):
    shutil.copytree(tiny, tmp_path / "tiny")
    with (tmp_path / "tickets.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["question", "answer"])
        writer.writerows([f"My parcel {number} is late, what now?", f"Send parcel {number} back."] for number in range(60))
    settings = ["model.base=../tiny", "training.steps=2", "evaluation.max_tokens=4", "evaluation.regression="]
    settings.append('evaluation.arms=["base","tuned"]')
    report = await take_to_verdict(tmp_path, "tickets.csv", settings)
    assert report["verdict"]["outcome"] in ("cannot_tell", "better", "worse")
    assert "→ export(form='mlx'" in capsys.readouterr().out
    assert {run.kind for run in registry.list_runs(tmp_path, None)} == {"train", "eval", "export"}
