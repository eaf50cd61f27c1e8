"""Find code that compares or parses text that people read.

Three kinds of expressions are found:

- a string method, ``in``, or a regular expression applied to a name that holds text for people, such as ``verdict.partition(".")``;
- a comparison with, or a search for, several words or a glyph, such as ``outcome == "cannot tell"`` or ``glyph == "●"``;
- a code of several words: ``Literal["cannot tell"]``.

Splitting a text into lines or words, to draw it, is fine.
"""

import ast
import re
import unicodedata
from collections.abc import Iterator

METHODS = {"startswith", "endswith", "partition", "rpartition", "split", "rsplit", "removeprefix", "removesuffix", "find", "rfind"}
PATTERNS = {"search", "match", "fullmatch", "split", "sub", "findall"}
NAMES = {
    "about",
    "advice",
    "caption",
    "comment",
    "description",
    "detail",
    "doubt",
    "explanation",
    "glyph",
    "heading",
    "hint",
    "label",
    "message",
    "note",
    "notice",
    "phrase",
    "prose",
    "reason",
    "refusal",
    "remedy",
    "sentence",
    "summary",
    "title",
    "verdict",
    "warning",
    "why",
    "wording",
}
FACES = {"cli", "tui", "advice"}  # here, plain ``text`` is text for people too
UNWRAPPED = {"str", "one_line", "repr", "safe_text"}
SAME_TEXT = {"capitalize", "casefold", "lower", "lstrip", "rstrip", "strip", "upper"}
WORDS = re.compile(r"[A-Za-z]{2,}[,;:.]? [A-Za-z]{2,}")


def parsed_texts(tree: ast.AST, package: str) -> Iterator[ast.AST]:
    """Yield the expressions of a module in ``package`` that parse or compare text for people."""
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Attribute(value=owner, attr=name), args=arguments):
                if _method_parses(owner, name, arguments, package) or _pattern_parses(owner, name, arguments, package):
                    yield node
            case ast.Subscript(slice=key, ctx=ast.Load()) if any(map(_is_worded, _literals(key))):
                yield node
            case ast.MatchValue(value=value) if any(map(_is_worded, _literals(value))):
                yield value
            case ast.Compare(left=left, ops=operators, comparators=others):
                sides = [left, *others]
                if any(
                    _comparison_parses(one, operator, other, package)
                    for one, operator, other in zip(sides, operators, others, strict=False)
                ):
                    yield node


def _method_parses(owner: ast.expr, name: str, arguments: list[ast.expr], package: str) -> bool:
    literals = [text for argument in arguments[: 1 if name == "get" else None] for text in _literals(argument)]
    if name == "get":
        return any(map(_is_worded, literals))
    if name not in METHODS or _is_layout(name, arguments):
        return False
    return _holds_text(owner, package, literals) or any(map(_is_worded, literals))


def _pattern_parses(owner: ast.expr, name: str, arguments: list[ast.expr], package: str) -> bool:
    if not (isinstance(owner, ast.Name) and owner.id in ("re", "regex") and name in PATTERNS and len(arguments) > 1):
        return False
    searched = arguments[2] if name == "sub" and len(arguments) > 2 else arguments[1]
    patterns = _literals(arguments[0])
    escapes = patterns and not any(re.search(r"[A-Za-z.]", re.sub(r"\\.", "", pattern)) for pattern in patterns)
    return (_holds_text(searched, package, []) and not escapes) or any(map(_is_worded, patterns))


def _comparison_parses(one: ast.expr, operator: ast.cmpop, other: ast.expr, package: str) -> bool:
    literals = [*_literals(one), *_literals(other)]
    if isinstance(operator, ast.In | ast.NotIn):
        return any(map(_is_worded, literals)) or bool(_literals(one) and _holds_text(other, package, _literals(one)))
    return isinstance(operator, ast.Eq | ast.NotEq) and any(map(_is_worded, literals))


def _is_layout(name: str, arguments: list[ast.expr]) -> bool:
    """Whether a text is only split into words or lines."""
    return name in ("split", "rsplit", "rfind") and (not arguments or _literals(arguments[0]) in (["\n"], [" "]))


def _holds_text(node: ast.expr, package: str, literals: list[str]) -> bool:
    """Whether the name of a value says that people read it. Plain ``text`` may also be data: only words in it count."""
    words = _name(node).lower().strip("_").split("_")
    last = words[-1].removesuffix("s") if words[-1].removesuffix("s") in NAMES | {"text"} else words[-1]
    if last == "text":
        is_punctuation = bool(literals) and not any(re.search(r"\w", text) for text in literals)
        return not is_punctuation and (len(words) > 1 or package in FACES)
    return last in NAMES


def _name(node: ast.expr) -> str:
    """Return the name of the value that an expression is or begins with."""
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name) if not isinstance(node, ast.Call):
            return name
        case ast.Call(func=ast.Name(id=name), args=[first, *_]) if name in UNWRAPPED:
            return _name(first)
        case ast.Call(func=ast.Attribute(value=owner, attr=name)) if name in SAME_TEXT:
            return _name(owner)
        case ast.Call(func=ast.Attribute(attr="get"), args=[ast.Constant(value=str(key)), *_]):
            return key
        case ast.Call(func=function):
            return _name(function)
        case ast.Subscript(slice=ast.Constant(value=str(key))):
            return key
        case ast.Subscript(value=value):
            return _name(value)
        case ast.BoolOp(values=values):
            return next(filter(None, map(_name, values)), "")
    return ""


def _literals(node: ast.expr) -> list[str]:
    match node:
        case ast.Constant(value=str(text)):
            return [text]
        case ast.Tuple(elts=items) | ast.List(elts=items) | ast.Set(elts=items):
            return [text for item in items for text in _literals(item)]
        case ast.JoinedStr(values=parts):
            return ["".join(part.value if isinstance(part, ast.Constant) else "x" for part in parts)]
    return []


def _is_worded(text: str) -> bool:
    """Whether a text has several words, or is a glyph."""
    is_glyph = len(text.strip()) <= 2 and any(unicodedata.category(character) == "So" and character != "�" for character in text)
    return is_glyph or bool(WORDS.search(text))
