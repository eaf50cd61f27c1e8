"""``train``: start a training run from a recipe and follow it."""

import shlex
from pathlib import Path
from typing import Annotated

from mlxtune.advice.next_step import after_run
from mlxtune.cli.follow import announce, follow_and_show
from mlxtune.cli.options import Detach, Json, Online, Overrides, RecipeFile, option
from mlxtune.cli.output import err, info, progress_bar, show
from mlxtune.data import check_cache
from mlxtune.present.check import check_warning
from mlxtune.present.next_step import next_step_document
from mlxtune.present.terminal import print_document
from mlxtune.present.verdict import verdict_text
from mlxtune.recipe import load
from mlxtune.runs.metrics import FORMATS, open_sink
from mlxtune.runs.registry import Run
from mlxtune.runs.state import earlier_adapter_step
from mlxtune.training.distributed import launcher
from mlxtune.workspace import control
from mlxtune.workspace.index import WorkspaceIndex


def train(
    recipe: RecipeFile,
    overrides: Overrides = None,
    hosts: Annotated[int, option("--hosts", "Data-parallel local processes.")] = 1,
    hostfile: Annotated[Path | None, option("--hostfile", "Machines, in mlx.launch format.")] = None,
    detach: Detach = False,
    track: Annotated[str, option("--track", f"Log metrics: {', '.join(FORMATS)}.", metavar="FORMAT")] = "",
    online: Online = False,
    json: Json = False,
) -> None:
    """Start a run and follow it. Closing the terminal or pressing Ctrl-C does not stop it."""
    loaded = load(recipe, overrides or [])
    request = launcher.launch_request(hosts, hostfile)
    if check_note := check_warning(check_cache.last_check(loaded)):
        info(("! ", "bold warning"), f"{check_note} See: mlxtune data check {shlex.quote(str(recipe))}")
    if track:
        open_sink(track, "", loaded.name, online=online)  # before the run starts: raises if it cannot be used
        request |= {"track": track, "online": online}
    with progress_bar() as update:
        run = control.train(Path.cwd(), loaded, request, progress=update)
    if announce(run, detach=detach, json=json):
        follow_and_show(run, show_adapter, json=json)


def show_adapter(run: Run) -> None:
    """Print where the adapter of a training run is, if the run has finished, and its newest verdict or how to evaluate it."""
    state = run.state()
    if state.phase != "finished":
        return
    info("")
    show("Adapter: ", str(run.adapter))
    if earlier := earlier_adapter_step(state.summary):
        info(f"It is from step {earlier:,}, which had the lowest validation loss.")
    snapshot = WorkspaceIndex(run.folder.parent.parent).read()
    if verdict := snapshot.verdict_on(run.id):
        info("Evaluated: ", verdict_text(verdict.report.verdict))
    if view := snapshot.find_run(run.id):
        print_document(next_step_document(after_run(view, snapshot)), err)
