"""Count the words that a screen says, rather than shows.

Prose is a run of at least four words on one row of a panel, or on the rows of a wrapped text. Figures in a run do not count.
Columns are read one by one, so labels, tables, and charts are no prose. Text of rows, answers, logs and samples is data, not prose.
"""

import re
from collections.abc import Iterator

from rich.cells import cell_len
from textual.screen import ModalScreen, Screen
from textual.widget import Widget

from mlxtune.tui.widgets import ChoiceDialog, EditDialog, Panel, PromptDialog

WORD = re.compile(r"[A-Za-z]+(?:[-'’][A-Za-z]+)*")
FIGURE = re.compile(r"[−+~±]?[\d][\d,.%×:–-]*[A-Za-z%]*")
UNITS = {"GB", "MB"}
EDGES = ".,;:!?()“”\"'`…"
ROOM_WORDS, DIALOG_LINES, VERDICT_SENTENCES = 40, 3, 2
# Panels with text of rows, answers, logs and samples, lists of options, and forms.
DATA = {
    "advice-questions", "bl-a", "bl-b", "bl-prompt", "candidates", "changes", "chat-transcript", "choices", "columns", "compared",
    "ev-detail", "ev-list", "group-list", "keys", "list", "log-picture", "mapped", "member-list", "reader", "row-preview", "rows", "samples-picture",
    "search-trials",
}  # fmt: skip
VERDICTS = {"bl-verdict", "ev-summary", "plan-verdict", "search-banner", "stats", "summary"}  # panels that begin with a verdict


def prose(screen: Screen[object]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for panel in screen.query(Panel):
        if _is_visible(panel) and panel.id not in DATA:
            runs = [run for text in paragraphs(_visible_rows(panel), panel.size.width) for run in runs_of_words(text)]
            if runs:
                found.setdefault(str(panel.id), []).extend(runs)
    return found


def _is_visible(panel: Widget) -> bool:
    return bool(panel.size) and all(node.display for node in panel.ancestors_with_self)  # type: ignore[attr-defined]


def _visible_rows(panel: Panel) -> list[str]:
    if panel._content is None:
        return []
    region = panel.region
    for parent in panel.ancestors:
        if isinstance(parent, Widget):
            region = region.intersection(parent.region)
    return panel._content.plain.split("\n")[: region.height]


def paragraphs(rows: list[str], width: int) -> Iterator[str]:
    """Yield the texts of a panel: rows that were wrapped at ``width`` joined again, and each cell of a row with several."""
    paragraph: list[str] = []
    room = 0  # left in the last row of the paragraph
    for row in [*rows, ""]:
        cells = [cell for cell in re.split(r"\s{2,}|[│┃]", row.strip()) if cell]
        if paragraph and not (len(cells) == 1 and len(cells[0].split()[0]) >= room):
            yield " ".join(paragraph)
            paragraph = []
        if len(cells) == 1:
            paragraph.append(cells[0])
            room = width - cell_len(row.rstrip()) - 3
        else:
            yield from cells


def runs_of_words(text: str) -> Iterator[str]:
    """Yield the runs of at least four words; figures may stand in a run."""
    run: list[str] = []
    for part in [*text.split(), "·"]:
        bare = part.strip(EDGES)
        if WORD.fullmatch(bare) or FIGURE.fullmatch(bare):
            run.append(part)
        else:
            if count(" ".join(run)) >= 4:
                yield " ".join(run)
            run = []


def count(text: str) -> int:
    words = [part.strip(EDGES) for part in text.split()]
    return sum(bool(WORD.fullmatch(word)) and word not in UNITS for word in words)


def dialog_text(screen: ChoiceDialog | PromptDialog | EditDialog) -> list[str]:
    """Return the lines of text in a dialog, besides its title, its fields, its lists, and its keys."""
    _title, *texts, _keys = (panel for panel in screen.query(Panel) if _is_visible(panel) and type(panel) is Panel)
    rows = [row.strip() for panel in texts for row in _visible_rows(panel)]
    return [row for row in rows if count(row) >= 2 and not re.search(r"\S\s{2,}\S", row)]


def sentences(text: str) -> list[str]:
    """Return the sentences of a text: parts that end with a full stop, a question mark, or an exclamation mark."""
    return [part for part in re.split(r"(?<=[.!?])[”\")]*\s+(?=\S)", text.strip()) if re.search(r"[A-Za-z]{2}", part)]


def verdict(screen: Screen[object]) -> dict[str, list[str]]:
    """Return the sentences of each visible verdict: the first paragraph of its panel."""
    panels = [panel for panel in screen.query(Panel) if panel.id in VERDICTS and _is_visible(panel)]
    return {
        str(panel.id): sentences(first)
        for panel in panels
        if (first := next(paragraphs(_visible_rows(panel), panel.size.width), ""))
    }


def assert_within_budget(screen: Screen[object], name: str = "") -> None:
    """Fail if a screen at 120×36, called ``name``, says too much."""
    if isinstance(screen, ChoiceDialog | PromptDialog | EditDialog):
        assert len(dialog_text(screen)) <= DIALOG_LINES, (name, dialog_text(screen))
    elif not isinstance(screen, ModalScreen):
        runs, verdicts = prose(screen), verdict(screen)
        assert sum(count(run) for texts in runs.values() for run in texts) <= ROOM_WORDS, (name, runs)
        assert all(len(texts) <= VERDICT_SENTENCES for texts in verdicts.values()), (name, verdicts)
