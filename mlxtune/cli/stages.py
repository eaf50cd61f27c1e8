"""The stages of a long command: one live panel on a terminal, and headings with a line every ten seconds elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from mlxtune.cli import output
from mlxtune.cli.output import Cell, err, info, styled
from mlxtune.cli.tables import print_heading
from mlxtune.core.text import duration

_SPARK = 32  # the number of losses in the sparkline


@dataclass
class Stage:
    """A stage: its duration in seconds on a reference machine, if measured, its note, and when it began and ended. The completed
    fraction is from 0 to 1.
    """

    title: str
    measured: float | None
    note: str = ""
    summary: tuple[Cell, ...] = ()
    began: float | None = None
    ended: float | None = None
    fraction: float = 0.0


@dataclass
class Stages:
    """The stages in order. Exactly one is current between :meth:`begin` and :meth:`end`."""

    stages: Sequence[Stage]
    live: bool
    losses: list[float] = field(default_factory=list)
    began: float = field(default_factory=lambda: time.monotonic())

    @property
    def current(self) -> Stage | None:
        return next((stage for stage in self.stages if stage.began is not None and stage.ended is None), None)

    def begin(self, note: str = "") -> None:
        """Begin the next stage."""
        number, stage = next((number, stage) for number, stage in enumerate(self.stages, 1) if stage.began is None)
        stage.began, stage.note = time.monotonic(), note
        self.losses.clear()
        if not self.live:
            print_heading(err, f"{number}  {stage.title}", note)

    def update(self, description: str, fraction: float) -> None:
        """Show the progress of the current stage."""
        if stage := self.current:
            stage.note, stage.fraction = description, max(0.0, min(fraction, 1.0))

    def end(self, *summary: Cell) -> None:
        """End the current stage with its result."""
        if stage := self.current:
            stage.ended, stage.summary = time.monotonic(), summary
            if not self.live:
                info("  ", ("✓ ", "bold success"), *summary)
                info("")

    @property
    def seconds_left(self) -> float | None:
        """The estimated seconds left: the measured durations, scaled to the speed of the stages that have ended.

        None until a stage whose duration is known has ended, and if the duration of any stage is unknown.
        """
        durations = [stage.measured for stage in self.stages]
        known = sum(stage.measured or 0.0 for stage in self.stages if stage.ended is not None)
        if None in durations or not known:
            return None
        spent = max(stage.ended or 0.0 for stage in self.stages) - self.began
        total = spent / known * sum(duration or 0.0 for duration in durations)
        return max(0.0, total - (time.monotonic() - self.began))

    def __rich__(self) -> RenderableType:
        grid = Table.grid(padding=(0, 2, 0, 0))
        for number, stage in enumerate(self.stages, 1):
            mark: Cell = ("✓", "bold success") if stage.ended else ("▸", "bold primary") if stage.began else ("·", "faint")
            title: Cell = (f"{number}  {stage.title}", "bold" if stage.began else "muted")
            text = styled(*stage.summary) if stage.ended else styled((stage.note, "muted"))
            grid.add_row(styled("  ", mark), styled(title), Text(_elapsed(stage), style="muted", justify="right"), text)
        parts: list[RenderableType] = ["", grid, ""]
        if current := self.current:
            left = self.seconds_left
            rest = f"about {duration(left)} left" if left is not None else ""
            line = Table.grid(padding=(0, 2, 0, 0))
            bar = ProgressBar(total=1.0, completed=current.fraction, width=30, style="line", complete_style="primary")
            line.add_row("   ", bar, styled((rest, "muted"), "   " if self.losses else "", (sparkline(self.losses), "primary")))
            parts += [line, ""]
        return Group(*parts)


@contextmanager
def stages(items: Sequence[tuple[str, float | None]]) -> Iterator[Stages]:
    """Show stages, each a title and its duration in seconds on a reference machine, if measured. On a terminal, their progress bars
    are drawn in the panel."""
    shown = Stages([Stage(title, measured) for title, measured in items], live=err.is_terminal)
    if not shown.live:
        yield shown
        return
    with Live(shown, console=err, refresh_per_second=4), output.draw_progress_with(shown.update):
        yield shown


def sparkline(values: Sequence[float]) -> str:
    """Return a sparkline of the last values, between their smallest and their largest."""
    last = values[-_SPARK:]
    low, high = min(last, default=0.0), max(last, default=0.0)
    return "".join("▁▂▃▄▅▆▇█"[round((value - low) / (high - low) * 7) if high > low else 3] for value in last)


def _elapsed(stage: Stage) -> str:
    if stage.began is None:
        return ""
    seconds = (stage.ended or time.monotonic()) - stage.began
    return f"{seconds // 60:.0f}:{seconds % 60:02.0f}"
