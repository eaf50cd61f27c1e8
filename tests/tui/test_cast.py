"""The recording for the README: its script types keys that the app has, and the kept files fit the script's sizes."""

import json
import re
import sys
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

from textual.screen import Screen

from mlxtune.tui.app import MlxtuneApp
from mlxtune.tui.keys import own_bindings
from mlxtune.tui.rooms import ROOMS

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tools"))
import cast  # noqa: E402


def test_every_key_of_the_script_exists():
    for step in cast.SCRIPT:
        re.compile(step.shows)
        if step.room in ROOMS and step.key:
            rooms: list[type[Screen[None]]] = [kind for kind in ROOMS[step.room].load().__mro__ if issubclass(kind, Screen)]
            bound = {binding.key for kind in (*rooms, MlxtuneApp) for binding in own_bindings(kind)}
            assert step.key in bound, step


def test_the_recording_is_valid_and_the_picture_small():
    header, *events = map(json.loads, (cast.OUTPUT / "journey.cast").read_text(encoding="utf-8").splitlines())
    assert (header["version"], header["width"], header["height"]) == (2, cast.COLUMNS, cast.ROWS)
    assert all(kind == "o" and isinstance(text, str) for _, kind, text in events)
    assert all(before[0] <= after[0] for before, after in pairwise(events))
    assert events[-1][0] >= sum(step.seconds for step in cast.SCRIPT)
    picture = cast.OUTPUT / "journey.svg"
    assert picture.stat().st_size < 400_000
    ElementTree.parse(picture)


def test_a_line_that_changed_is_repainted():
    header, first, second = cast.cast([(0.0, ["a", "b"]), (1.0, ["a", "\x1b[1mc"])]).splitlines()
    assert json.loads(header)["version"] == 2
    assert json.loads(first)[2].count("\x1b[2K") == 2
    assert json.loads(second) == [1.0, "o", "\x1b[2;1H\x1b[0m\x1b[2K\x1b[1mc"]
