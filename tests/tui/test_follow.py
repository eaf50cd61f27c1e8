from mlxtune.runs import events
from mlxtune.runs.registry import Run
from mlxtune.runs.state import RunState
from mlxtune.tui.rooms.train import render
from mlxtune.workspace.follower import Follower
from mlxtune.workspace.index import WorkspaceIndex, with_history

from .stage import NOW, story

FACTS = {"loss": 0.5, "rate": 1e-4, "tokens": 9, "speed": 9.0, "memory": 1, "peak": 1, "epoch": 1.0}
RESUMED = {"kind": "train", "name": "x", "base": "b", "pid": 2, "host": "mac", "step": 50}


def test_following_in_pieces_is_the_same_as_reading_at_once(shop):
    folder = shop.run("20261124-1412-x")
    follower = Follower(Run(folder))
    for kind, fields in story("x", 120, 960, True, None)[2:]:
        shop.tell(folder, [(kind, fields)])
        if fields.get("step", 0) % 7 == 0:
            follower.read()
    follower.read()
    assert follower.state == RunState().apply(events.read_all(folder))
    assert follower.rows == (1069, 80, 181)
    assert sum(event["type"] == "step" for event in follower.log) == 120
    lines = render.log(follower.log, [], 80, 99).plain.splitlines()
    assert [line.split()[3] for line in lines if line.split()[2] == "step"] == ["50", "100", "120"]


def test_nothing_new_leaves_the_very_same_state(shop):
    follower = Follower(Run(shop.run("20261124-1412-x", steps=10)))
    follower.read()
    before = follower.state
    follower.read()
    assert follower.state is before


def test_the_history_of_an_ended_run_is_read_only_on_request(shop):
    id = "20261124-1412-x"
    folder = shop.run(id, steps=60, samples=True, end=("run.stopped", {"step": 60}))
    watcher = WorkspaceIndex(shop.folder, lambda: NOW)
    view = watcher.read().runs[0]
    assert (view.state.step, len(view.state.steps), view.state.samples, view.log) == (60, 1, [], ())
    assert watcher.read().runs[0] is view
    whole = with_history(view)
    assert whole.state == RunState().apply(events.read_all(folder))
    assert sum(event["type"] == "step" for event in whole.log) == 60
    assert with_history(view) is whole
    shop.tell(folder, [("run.resumed", RESUMED), ("step", {"step": 51, **FACTS})])
    shop.hold(folder)
    view = watcher.read().runs[0]
    assert view.alive
    assert [step.step for step in view.state.steps] == list(range(1, 52))
    assert with_history(view) is view


def test_a_torn_line_that_is_cut_and_written_over_is_not_counted_twice(shop):
    folder = shop.run("20261124-1412-x", steps=60)
    follower = Follower(Run(folder))
    with (folder / "events.jsonl").open("ab") as file:
        file.write(b'{"v":1,"seq":66,"t":1,"type":"st')
    follower.read()
    shop.tell(folder, [("run.resumed", RESUMED), ("step", {"step": 51, **FACTS})])
    follower.read()
    assert [step.step for step in follower.state.steps] == list(range(1, 52))
    assert follower.state == RunState().apply(events.read_all(folder))


def test_a_journal_that_starts_again_is_read_again(shop):
    folder = shop.run("20261124-1412-x", steps=60)
    follower = Follower(Run(folder))
    follower.read()
    (folder / "events.jsonl").unlink()
    shop.tell(folder, story("x", 3, 960, False, None))
    follower.read()
    assert follower.state.step == 3


def test_json_that_is_no_event_is_refused_and_the_app_goes_on(shop):
    folder = shop.run("20261124-1412-x", steps=5)
    with (folder / "events.jsonl").open("a") as file:
        file.write('{"v": 1, "seq": 8, "type": "step"}\n')
    state = shop.snapshot().runs[0].state
    assert (state.phase, state.error) == ("failed", "events.jsonl is damaged.")


def test_a_run_that_has_not_changed_is_the_very_same_view(loaded):
    watcher = WorkspaceIndex(loaded.folder, lambda: NOW)
    first, second = watcher.read(), watcher.read()
    assert all(one is two for one, two in zip(first.runs, second.runs, strict=True))
    assert first == second


def test_recipes_are_read_again_when_they_change(shop):
    path = shop.recipe()
    watcher = WorkspaceIndex(shop.folder, lambda: NOW)
    assert watcher.read().recipes[0].recipe is not None
    path.write_text("name = 3")
    broken = watcher.read().recipes[0]
    assert broken.recipe is None
    assert broken.error
