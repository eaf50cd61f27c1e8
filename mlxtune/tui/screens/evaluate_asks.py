"""What the Evaluate room asks before something happens: what to measure, which arms, which report, which row, and whether to stop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mlxtune.core.errors import MlxtuneError
from mlxtune.core.text import one_line
from mlxtune.recipe import load
from mlxtune.recipe.edit import literal
from mlxtune.runs import registry
from mlxtune.runs.registry import Run
from mlxtune.tui import evaluations
from mlxtune.tui.draw import age, ago
from mlxtune.tui.screens.choice import Choice, Choose
from mlxtune.tui.snapshot import RunView
from mlxtune.tui.widgets.frame import Answer, sorry

if TYPE_CHECKING:
    from mlxtune.evaluation.evidence import Near
    from mlxtune.tui.desk import Desk

RECENT = 8  # runs that are offered to be evaluated


def what(desk: Desk) -> None:
    """Ask what to measure, then which arms; then start."""
    from mlxtune.evaluation.start import trained

    snapshot = desk.snapshot
    if snapshot is None:
        return
    runs = [view for view in snapshot.runs if trained(view.run)][:RECENT]
    recipes = [view for view in snapshot.recipes if view.recipe]
    subjects: list[tuple[Run | None, Path]] = [(view.run, view.run.folder / "recipe.toml") for view in runs]
    subjects += [(None, view.path) for view in recipes]
    about = [f"its adapter, {ago(snapshot.now - view.updated)}" for view in runs]
    about += ["its base alone" for _ in recipes]
    names = [*(view.name for view in runs), *(view.title for view in recipes)]
    choices = [Choice(str(at), name, about[at]) for at, name in enumerate(names)]
    desk.push_screen(Choose("Evaluate what?", "", choices), lambda at: _arms(desk, *subjects[int(at)]) if at else None)


def _arms(desk: Desk, run: Run | None, path: Path) -> None:
    try:
        options = evaluations.choices_of_arms(load(path))
    except MlxtuneError as error:
        desk.reply(sorry(error))
        return
    if len(options) == 1:
        _start(desk, run, path, options[0][1])
        return
    choices = [Choice(str(at), words, f"{len(arms)} arms" if at else ", ".join(arms)) for at, (words, arms) in enumerate(options)]
    text = "Whoever says that training helped must beat what needs none. Every arm answers all held-out rows."
    desk.push_screen(Choose("Which arms?", text, choices), lambda at: _start(desk, run, path, options[int(at)][1]) if at else None)


def _start(desk: Desk, run: Run | None, path: Path, arms: Sequence[str]) -> None:
    def job() -> Answer | None:
        from mlxtune.evaluation.start import start

        start(desk.workspace, load(path, [f"evaluation.arms={literal(list(arms))}"]), run)
        return None

    desk.do("Starting the evaluation.", job)


def choose_report(desk: Desk, title: str, found: Sequence[RunView], then: Callable[[RunView], None]) -> None:
    """Ask for one of ``found``, newest first."""
    now = desk.snapshot.now if desk.snapshot else 0.0
    choices = [
        Choice(str(at), f"{view.name}, {age(now - view.updated)}", one_line(str(dict(view.state.summary).get("verdict", "")), 38))
        for at, view in enumerate(found)
    ]
    desk.push_screen(Choose(title, "", choices), lambda at: then(found[int(at)]) if at else None)


def near(desk: Desk, rows: Sequence[Near], then: Callable[[str], None]) -> None:
    """Ask for one of the training rows that are like a failed one, if there is more than one."""
    if len(rows) == 1:
        then(rows[0].id)
        return
    choices = [Choice(one.id, f"{one_line(one.file, 24)}, line {one.line:,}", f"{100 * one.alike:.0f} % alike") for one in rows]
    desk.push_screen(Choose("Which training row?", "", choices), lambda id: then(id) if id else None)


def stop(desk: Desk, view: RunView) -> None:
    """Ask first; then ask the evaluation's worker to end."""
    choices = [
        Choice("", "Let it finish", "nothing changes"),
        Choice("stop", "Stop", "arms that have answered everything are kept"),
    ]

    def job() -> Answer | None:
        registry.stop(view.run)
        return Answer("■", "$muted", f"The evaluation of {view.name} was asked to stop.")

    def chosen(way: str | None) -> None:
        if way:
            desk.do("", job)

    desk.push_screen(Choose(f"Stop the evaluation of {view.name}?", "", choices), chosen)
