"""Plan: a recipe as a form, and at every edit what it would take of this machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from textual.binding import Binding, BindingType
from textual.content import Content
from textual.geometry import Offset
from textual.widgets import Input

from mlxtune.core.errors import MlxtuneError
from mlxtune.core.text import one_line, plural
from mlxtune.recipe import Recipe
from mlxtune.recipe.edit import edit, undo
from mlxtune.recipe.keys import Key, shown
from mlxtune.recipe.load import setting
from mlxtune.tui.draw import Part, line
from mlxtune.tui.screens.choice import Choice, Choose
from mlxtune.tui.screens.page import Page
from mlxtune.tui.widgets import plan_pictures as pictures
from mlxtune.tui.widgets.field import Field
from mlxtune.tui.widgets.frame import Answer, Verb, sorry
from mlxtune.tui.widgets.pane import ListPane

if TYPE_CHECKING:
    from mlxtune.planning.cost import Bill
    from mlxtune.planning.plan import Plan as Planned
from mlxtune.tui.screens.plan_view import PlanView


class Plan(PlanView):
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
            self._editing = one
            form = self.query_one("#plan-keys", ListPane)
            at = Offset(2 + pictures.VALUE, form.region.y - form.parent.region.y + form.cursor_y)  # type: ignore[union-attr]
            room = form.size.width - at.x
            self.query_one("#plan-field", Field).open(shown(one.of(self._sheet.recipe)), at, min(room, 48))

    def on_input_submitted(self, event: Input.Submitted) -> None:
        event.stop()
        if (one := self._editing) and self._write({one.path: one.typed(event.value)}):
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
        self._changed(done.recipe, done.after)
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
        self._changed(recipe, done.before)
        self.desk.reply(Answer("✓", "$success", "Taken back."))

    def _changed(self, recipe: Recipe, written: bytes) -> None:
        sheet = self._sheet
        assert sheet is not None
        sheet.recipe, sheet.written = recipe, written
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
