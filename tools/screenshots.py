"""Pictures of every room for the README: ``python tools/screenshots.py WORKSPACE`` writes docs/screens/ROOM.svg.

The workspace is a real one, such as the folder that ``make demo`` leaves; nothing in it is changed.
"""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path

from mlxtune.tui.app import MlxtuneApp
from mlxtune.tui.rooms import ROOMS
from mlxtune.tui.widgets.frame import LETTERS

TO = Path(__file__).parent.parent / "docs" / "screens"
SIZE = (120, 36)
PATIENCE = 4.0  # seconds that a room may take to read what it shows
FONTS = re.compile(r"@font-face \{.*?\}", re.DOTALL)  # a picture must not load anything from elsewhere


async def draw(workspace: Path) -> None:
    """Go through the rooms and save each as it looks."""
    app = MlxtuneApp(workspace)
    async with app.run_test(size=SIZE) as pilot:
        await pilot.pause(PATIENCE)
        for mode, name in zip(ROOMS, ROOMS.names, strict=True):
            await pilot.press(LETTERS[name])
            await pilot.pause(PATIENCE)
            picture = FONTS.sub("", app.export_screenshot(title="mlxtune", simplify=True))
            (TO / f"{mode}.svg").write_text(picture, encoding="utf-8")
            print(TO / f"{mode}.svg")


if __name__ == "__main__":
    TO.mkdir(parents=True, exist_ok=True)
    asyncio.run(draw(Path(sys.argv[1]).resolve()))
