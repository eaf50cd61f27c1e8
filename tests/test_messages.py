"""A message is one sentence, and its hint another."""

import ast
import re
from collections.abc import Iterator

from package_trees import PACKAGE, package_nodes


def test_a_message_is_one_sentence_and_one_hint() -> None:
    found = {}
    for path, nodes in package_nodes().items():
        name = str(path.relative_to(PACKAGE))
        for node in nodes:
            for text in said(node):
                if len(sentences(text)) > 1:
                    found[f"{name}:{node.lineno}"] = text
    assert found == {}


def said(node: ast.AST) -> Iterator[str]:
    """Yield the message and the hint of an error or a notice; values in them read ``x``."""
    match node:
        case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name), args=[first, *_]) if name.endswith("Error"):
            yield literal(first)
        case ast.Call(func=ast.Name(id="Notice"), args=[_, *texts]):
            yield from map(literal, texts[:2])
        case ast.Assign(targets=[ast.Name(id="hint")], value=value):
            yield literal(value)
            return
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
