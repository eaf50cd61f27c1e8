"""Plan: a recipe as a form, and at every edit what it would take of this machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.geometry import Offset
from textual.widgets import Input

from mlxtune.core.errors import MlxtuneError, RecipeError
from mlxtune.core.text import one_line, plural
from mlxtune.recipe import Recipe
from mlxtune.recipe.edit import Edit, edit, undo
from mlxtune.recipe.keys import Key, keys, shown
from mlxtune.recipe.load import setting
from mlxtune.tui.draw import Part, fold, key, line, lines
from mlxtune.tui.plans import Away, Outcome, Plans
from mlxtune.tui.screens.choice import Choice, Choose
from mlxtune.tui.screens.page import Page
from mlxtune.tui.screens.room import Room
from mlxtune.tui.snapshot import RecipeView, Snapshot
from mlxtune.tui.widgets import plan_pictures as pictures
from mlxtune.tui.widgets.draw import Draw
from mlxtune.tui.widgets.field import Field
from mlxtune.tui.widgets.frame import Answer, Verb, sorry
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
    plan: Planned | None = None
    bill: Bill | None = None
    here: bool = True  # the plan is of the base itself, not of what the catalogue knows of it
    was: int | None = None  # bytes that the plan before the last edit needed
    error: MlxtuneError | None = None


class Plan(Room):
    """The cursor stands on a key; the plan follows every edit."""

    ROOM = "Plan"
    ABOUT = "what a recipe says and takes; edit it until it fits"
    CSS_PATH = "plan.tcss"
    VERBS = frozenset({"train", "probe", "fit", "undo", "default", "other", "memory", "fetch_base"})
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("t", "train", "train", id="plan.train"),
        Binding("b", "probe", "probe", id="plan.probe"),
        Binding("g", "fit", "make it fit", id="plan.fit"),
        Binding("f", "fetch_base", "fetch the base", id="plan.fetch"),
        Binding("u", "undo", "undo", id="plan.undo"),
        Binding("d,backspace,delete", "default", "default", id="plan.default"),
        Binding("o", "other", "other recipe", id="plan.other"),
        Binding("m", "memory", "memory and time", id="plan.memory"),
        Binding("right,plus,equals_sign,l", "step(1)", "next value", id="plan.next"),
        Binding("left,minus,h", "step(-1)", "value before", id="plan.before"),
    ]

    def __init__(self) -> None:
        super().__init__()
        self._sheet: Sheet | None = None
        self._seen: tuple[Path, Recipe | None, str] | None = None  # of the newest snapshot
        self._plans: Plans | None = None
        self._doing: tuple[str, float] | None = None  # what is being waited for, once it takes long
        self._asked = 0
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

    # What is on show

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
            where = view.error.replace(one_line(str(view.path)), f"recipes/{view.title}")
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
        elif self._sheet.recipe != view.recipe:  # somebody else wrote it
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

    # Plans

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

    # Verbs

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

    def verbs(self) -> Sequence[Verb]:
        quit_ = Verb("q", "quit", "app.quit", "leave; what runs goes on")
        sheet = self._sheet
        many = self.desk.snapshot is not None and len(self.desk.snapshot.recipes) > 1
        other = [Verb("o", "other", "other", "another recipe")] if many else []
        if sheet is None:
            return [*other, quit_]
        verbs = [Verb("enter", "edit", "edit", "edit the key under the cursor")]
        if sheet.plan and sheet.plan.changes and sheet.plan.changes[0].settings:
            verbs.append(Verb("g", "fit", "fit", "make the next change that would make it fit"))
        if self.desk.can_start and self._doing is None:
            verbs.append(Verb("t", "train", "train", "start a run of it; asks first"))
        if self._can_fetch:
            verbs.append(Verb("f", "fetch", "fetch_base", "fetch its base"))
        if self._can_probe:
            verbs.append(Verb("b", "probe", "probe", "run two steps at the worst batch, to know memory and time"))
        if sheet.edits:
            verbs.append(Verb("u", "undo", "undo", "take the last edit back"))
        if sheet.plan:
            verbs.append(Verb("m", "costs", "memory", "where memory, time and money go, all of it"))
        one = self._key
        if one and not pictures.is_default(one, sheet.recipe) and pictures.default(one):
            verbs.append(Verb("d", "default", "default", "take the key out, so that its default holds"))
        return [*verbs, *other, quit_]

    def on_list_pane_moved(self, event: ListPane.Moved) -> None:
        event.stop()
        self.show()

    def on_list_pane_chosen(self, event: ListPane.Chosen) -> None:
        event.stop()
        self.action_edit()

    def action_edit(self) -> None:
        """Open the field over the value under the cursor; a choice of two goes to its other value."""
        if (one := self._key) and self._sheet:
            form = self.query_one("#plan-keys", ListPane)
            at = Offset(2 + pictures.VALUE, form.region.y - form.parent.region.y + form.cursor_y)  # type: ignore[union-attr]
            room = form.size.width - at.x
            self.query_one("#plan-field", Field).open(shown(one.of(self._sheet.recipe)), at, min(room, 48))

    def on_input_submitted(self, event: Input.Submitted) -> None:
        event.stop()
        if (one := self._key) and self._write({one.path: one.typed(event.value)}):
            self._close()

    def on_field_left(self, event: Field.Left) -> None:
        event.stop()
        self._close()

    def _close(self) -> None:
        self.query_one("#plan-field", Field).close()
        self.query_one("#plan-keys", ListPane).focus()

    def action_step(self, by: int) -> None:
        if (one := self._key) and self._sheet:
            value = one.of(self._sheet.recipe)
            if (following := one.next(value, by)) != value:
                self._write({one.path: following})

    def action_default(self) -> None:
        if one := self._key:
            self._write({one.path: None})

    def action_fit(self) -> None:
        if self._sheet and self._sheet.plan and self._sheet.plan.changes:
            self._write(dict(map(setting, self._sheet.plan.changes[0].settings)))

    def _write(self, changes: dict[str, Any]) -> bool:
        """Write ``changes`` into the recipe's file, say so, and plan anew; what is refused is said, and nothing is written."""
        sheet = self._sheet
        if sheet is None:
            return False
        try:
            done = edit(sheet.path, changes)
        except MlxtuneError as error:
            self.desk.reply(sorry(error))
            return False
        if done.before == done.after:
            return True
        sheet.edits.append(done)
        for path in changes:
            sheet.edited[path] = sheet.edited.get(path, 0) + 1
        told = " and ".join(_told(path, done.recipe) for path in changes)
        self._changed(done.recipe)
        self.desk.reply(Answer("✓", "$success", f"{told}.", undo=Verb("u", "undo", "undo", "take the last edit back")))
        return True

    def action_undo(self) -> None:
        sheet = self._sheet
        if sheet is None or not sheet.edits:
            return
        done = sheet.edits.pop()
        try:
            recipe = undo(done)
        except MlxtuneError as error:
            sheet.edits.clear()
            sheet.edited.clear()
            self.desk.reply(sorry(error))
            return
        for path in done.changes:
            sheet.edited[path] -= 1
        self._changed(recipe)
        self.desk.reply(Answer("✓", "$success", "Taken back."))

    def _changed(self, recipe: Recipe) -> None:
        sheet = self._sheet
        assert sheet is not None
        sheet.recipe = recipe
        sheet.was = sheet.plan.memory if sheet.plan else sheet.was
        self._replan()

    def action_train(self) -> None:
        sheet = self._sheet
        if sheet is None:
            return
        text = " ".join(filter(None, [sheet.plan.sentence if sheet.plan else "", _length(sheet.plan)])) or "It has no plan yet."
        if sheet.error:
            text = f"There is no plan: {one_line(sheet.error.message)}"
        wrong = sheet.error is not None or (sheet.plan is not None and sheet.plan.word == "refuse")
        choices = [
            Choice("", "Not now", "nothing happens"),
            Choice("train", "Train anyway" if wrong else "Train", "it may fail" if wrong else "start the run"),
        ]
        path = sheet.path
        self.app.push_screen(
            Choose(f"Train {one_line(sheet.recipe.name)}?", text, choices),
            lambda chosen: self.desk.start_run(path) if chosen else None,
        )

    def action_probe(self) -> None:
        self._replan("probe")

    def action_fetch_base(self) -> None:
        if self._sheet:
            self._sheet.error = None
        self._replan("fetch")

    def action_other(self) -> None:
        self.desk.choose_recipe()

    def action_memory(self) -> None:
        def rows(width: int) -> Sequence[tuple[Part, ...]]:
            sheet = self._sheet
            if sheet is None or sheet.plan is None or sheet.bill is None:
                return []
            parts: list[Content] = []
            for title, found in _pages(sheet.plan, sheet.bill, self._can_probe):
                parts += [line((f"  {title}", "bold")), *found(width), Content("")]
            return [(part,) for part in parts]

        self.app.push_screen(Page("Memory, time and money", rows))


