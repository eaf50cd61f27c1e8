"""Take screenshots of every room for the documentation: ``python tools/screenshots.py WORKSPACE`` writes ``docs/screens/ROOM.svg``.

Use a real workspace, such as the one that ``make demo`` creates. It is not modified.
"""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path

from mlxtune.tui.app import MlxtuneApp
from mlxtune.tui.rooms import ROOMS

OUTPUT = Path(__file__).parent.parent / "docs" / "screens"
SIZE = (120, 36)
SETTLE = 4.0  # seconds for a room to load its data
FONTS = re.compile(r"@font-face \{.*?\}", re.DOTALL)  # an SVG must not load remote fonts


async def capture(workspace: Path) -> None:
    """Save a screenshot of every room."""
    app = MlxtuneApp(workspace)
    async with app.run_test(size=SIZE) as pilot:
        await pilot.pause(SETTLE)
        for mode, entry in ROOMS.items():
            await pilot.press(entry.key)
            await pilot.pause(SETTLE)
            svg = FONTS.sub("", app.export_screenshot(title="mlxtune", simplify=True))
            (OUTPUT / f"{mode}.svg").write_text(svg, encoding="utf-8")
            print(OUTPUT / f"{mode}.svg")


if __name__ == "__main__":
    OUTPUT.mkdir(parents=True, exist_ok=True)
    asyncio.run(capture(Path(sys.argv[1]).resolve()))
