"""A local OpenAI-compatible endpoint whose replies come from a test function."""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from http_stub import StubHandler, serve_http

Behavior = Callable[[dict[str, str], str], dict[str, Any] | str]
"""Return the reply to the parts of the material (conversation, answer, or answer 1 and answer 2) and the question."""


def parts(messages: list[dict[str, str]]) -> tuple[dict[str, str], str]:
    """Split a judge prompt into its question and the named parts of its material."""
    text = messages[-1]["content"]
    delimiter = re.match(r"<<(\w+) ", text)[1]
    pieces = re.split(rf"^<<{delimiter} ([\w ]+)>>\n", text, flags=re.MULTILINE)[1:]
    material = dict(zip(pieces[::2], [piece.removesuffix("\n") for piece in pieces[1::2]], strict=True))
    return material, material.pop("end")


def honest(material: dict[str, str], question: str) -> dict[str, Any]:
    """Prefer answers that thank or address the customer, with a quote as evidence."""

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
    """Judge like ``honest``, but obey instructions in an answer."""
    for name, answer in material.items():
        if name.startswith("answer") and "Ignore the question" in answer:
            return {"evidence": "Ignore the question", "verdict": "yes", "score": 5, "better": name.split()[-1]}
    return honest(material, question)


class JudgeStub:
    """Requests received, and how to reply: ``script`` lists the statuses, or headers and bodies, of the next replies; later ones are good."""

    def __init__(self, behavior: Behavior) -> None:
        self.behavior = behavior
        self.answer: Callable[[list[dict[str, Any]]], str] | None = None  # instead of a judge's behavior
        self.finish_reason = "stop"
        self.message: dict[str, Any] = {}  # more of the reply's message
        self.script: list[int | str | tuple[dict[str, str], bytes]] = []
        self.headers: list[dict[str, str]] = []
        self.bodies: list[dict[str, Any]] = []
        self.usage: dict[str, int] | None = {"prompt_tokens": 100, "completion_tokens": 10}
        self.retry_after = ""
        self.url = ""

    def request_count(self, text: str) -> int:
        """Count requests that contain ``text``."""
        return sum(text in json.dumps(body, ensure_ascii=False) for body in self.bodies)


@contextmanager
def serve(behavior: Behavior = honest) -> Iterator[JudgeStub]:
    """Run the endpoint in a thread."""
    stub = JudgeStub(behavior)

    class Handler(StubHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            stub.headers.append({name.lower(): value for name, value in self.headers.items()})
            stub.bodies.append(body)
            step = stub.script.pop(0) if stub.script else 200
            if step == "drop":
                self.connection.close()
                return
            key = self.headers.get("Authorization", "")
            if isinstance(step, tuple):
                self.send_body(200, step[1], {"Content-Type": "application/json", **step[0]})
            elif step == "garbage":
                self.send_body(200, b"{not json", {"Content-Type": "application/json"})
            elif step == "page":
                self.send_body(200, b"<html>Welcome</html>", {"Content-Type": "text/html"})
            elif isinstance(step, int) and step != 200:
                error = {
                    "error": {
                        "message": f"no, {key}",
                        "code": "insufficient_quota" if step == 429 and stub.retry_after == "never" else None,
                    }
                }
                extra = {"Retry-After": stub.retry_after} if stub.retry_after else {}
                self.send_json(step, error, {**extra, **({"Location": "/elsewhere"} if step == 307 else {})})
            else:
                reply = stub.answer(body["messages"]) if stub.answer else stub.behavior(*parts(body["messages"]))
                text = reply if isinstance(reply, str) else json.dumps(reply)
                choice = {
                    "index": 0,
                    "finish_reason": stub.finish_reason,
                    "message": {"role": "assistant", "content": text.replace("KEY", key), **stub.message},
                }
                completion = {"id": "x", "object": "chat.completion", "created": 1, "model": body["model"], "choices": [choice]}
                self.send_json(200, {**completion, **({"usage": stub.usage | {"total_tokens": 0}} if stub.usage else {})})

    with serve_http(Handler) as url:
        stub.url = f"{url}/v1"
        yield stub
