"""Serve a task's unused training rows as a teacher, as if a person wrote and labeled new rows like those that are shown.

    python benchmarks/tasks/annotator.py restaurants8k --known WORKSPACE/data --port 8123

It answers the two questions of ``mlxtune improve --model annotator --url http://127.0.0.1:8123/v1``: asked for new messages, it takes the
most similar unused ones of the task's largest training set; asked for an answer, it gives the one of the set. Rows whose prompt is in a
file under ``--known`` are left out.
"""

from __future__ import annotations

import argparse
import json
import re
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock
from typing import Any

import sources
from rapidfuzz import fuzz, process

_SHOWN = re.compile(r"<<\w+ message \d+>>\n(.*?)\n(?=<<)", re.DOTALL)  # the material of a question for new messages
_TAKEN = 5  # messages per reply


class Annotator:
    """The unused rows of a task: ``answers`` by prompt. Each prompt is proposed once."""

    def __init__(self, answers: dict[str, str]) -> None:
        self.answers, self._unused, self._lock = answers, list(answers), Lock()

    def reply(self, messages: list[dict[str, str]]) -> str:
        """Return the reply to a question for new messages, or to a conversation that ends with a message of the set."""
        asked = messages[-1]["content"]
        if asked in self.answers:
            return self.answers[asked]
        shown = _SHOWN.findall(asked)
        with self._lock:
            found: list[str] = []
            while len(found) < _TAKEN and self._unused:
                like = shown[len(found) % len(shown)] if shown else asked
                prompt = process.extractOne(like, self._unused, scorer=fuzz.token_set_ratio)[0]
                self._unused.remove(prompt)
                found.append(prompt)
        return json.dumps(found, ensure_ascii=False)


def main() -> None:
    options = _options()
    task = sources.load(options.task)
    rows = task.convert(sources.read(task, options.work / "cache", options.mirrors), max(task.rows), 1)["train"]
    known = {json.loads(line)["messages"][-2]["content"] for file in options.known.glob("*.jsonl") for line in file.open()}
    pairs = (row["messages"][-2:] for row in rows)
    annotator = Annotator({asked["content"]: answer["content"] for asked, answer in pairs if asked["content"] not in known})
    print(f"{len(annotator.answers)} rows at http://127.0.0.1:{options.port}/v1", flush=True)
    ThreadingHTTPServer(("127.0.0.1", options.port), _handler(annotator)).serve_forever()


def _handler(annotator: Annotator) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            message = {"role": "assistant", "content": annotator.reply(request["messages"])}
            choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
            usage = dict.fromkeys(("prompt_tokens", "completion_tokens", "total_tokens"), 0)
            made = {"id": "1", "object": "chat.completion", "created": 0, "model": request["model"]}
            body = json.dumps(made | {"choices": choices, "usage": usage}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    return Handler


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=sources.names())
    parser.add_argument("--known", type=Path, required=True, help="folder with the JSON Lines of rows that the task already uses")
    parser.add_argument("--port", type=int, default=8123)
    parser.add_argument("--mirrors", type=Path, help="a folder with clones named OWNER+NAME/repo, instead of downloads")
    parser.add_argument("--work", type=Path, default=Path("build/tasks"), help="folder for downloads")
    return parser.parse_args()


if __name__ == "__main__":
    main()
