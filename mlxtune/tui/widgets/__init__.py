"""The widgets used in rooms."""

from mlxtune.tui.widgets.dialog import ChoiceDialog, ChoiceOption, Dialog, EditDialog, Editor, PromptDialog
from mlxtune.tui.widgets.frame import NoticeLine
from mlxtune.tui.widgets.list import ListPanel, MarkableList
from mlxtune.tui.widgets.page import PageScreen
from mlxtune.tui.widgets.panel import Draw, FocusPanel, Invitation, Panel, Section
from mlxtune.tui.widgets.scroll import Lines, RowReader, ScrollPanel

__all__ = [
    "ChoiceDialog", "ChoiceOption", "Dialog", "Draw", "EditDialog", "Editor", "FocusPanel", "Invitation", "Lines", "ListPanel",
    "MarkableList", "NoticeLine", "PageScreen", "Panel", "PromptDialog", "RowReader", "ScrollPanel", "Section",
]  # fmt: skip
