"""What Plan shows: the form, and the plan that follows every edit; its verbs are in ``plan``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.content import Content

from mlxtune.core.errors import MlxtuneError, RecipeError
from mlxtune.core.text import one_line, plural
from mlxtune.recipe import Recipe
from mlxtune.recipe.edit import Edit
from mlxtune.recipe.keys import Key, keys
from mlxtune.tui.draw import fold, key, line, lines
from mlxtune.tui.names import seen_from
from mlxtune.tui.plans import Away, Outcome, Plans
from mlxtune.tui.screens.room import Room
from mlxtune.tui.snapshot import RecipeView, Snapshot
from mlxtune.tui.widgets import plan_pictures as pictures
from mlxtune.tui.widgets.draw import Draw
from mlxtune.tui.widgets.field import Field
from mlxtune.tui.widgets.pane import ListPane
from mlxtune.tui.widgets.section import Section

if TYPE_CHECKING:
    from mlxtune.planning.cost import Bill
    from mlxtune.planning.plan import Plan as Planned


PATIENCE = 0.15  # seconds before a word says what is being waited for


@dataclass
class Sheet:
    """The recipe in the form: its file, what it says now, what was edited since it was opened, and its plan."""

    path: Path
    recipe: Recipe
    edits: list[Edit] = field(default_factory=list)
    edited: dict[str, int] = field(default_factory=dict)  # keys, and in how many of the edits
    written: bytes | None = None  # what the last edit, or taking one back, left in the file
    plan: Planned | None = None
    bill: Bill | None = None
    here: bool = True  # the plan is of the base itself, not of what the catalogue knows of it
    was: int | None = None  # bytes that the plan before the last edit needed
    error: MlxtuneError | None = None

    @property
    def is_ours(self) -> bool:
        """Whether the file still holds what was written from here."""
        try:
            return self.written is not None and self.path.read_bytes() == self.written
        except OSError:
            return False


def invite(width: int) -> Content:
    """The room before there is any recipe."""
    return lines(
        fold("There is no recipe yet.", width, style="bold"),
        fold("A recipe says everything that a run needs: the model, the rows, how to learn. It is a TOML file in recipes/.", width),
        Content(""),
        line("  ", key("H", "go home: a sample workspace is one key away", "app.room('home')")),
    )


class PlanView(Room):
    """The part of the room that shows."""

    def __init__(self) -> None:
        super().__init__()
        self._sheet: Sheet | None = None
        self._seen: tuple[Path, Recipe | None, str] | None = None  # of the newest snapshot
        self._plans: Plans | None = None
        self._doing: tuple[str, float] | None = None  # what is being waited for, once it takes long
        self._asked = 0
        self._editing: Key | None = None  # the one that the field is open on
        self._left = ""  # the key on which the cursor stood when the app was left

    def remember(self) -> Mapping[str, Any]:
        one = self._key
        return {"key": one.path} if one else {}

    def recall(self, left: Mapping[str, Any]) -> None:
        self._left = str(left.get("key", ""))

    def body(self) -> ComposeResult:
        yield Section("Plan", Draw(id="plan-invite-picture"), lit=True, id="plan-invite")
        yield Draw(id="plan-verdict")
        with Horizontal(id="plan-columns"):
            yield Section(
                "Recipe",
                ListPane(id="plan-keys", about="The recipe's keys. enter edits one; ← and → go through its values, - and + step a number; d takes it out, so that its default holds. What the recipe's own types refuse is not written."),
                Draw(id="plan-detail"),
                Field(id="plan-field"),
                id="plan-form",
            )  # fmt: skip
            with Vertical(id="plan-side"):
                yield Section("To make it fit", Draw(id="plan-changes"), id="plan-mend")
                yield Section("Memory", Draw(id="plan-memory"), id="plan-parts")
                yield Section("Run", Draw(id="plan-run"), id="plan-facts")
                yield Section("Elsewhere", Draw(id="plan-costs"), id="plan-offers")

    @property
    def _keys(self) -> tuple[Key, ...]:
        return keys(self._sheet.recipe) if self._sheet else ()

    @property
    def _key(self) -> Key | None:
        found, at = self._keys, self.query_one("#plan-keys", ListPane).cursor
        return found[at] if at < len(found) else None

    def draw(self, snapshot: Snapshot) -> None:
        view = self.desk.recipe
        self.set_class(view is None, "-empty")
        self.set_class(view is not None and view.recipe is None, "-unread")
        if view is None:
            self.query_one("#plan-invite-picture", Draw).show(lambda width, _height: invite(width))
            self._sheet = self._seen = None
            return
        seen = (view.path, view.recipe, view.error)
        if self._seen is None or self._seen[0] != seen[0] or self._seen[1] is not seen[1] or self._seen[2] != seen[2]:
            self._seen = seen
            self._adopt(view)
        if view.recipe is None:
            where = seen_from(self.desk.workspace, view.error)
            said = RecipeError(where, mend=f"{view.mend} It is read again as soon as it is saved.".strip())
            self.query_one("#plan-verdict", Draw).show(lambda width, _height: pictures.trouble(said, None, width))
        elif self._sheet:
            self._draw_sheet(self._sheet)

    def _adopt(self, view: RecipeView) -> None:
        """Take over what the file says, if that is news."""
        if view.recipe is None:
            self._sheet = None
        elif self._sheet is None or self._sheet.path != view.path:
            self._sheet = Sheet(view.path, view.recipe)
            self._replan()
        elif self._sheet.recipe != view.recipe and not self._sheet.is_ours:  # somebody else wrote it
            self._sheet = Sheet(view.path, view.recipe, was=self._sheet.plan.memory if self._sheet.plan else None)
            self._replan()

    def _draw_sheet(self, sheet: Sheet) -> None:
        plan, note = sheet.plan, self._note(sheet)
        doing = self._doing
        self.query_one("#plan-verdict", Draw).show(lambda width, _height: self._verdict(sheet, note, doing, width))
        found = self._keys
        form = self.query_one("#plan-keys", ListPane)
        cursor = next((at for at, one in enumerate(found) if one.path == self._left), None)
        self._left = ""
        form.set(len(found), partial(self._row, sheet, found), header=pictures.form_header, cursor=cursor)
        changed = plural(len(sheet.edits), "edit") if sheet.edits else ""
        self.query_one("#plan-form", Section).head.set(
            title=one_line(sheet.recipe.name), note=", ".join(filter(None, [f"recipes/{one_line(sheet.path.name)}", changed]))
        )
        if one := self._key:
            self.query_one("#plan-detail", Draw).show(lambda width, _height: pictures.detail(one, sheet.recipe, width))
        self.query_one("#plan-side").display = plan is not None and self.wide
        self.query_one("#plan-mend").set_class(bool(plan and plan.changes), "-open")
        if plan and (bill := sheet.bill):
            probing = self._can_probe
            self.query_one("#plan-changes", Draw).show(lambda width, _height: lines(*pictures.change_rows(plan.changes, width)))
            self.query_one("#plan-memory", Draw).show(lambda width, _height: lines(*pictures.memory_rows(plan, width)))
            self.query_one("#plan-run", Draw).show(lambda width, _height: lines(*pictures.run_rows(plan, bill, probing, width)))
            self.query_one("#plan-costs", Draw).show(lambda width, _height: lines(*pictures.cost_rows(plan, bill, False, width)))

    def _row(self, sheet: Sheet, found: Sequence[Key], at: int, width: int) -> Content:
        one = found[at]
        first = at == self.query_one("#plan-keys", ListPane).first or found[at - 1].section != one.section
        return pictures.form_row(one, first, sheet.recipe, sheet.edited.get(one.path, 0) > 0, width)

    def _verdict(self, sheet: Sheet, note: str, doing: tuple[str, float] | None, width: int) -> Content:
        if sheet.error:
            verb = key("f", "fetch it", "screen.fetch_base") if self._can_fetch else None
            return pictures.trouble(sheet.error, verb, width)
        if sheet.plan:
            return pictures.verdict(sheet.plan, sheet.was, note, width)
        return pictures.waiting(*(doing or ("", 0.0)), width) if doing else lines("", "")

    def _note(self, sheet: Sheet) -> str:
        if self._doing:
            return f"{self._doing[0]} …"
        if not sheet.here:
            return "the base is not here yet: from the catalogue's shapes"
        return "measured on this machine" if sheet.plan and sheet.plan.calibrated else "estimated, within 25 %"

    def _replan(self, how: str = "plan") -> None:
        """Plan the recipe anew, off this thread. What was planned before stays on view."""
        sheet = self._sheet
        if sheet is None:
            return
        self._plans = self._plans or Plans(self.desk.workspace)
        self._asked += 1
        asked, job = self._asked, getattr(self._plans, how)
        recipe = sheet.recipe

        def progress(what: str, share: float) -> None:
            self.app.call_from_thread(self._tell, asked, what, share)

        self.set_timer(PATIENCE, lambda: self._tell(asked, "planning", 0.0) if self._doing is None else None)
        self.fetch(lambda: job(recipe, progress), partial(self._planned, asked), partial(self._refused, asked))

    def _tell(self, asked: int, what: str, share: float) -> None:
        if asked == self._asked:
            self._doing = (what, share)
            self.show()

    def _planned(self, asked: int, found: Outcome) -> None:
        if asked == self._asked and self._sheet:
            self._sheet.plan, self._sheet.bill, self._sheet.here, self._sheet.error = found.plan, found.bill, found.here, None
            self._settle()

    def _refused(self, asked: int, error: MlxtuneError) -> None:
        if asked == self._asked and self._sheet:
            self._sheet.plan, self._sheet.error = None, error
            self._settle()

    def _settle(self) -> None:
        self._asked += 1  # a late word of what was waited for is none
        self._doing = None
        self.show()
        self.refresh_bindings()

    @property
    def _idle(self) -> bool:
        return self.desk.snapshot is not None and self.desk.snapshot.live is None and not self.desk.busy

    @property
    def _can_probe(self) -> bool:
        sheet = self._sheet
        return sheet is not None and sheet.plan is not None and sheet.here and self._idle and self._doing is None

    @property
    def _can_fetch(self) -> bool:
        sheet = self._sheet
        away = sheet is not None and (isinstance(sheet.error, Away) or (sheet.plan is not None and not sheet.here))
        return away and self._idle and self._doing is None
