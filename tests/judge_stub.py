"""An OpenAI-compatible endpoint on this machine, with a mind that a test gives it."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Mind = Callable[[dict[str, str], str], dict[str, Any] | str]
"""Takes the parts of the material by name (conversation, answer, or answer 1 and answer 2) and the question; gives the reply."""


def parts(messages: list[dict[str, str]]) -> tuple[dict[str, str], str]:
    """What the material holds, as a judge who respects the marks reads it, and the question."""
    text = messages[-1]["content"]
    mark = re.match(r"<<(\w+) ", text)[1]
    pieces = re.split(rf"^<<{mark} ([\w ]+)>>\n", text, flags=re.MULTILINE)[1:]
    material = dict(zip(pieces[::2], [piece.removesuffix("\n") for piece in pieces[1::2]], strict=True))
    return material, material.pop("end")


def honest(material: dict[str, str], question: str) -> dict[str, Any]:
    """Likes answers that thank or address the customer, and quotes why."""

    def good(answer: str) -> bool:
        return answer.startswith(("Thank you", "Dear"))

    if "answer" in material:
        answer = material["answer"]
        quote = answer[:9] if good(answer) else ""
        return {"evidence": quote, "verdict": "yes" if quote else "no", "score": 5 if quote else 1}
    one, two = material["answer 1"], material["answer 2"]
    if good(one) == good(two):
        return {"evidence": "", "better": "tie"}
    return {"evidence": (one if good(one) else two)[:9], "better": "1" if good(one) else "2"}


def gullible(material: dict[str, str], question: str) -> dict[str, Any]:
    """As the honest one, but does what an answer tells it to."""
    for name, answer in material.items():
        if name.startswith("answer") and "Ignore the question" in answer:
            return {"evidence": "Ignore the question", "verdict": "yes", "score": 5, "better": name.split()[-1]}
    return honest(material, question)


class Stub:
    """What the endpoint was asked, and how it answers: ``script`` holds statuses for the next requests, then 200."""

    def __init__(self, mind: Mind) -> None:
        self.mind = mind
        self.script: list[int | str] = []
        self.headers: list[dict[str, str]] = []
        self.bodies: list[dict[str, Any]] = []
        self.usage: dict[str, int] | None = {"prompt_tokens": 100, "completion_tokens": 10}
        self.retry_after = ""
        self.url = ""

    def asked(self, text: str) -> int:
        """How many requests held ``text``."""
        return sum(text in json.dumps(body, ensure_ascii=False) for body in self.bodies)


@contextmanager
def serve(mind: Mind = honest) -> Iterator[Stub]:
    """A running stub."""
    stub = Stub(mind)

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            stub.headers.append({name.lower(): value for name, value in self.headers.items()})
            stub.bodies.append(body)
            step = stub.script.pop(0) if stub.script else 200
            if step == "drop":
                self.connection.close()
                return
            key = self.headers.get("Authorization", "")
            if step == "garbage":
                self._send(200, "{not json", {})
            elif isinstance(step, int) and step != 200:
                said = {
                    "error": {
                        "message": f"no, {key}",
                        "code": "insufficient_quota" if step == 429 and stub.retry_after == "never" else None,
                    }
                }
                extra = {"Retry-After": stub.retry_after} if stub.retry_after else {}
                self._send(step, json.dumps(said), {**extra, **({"Location": "/elsewhere"} if step == 307 else {})})
            else:
                reply = stub.mind(*parts(body["messages"]))
                text = reply if isinstance(reply, str) else json.dumps(reply)
                choice = {
                    "index": 0,
                    "finish_reason": "stop",
                    "message": {"role": "assistant", "content": text.replace("KEY", key)},
                }
                made = {"id": "x", "object": "chat.completion", "created": 1, "model": body["model"], "choices": [choice]}
                self._send(200, json.dumps({**made, **({"usage": stub.usage | {"total_tokens": 0}} if stub.usage else {})}), {})

        def _send(self, status: int, text: str, headers: dict[str, str]) -> None:
            data = text.encode()
            self.send_response(status)
            for name, value in {"Content-Type": "application/json", "Content-Length": str(len(data)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

    class Server(ThreadingHTTPServer):
        def handle_error(self, *_: Any) -> None:  # a client that gave up
            pass

    server = Server(("127.0.0.1", 0), Handler)
    stub.url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield stub
    finally:
        server.shutdown()
        server.server_close()
