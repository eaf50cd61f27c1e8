"""Draw documents as one self-contained HTML page without scripts, fonts, or requests, which its content security policy forbids."""

from functools import cache, partial
from importlib.resources import files

from jinja2 import Environment, Template
from markupsafe import Markup

from mlxtune.core.text import safe_text
from mlxtune.present.blocks import ActionBlock, Block, Facts, FailureSample, Heading, IntervalBar, Quote, Square, Table, Text
from mlxtune.present.labels import GLYPHS

_LENGTH = 900  # maximum characters per text
_WIDTH = 1000  # width of a chart in its own coordinates
_cut = partial(safe_text, limit=_LENGTH)
_KINDS = {Table: "table", Facts: "facts", Square: "square", FailureSample: "sample", ActionBlock: "action", Text: "text"}


def render(document: tuple[Block, ...], title: str, about: str) -> str:
    """Return the page. The blocks before the first section are its head, the first of which is its heading.

    A heading, a table, or a square begins a section; the blocks after a heading are in its section.
    """
    sections: list[tuple[str, str, list[Block]]] = []
    head: list[Block] = []
    for block in document:
        if isinstance(block, Heading | Table | Square):
            sections.append((block.title, block.note, []))
        if not isinstance(block, Heading):
            (sections[-1][2] if sections else head).append(block)
    style = Markup(files(__package__).joinpath("page.css").read_text("utf-8"))
    return _template().render(title=title, about=about, style=style, head=head, sections=sections)


@cache
def _template() -> Template:
    environment = Environment(autoescape=True, finalize=_visible, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"position": _position, "extent": _extent, "cut": _cut, "cut_at_span": _cut_at_span}
    environment.filters |= {"kind": lambda block: _KINDS[type(block)], "glyph": GLYPHS.get}
    return environment.from_string(files(__package__).joinpath("page.html.j2").read_text("utf-8"))


def _visible(value: object) -> object:
    """Make control and bidirectional characters visible in every text that the template prints."""
    return safe_text(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _position(value: float, bar: IntervalBar) -> str:
    span = (bar.maximum - bar.minimum) or 1.0
    return f"{_WIDTH * max(0.0, min(1.0, (value - bar.minimum) / span)):.1f}"


def _extent(bar: IntervalBar) -> str:
    """Return the width of the interval's rectangle."""
    return f"{max(2.0, float(_position(bar.high, bar)) - float(_position(bar.low, bar))):.1f}"


def _cut_at_span(quote: Quote) -> tuple[str, str, str]:
    """Return a text before, inside and after its failing part, if that part is within the displayed text."""
    text, (start, end) = quote.text, quote.span or (0, 0)
    if quote.span is None or start >= _LENGTH:
        return _cut(text) or "(empty)", "", ""
    return text[:start], _cut(text[start:end]), _cut(text[end:]) if end < _LENGTH else ""
