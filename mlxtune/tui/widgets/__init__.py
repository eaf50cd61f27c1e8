"""The widgets used in rooms."""

from mlxtune.tui.widgets.dialog import ChoiceDialog, ChoiceOption, EditDialog, PromptDialog
from mlxtune.tui.widgets.field import Editor, Field
from mlxtune.tui.widgets.frame import NoticeLine, RoomFooter, RoomHeader
from mlxtune.tui.widgets.list import ListPanel, MarkableList
from mlxtune.tui.widgets.page import PageScreen
from mlxtune.tui.widgets.panel import Draw, FocusPanel, Panel, Section
from mlxtune.tui.widgets.row_reader import Lines, RowReader
from mlxtune.tui.widgets.scroll import ScrollPanel

__all__ = [
    "ChoiceDialog", "ChoiceOption", "Draw", "EditDialog", "Editor", "Field", "FocusPanel", "Lines", "ListPanel", "MarkableList",
    "NoticeLine", "PageScreen", "Panel", "PromptDialog", "RoomFooter", "RoomHeader", "RowReader", "ScrollPanel", "Section",
]  # fmt: skip
