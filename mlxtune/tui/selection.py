"""The recipe and the evaluation that the rooms show, and the dialogs that choose another one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mlxtune.core.text import age, one_line, plural
from mlxtune.present.check import check_warning
from mlxtune.present.labels import signed_points, word
from mlxtune.present.workflow import recipe_summary
from mlxtune.runs import launch
from mlxtune.tui.widgets import ChoiceOption
from mlxtune.workspace.index import RecipeView, RunView

if TYPE_CHECKING:
    from mlxtune.tui.app import MlxtuneApp


class RecipeSelection:
    """The recipe that the user chose, or else the best one to show, and the evaluations that belong to it."""

    def __init__(self, app: MlxtuneApp) -> None:
        self._app = app
        self.recipe_path: Path | None = None  # the recipe that the user chose

    @property
    def recipe(self) -> RecipeView | None:
        """The recipe that Data, Review, Plan and Evaluate show: the chosen one, the newest run's, or the first that can start."""
        views, newest = self._app.snapshot.recipes, next(iter(self._app.snapshot.runs), None)
        chosen = next((view for view in views if view.path == self.recipe_path), None)
        of_newest = next((view for view in views if newest and view.recipe and view.recipe.name == newest.name), None)
        return chosen or of_newest or next(iter(self._app.snapshot.startable), None)

    def select_recipe(self, name: str) -> None:
        views = self._app.snapshot.recipes
        self.recipe_path = next((view.path for view in views if view.recipe and view.recipe.name == name), self.recipe_path)

    def show_recipe(self, path: Path) -> None:
        """Show the recipe at ``path``, which was just written, as soon as it is in a snapshot."""
        self.recipe_path = path
        self._app.sessions.expected_recipe = path
        self._app.redraw()

    def choose_recipe(self) -> None:
        """Ask which recipe to show, instead of the file that is open without one. The last option is to open another file."""

        def choose(path: Path | str) -> None:
            if not path:
                self._app.call_later(self._app.run_action, "screen.open_file")
                return
            self.recipe_path = Path(path)
            self._app.sessions.open_file(None)
            self._app.redraw()

        views = self._app.snapshot.recipes
        if any(view != self.recipe or self._app.sessions.file for view in views):
            self.ask_for_recipe(views, choose, ChoiceOption("", "a file", "of your own, in any format"))
        else:
            choose("")

    def ask_for_recipe(self, views: Sequence[RecipeView], then: Callable[[Path], object], *others: ChoiceOption) -> None:
        options = [
            ChoiceOption(view.path, view.title, recipe_summary(view.recipe) if view.recipe else f"✗ {view.error}") for view in views
        ]
        self._app.choose("Which recipe?", [*options, *others], then)

    @property
    def evaluations(self) -> list[RunView]:
        return [view for view in self._app.snapshot.evals if view.status == "finished"]

    def preferred_evaluation(self, selected: str | None, views: Sequence[RunView]) -> RunView | None:
        """Return the evaluation with the ID ``selected``, or else the newest one: of the current recipe, and of an adapter, if any is."""
        recipe = self.recipe.recipe if self.recipe else None
        chosen = next((view for view in views if view.id == selected), None)
        own = [view for view in views if recipe and view.name == recipe.name] or views
        return chosen or next((view for view in own if dict(view.state.summary).get("outcome")), None) or next(iter(own), None)

    def choose_evaluation(self, title: str, views: Sequence[RunView], then: Callable[[RunView], None]) -> None:
        options = []
        for view in views:
            name = f"{self.evaluated_name(view)}, {age(self._app.snapshot.now - view.updated)}"
            options.append(ChoiceOption(view, name, _brief_verdict(dict(view.state.summary))))
        self._app.choose(title, options, then)

    def evaluated_name(self, view: RunView) -> str:
        """Return the name of the adapter that the evaluation ``view`` is about, or of its recipe if that is unknown or only the base."""
        run_id = launch.evaluated_run(view.run.folder)
        return self.adapter_name(run_id) if run_id else view.name

    def adapter_name(self, run_id: str) -> str:
        """Return the name of a run's adapter, which is the run's ID unless it was renamed."""
        return one_line(self._app.snapshot.adapter_names.get(run_id, run_id))

    @property
    def check_note(self) -> str:
        """Why training the recipe should wait for a check of its rows, and the key to them, or ``""``."""
        key = self._app.show_action("room('data')").key
        check_note = check_warning(self.recipe.last_check) if self.recipe else ""
        return f"{check_note} {key} opens Data." if check_note else ""


def _brief_verdict(summary: Mapping[str, object]) -> str:
    """Return the number of rows of an evaluation, and its verdict as far as it fits in one cell of a list."""
    rows, outcome, change = (summary.get(key) for key in ("rows", "outcome", "change"))
    text = word(str(outcome or ""))
    text = f"{text}, {signed_points(change)} points" if isinstance(change, float) else text
    return one_line(f"{plural(rows, 'row')}: {text}" if isinstance(rows, int) and text else text, 46)