def _pages(plan: Planned, bill: Bill, probing: bool) -> list[tuple[str, Callable[[int], list[Content]]]]:
    found: list[tuple[str, Callable[[int], list[Content]]]] = []
    if plan.changes:
        found.append(("To make it fit", partial(pictures.change_rows, plan.changes)))
    found += [("Memory", partial(pictures.memory_rows, plan)), ("Run", partial(pictures.run_rows, plan, bill, probing))]
    return [*found, ("Cost", partial(pictures.cost_rows, plan, bill, True))]


def _told(path: str, recipe: Recipe) -> str:
    return f"{path.partition('.')[2]} is {one_line(shown(Key(path, '').of(recipe))) or 'empty'}"


def _length(plan: Planned | None) -> str:
    if plan is None:
        return ""
    from mlxtune.planning import wording

    took = wording.time(plan.cost)
    return f"{plural(plan.steps, 'step')}{f', {one_line(took)}' if took else ''}."


def invite(width: int) -> Content:
    """The room before there is any recipe."""
    return lines(
        fold("There is no recipe yet.", width, style="bold"),
        fold("A recipe says everything that a run needs: the model, the rows, how to learn. It is a TOML file in recipes/.", width),
        Content(""),
        line("  ", key("H", "go home: a sample workspace is one key away", "app.room('home')")),
    )
