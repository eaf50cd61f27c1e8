"""Draw documents as Markdown, for a pull request or a wiki. Text from data or a model is escaped, or put in a fence that it cannot close."""

import re
from collections.abc import Iterator, Sequence

from mlxtune.core.text import one_line, safe_text
from mlxtune.present.blocks import ActionBlock, Bars, Block, Document, Facts, FailureSample, Heading, Quote, Square, Table, Text
from mlxtune.present.labels import capital

_LENGTH = 900  # maximum characters of a quoted text


def render(document: Document) -> str:
    """Return a document as Markdown, with a text at its beginning as its title."""
    first, *rest = document
    parts = [f"# {plain(first.plain)}"] if isinstance(first, Text) else list(blocks(first))
    return "\n\n".join(filter(None, [*parts, *(part for block in rest for part in blocks(block))])) + "\n"


def blocks(block: Block) -> Iterator[str]:
    match block:
        case Heading(title, note):
            yield f"## {plain(capital(title))}"
            yield f"{plain(capital(note))}." if note else ""
        case Text():
            yield plain(block.plain)
        case Facts(facts):
            body = [[plain(fact.label), plain(", ".join(filter(None, (fact.value, fact.note))))] for fact in facts]
            yield grid(["", ""], body, [False, False])
        case Bars(bars):
            yield grid(["", "", ""], [[plain(bar.label), plain(bar.value), plain(bar.note)] for bar in bars], [False, True, False])
        case Square():
            yield from _table(block.table)
        case FailureSample(title, kind, detail, prompt, answers, notes):
            yield f"### {plain(title)}"
            yield plain(f"{kind}: {detail}")
            for quote in (Quote("Prompt", prompt), *answers):
                yield f"{plain(quote.label)}:"
                yield fence(quote.text)
            yield "\n".join(f"- {plain(note)}" for note in notes)
        case ActionBlock(_, label, command):
            yield f"`{command}` {plain(label)}." if command else ""
        case Table():
            yield from _table(block)


def _table(block: Table) -> Iterator[str]:
    shown = block.visible(1, bars=False)
    yield from blocks(Heading(shown.title, shown.note)) if shown.title else ()
    body = [[plain(cell.text) for cell in row] for row in shown.rows]
    yield grid([plain(column.label) for column in shown.columns], body, [column.right for column in shown.columns])


def grid(head: Sequence[str], body: Sequence[Sequence[str]], right: Sequence[bool] = ()) -> str:
    """Return a Markdown table of escaped texts; by default, all columns except the first are right-aligned."""
    rule = ["---:" if is_right else "---" for is_right in right or [False, *(True for _ in head[1:])]]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, rule, *body))


def plain(text: str) -> str:
    """Return ``text`` on one line, with everything that Markdown or HTML would interpret escaped, and without links."""
    return re.sub(r"([\\`*_{}\[\]#|~<>&!@]|:(?=//)|(?<=www)\.)", r"\\\1", one_line(text))


def fence(text: str) -> str:
    """Return ``text`` in a fence longer than any run of backticks in it."""
    text = safe_text(text, limit=_LENGTH)
    marks = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{marks}text\n{text}\n{marks}"
