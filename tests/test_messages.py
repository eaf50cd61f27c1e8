"""A message is one sentence, and its hint another."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "mlxtune"

# Messages and hints of several sentences, by file and first letters. This list may only shrink; it goes when it is empty.
TO_SHORTEN: dict[str, list[str]] = {
    "evaluation/evidence.py": ["It is not an evaluation", "The file was changed"],
    "adapters/export/gguf_architectures.py": ["Fuse it for MLX instead: mlxtu"],
    "adapters/export/start.py": ["Fuse it for MLX instead: mlxtu"],
    "adapters/hub.py": ["Run the command again. Finishe"],
    "adapters/importers/checks.py": ["Ask its author for a safetenso", "Its training diverged. Use an "],
    "adapters/importers/peft.py": ["x adapts an embedding that is "],
    "adapters/library.py": ["Use up to 64 letters, digits, "],
    "cli/export.py": ["The adapter is copied bit for "],
    "data/generate/teachers.py": ["Training rows will be sent to "],
    "data/importer.py": ["Check the ID. For a gated data"],
    "data/review.py": ["Close it to make decisions her"],
    "data/split.py": ["An evaluation on rows used for"],
    "evaluation/endpoint_answers.py": ["Replies from x to x were lost.", "The other replies are saved. R"],
    "evaluation/endpoints.py": ["The held-out prompts will be s"],
    "evaluation/judge/endpoint.py": ["Replies are saved. Run again t"],
    "evaluation/judge/paid_calls.py": ["Replies are saved. Check the e"],
    "evaluation/outputs.py": ["The adapter may be corrupt. Tr"],
    "evaluation/signature.py": ["Create it. Each line must have", "It is part of OpenSSH. On Debi"],
    "models/bundled/install.py": ["The file was not opened. Try a"],
    "models/generate.py": ["The model produced NaNs. The a"],
    "models/hub.py": ["Corrupt files were deleted. Do", "Search with: mlxtune models --"],
    "serving/engine.py": ["This is an internal or system "],
    "serving/sampling.py": ["The model produced NaNs. The a"],
    "tui/rooms/adapters/screen.py": ["s stops it. The details show t"],
    "tui/rooms/plan/screen.py": ["The probe was stopped. Nothing"],
    "tui/rooms/review/screen.py": ["Row unchanged. Your draft is k"],
}


def test_a_message_is_one_sentence_and_one_hint() -> None:
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        name = str(path.relative_to(PACKAGE))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            for text in said(node):
                if len(sentences(text)) > 1 and not text.startswith(tuple(TO_SHORTEN.get(name, ()))):
                    found[f"{name}:{node.lineno}"] = text
    assert found == {}


def said(node: ast.AST) -> Iterator[str]:
    """Yield the message and the hint of an error or a notice; values in them read ``x``."""
    match node:
        case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name), args=[first, *_]) if name.endswith("Error"):
            yield literal(first)
        case ast.Call(func=ast.Name(id="Notice"), args=[_, _, *texts]):
            yield from map(literal, texts[:2])
        case _:
            return
    yield from (literal(keyword.value) for keyword in node.keywords if keyword.arg == "hint")


def literal(node: ast.expr) -> str:
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=parts):
            return "".join(part.value if isinstance(part, ast.Constant) else "x" for part in parts)
    return ""


def sentences(text: str) -> list[str]:
    parts = re.split(r"(?<=[.!?])[”\")]*\s+(?=[A-Z“\"(x])", re.sub(r"\b(e\.g|i\.e|vs)\.", " ", text.strip()))
    return [part for part in parts if len(re.findall(r"[A-Za-z]+", part)) >= 2]
