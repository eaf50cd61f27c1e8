"""The drawers show the same document: every label and number in each, and no markup from data."""

import io

import pytest
from rich.console import Console
from rich.theme import Theme
from textual.content import Content

from mlxtune.present import html, markdown, terminal
from mlxtune.present.blocks import (
    ActionBlock,
    Bar,
    Bars,
    Cell,
    Column,
    Document,
    Fact,
    Facts,
    Heading,
    IntervalBar,
    Table,
    Text,
    text,
)
from mlxtune.tui import draw

ROWS = (
    (Cell("[b]base[/b]", "muted"), Cell(bar=IntervalBar(0.1, 0.2, 0.4)), Cell("20.0%", "bold")),
    (Cell("tuned", "primary"), Cell(bar=IntervalBar(0.8, 0.9, 1.0)), Cell("90.0%", "bold")),
)
DOCUMENT: Document = (
    Heading("Plan", "computed"),
    text("This fits.", "bold", "success"),
    Facts(
        (
            Fact("steps", "12", "in 2 epochs"),
            Fact("truncated", "3 rows", "over data.max_tokens", "warning"),
            Fact("time", "", "unknown until", action=ActionBlock("plan.probe", "", "--probe")),
            Fact("training.grad_checkpoint = true", "1.2 GB", "slower"),
        )
    ),
    Bars((Bar("weights", "1.0 GB", 0, 0.8, style="primary"), Bar("head", "0.2 GB", 0.8, 0.801))),
    Table("rates", "Wilson", (Column(), Column(), Column("rate", right=True)), ROWS),
    ActionBlock("plan.train", "start", "mlxtune train x"),
)
THEME = Theme(dict.fromkeys(("primary", "muted", "faint", "line", "success", "warning", "error"), ""))
KEYS = {"plan.probe": Content("b probe"), "plan.train": Content("t train")}


def printed(document: Document, width: int = 0) -> str:
    stream = io.StringIO()
    console = Console(
        file=stream, width=width or 80, force_terminal=bool(width), color_system=None, soft_wrap=True, markup=False, theme=THEME
    )
    terminal.print_document(document, console)
    return stream.getvalue()


def drawn(document: Document, width: int) -> str:
    return "\n".join(row.plain for row in draw.rows(document, width, KEYS))


@pytest.mark.parametrize(
    "picture", [printed(DOCUMENT), drawn(DOCUMENT, 80), drawn(DOCUMENT, 44), markdown.render(DOCUMENT).replace("\\", "")]
)
def test_every_drawer_shows_the_labels_and_numbers(picture):
    for part in (
        "omputed",
        "This fits.",
        "steps",
        "12",
        "in 2 epochs",
        "3 rows",
        "weights",
        "0.2 GB",
        "[b]base[/b]",
        "90.0%",
        "1.2 GB",
    ):
        assert part in picture, part


def test_a_mark_is_a_glyph():
    for picture in (printed(DOCUMENT), drawn(DOCUMENT, 80)):
        assert "✓ This fits." in picture
        assert "! 3 rows" in picture


def test_an_action_is_a_key_in_the_app_and_a_command_elsewhere():
    assert "unknown until  --probe" in printed(DOCUMENT)
    assert "b probe" in drawn(DOCUMENT, 80)
    assert "t train" in drawn(DOCUMENT, 80)
    assert "b probe" not in "\n".join(row.plain for row in draw.rows(DOCUMENT, 80))
    assert "`mlxtune train x` start." in markdown.render(DOCUMENT)


def test_rows_fit_their_width_in_the_app_and_wrap_in_a_terminal():
    long = (
        Facts((Fact("note", "word " * 60, "and more " * 20, "warning"), Fact("a label that is long", "1", "word " * 30))),
        Text(("word " * 60,), "error"),
    )
    for width in (0, 12, 40, 120):
        assert all(row.cell_length <= max(width, 0) for row in draw.rows(long, width))
    lines = printed(long[:1], 60).splitlines()
    assert len(lines) > 6
    assert all(len(line) <= 60 for line in lines)
    assert len(printed(long[:1]).splitlines()) == 2, "lines are not broken in a file"


def test_a_bar_begins_where_the_one_above_ends_and_is_never_invisible():
    assert [bar.cells(10) for bar in DOCUMENT[3].bars] == [(0, 8), (8, 1)]  # type: ignore[union-attr]
    assert Bar("none", "–", 0.5, 0.5).cells(10) == (5, 0)


def test_a_page_draws_no_block_as_nothing():
    with pytest.raises(KeyError):
        html.render((text("A plan"), Bars((Bar("head", "2 MB", 0.0, 1.0),))), "title", "about")
