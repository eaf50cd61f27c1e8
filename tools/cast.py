"""Record the app: ``python tools/cast.py WORKSPACE`` writes ``docs/screens/journey.cast`` (asciinema v2) and ``journey.svg`` (animated).

The app runs in tmux on a copy of a real workspace, such as that of ``make demo``. Rows are repeated in the copy, so that there
is a problem to fix. Every key of ``SCRIPT`` is typed, and screens are kept as tmux displays them. The training run is real, and it is stopped
at the end; the evaluation is the workspace's own. While a step waits for the app, the recording is ``FASTER`` times as fast as it was; otherwise, it has its real speed.
"""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from rich.ansi import AnsiDecoder
from rich.cells import cell_len
from rich.color import Color, ColorSystem
from rich.console import Console
from rich.style import Style
from rich.text import Text

OUTPUT = Path(__file__).parent.parent / "docs" / "screens"
COLUMNS, ROWS = 120, 34
TICK = 0.25  # seconds between two looks at the screen
FASTER = 40
PATIENCE = 900.0  # seconds to wait for one screen
REPEATED = 3  # training rows
BACKGROUND, FOREGROUND = "#14151a", "#e4e4e8"
WIDTH, HEIGHT = 8, 17  # pixels of a character
STILL = 0.9  # seconds: of screens that were replaced sooner, the SVG keeps one in this time


@dataclass(frozen=True)
class Step:
    """Type ``key`` in ``room``, wait until the screen matches ``shows``, and stay there for some ``seconds``."""

    room: str
    key: str
    shows: str
    seconds: float


SCRIPT = (
    Step("", "", r"Workflow ─[\s\S]+Best (so far|adapter) ─", 6),
    Step("home", "D", r"Findings ─+ \d+ rows", 5),
    Step("data", "f", r"reject \d+ row", 4),
    Step("dialog", "Enter", r"u undo", 4),
    Step("data", "R", r"Contract ─+ passes", 5),
    Step("review", "a", r"Row \d+ accepted", 4),
    Step("review", "P", r"This fits", 6),
    Step("plan", "n", r"Train \S+\?", 3),
    Step("dialog", "Down", r"▌ Train", 1),
    Step("dialog", "Enter", r"training \d", 2),
    Step("train", "", r"training ([89]|[1-7]\d)/", 5),
    Step("train", "E", r"Arms ─", 8),
    Step("evaluate", "O", r"HTML report is at", 5),
)

Frame = tuple[float, list[str]]  # seconds from the start, and the screen's lines with their escape sequences


def tmux(*arguments: str) -> str:
    """Run tmux on a server of its own, without the user's configuration."""
    command = ["tmux", "-L", "mlxtune-cast", "-f", "/dev/null", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def record(workspace: Path) -> list[Frame]:
    """Return every screen that differs from the one before."""
    app = str(Path(sys.executable).with_name("mlxtune"))
    size = ("-x", str(COLUMNS), "-y", str(ROWS))
    tmux("new-session", "-d", *size, "-c", str(workspace), "-e", "COLORTERM=truecolor", app, ";", "set", "-g", "status", "off")
    frames: list[Frame] = []
    clock, looked = 0.0, time.monotonic()
    try:
        for step in SCRIPT:
            if step.key:
                tmux("send-keys", step.key)
            deadline, left = time.monotonic() + PATIENCE, step.seconds
            while left > 0:
                time.sleep(TICK)
                lines = styled_lines(tmux("capture-pane", "-p", "-e", "-N"))
                if not frames or frames[-1][1] != lines:
                    frames.append((clock, lines))
                waits = left == step.seconds and not re.search(step.shows, tmux("capture-pane", "-p"))
                if waits and time.monotonic() > deadline:
                    raise SystemExit(f"{step} was not shown:\n{tmux('capture-pane', '-p')}")
                passed, looked = time.monotonic() - looked, time.monotonic()
                clock += passed / FASTER if waits else passed
                left -= 0 if waits else passed
            print(f"{clock:5.1f} s  {step.key or '·':5}  {step.shows}", flush=True)
    finally:
        tmux("kill-server")
    return [*frames, (clock, frames[-1][1])]


def styled_lines(capture: str) -> list[str]:
    """Return the lines of a screen as tmux captures it, each with its own styles: in a capture, a style goes on in the next line."""
    lines = []
    for text in AnsiDecoder().decode(capture):
        parts = text.render(Console(width=COLUMNS), end="")
        lines.append(
            "".join((style or Style()).render(part, color_system=ColorSystem.TRUECOLOR) for part, style, _ in parts if part)
        )
    return lines[:ROWS]


def cast(frames: Iterable[Frame]) -> str:
    """Return an asciinema v2 recording. A frame repaints the lines that changed."""
    lines = [json.dumps({"version": 2, "width": COLUMNS, "height": ROWS, "title": "mlxtune", "env": {"TERM": "xterm-256color"}})]
    before: list[str] = [""] * ROWS
    for seconds, screen in frames:
        screen = screen + [""] * (ROWS - len(screen))
        changed = (f"\x1b[{row};1H\x1b[0m\x1b[2K{line}" for row, line in enumerate(screen, 1) if line != before[row - 1])
        lines.append(json.dumps([round(seconds, 2), "o", "\x1b[?25l" * (len(lines) == 1) + "".join(changed)], ensure_ascii=False))
        before = screen
    return "\n".join(lines) + "\n"


def svg(frames: list[Frame]) -> str:
    """Return an animated SVG: a strip of the screens side by side, moved by one width at a time. Equal lines are stored once."""
    kept = frames[:1]
    for frame, after in pairwise(frames):
        if max(after[0] - frame[0], frame[0] - kept[-1][0]) >= STILL:
            kept.append(frame)
    end, width, height = frames[-1][0], COLUMNS * WIDTH, ROWS * HEIGHT
    ids: dict[str, str] = {}
    colors: dict[str, str] = {}
    for _, screen in kept:
        for line in screen:
            if line not in ids:
                ids[line] = f"l{len(ids)}"
    defined = [f'<g id="{id}">{_line(line, colors)}</g>' for line, id in ids.items()]
    strip = []
    for index, (_, screen) in enumerate(kept):
        uses = (f'<use href="#{ids[line]}" y="{row * HEIGHT}"/>' for row, line in enumerate(screen) if line)
        strip.append(f'<g transform="translate({index * width})">{"".join(uses)}</g>')
    moves = [
        f"{100 * seconds / end if index else 0:.2f}%{{transform:translateX({-index * width}px)}}"
        for index, (seconds, _) in enumerate(kept)
    ]
    moves.append(f"100%{{transform:translateX({-(len(kept) - 1) * width}px)}}")
    style = (
        f"text{{fill:{FOREGROUND};font:14px Menlo,'DejaVu Sans Mono',Consolas,monospace;white-space:pre}}"
        + "".join(f".{name}{{fill:{color}}}" for color, name in colors.items())
        + ".b{font-weight:bold}.i{font-style:italic}.u{text-decoration:underline}"
        + f"#strip{{animation:strip {end:.2f}s step-end infinite}}@keyframes strip{{{''.join(moves)}}}"
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width + 24} {height + 24}" font-family="monospace"><style>{style}</style>'
        f'<defs>{"".join(defined)}</defs><rect width="100%" height="100%" rx="8" fill="{BACKGROUND}"/>'
        f'<svg x="12" y="12" width="{width}" height="{height}"><g id="strip">{"".join(strip)}</g></svg></svg>\n'
    )


def _line(line: str, colors: dict[str, str]) -> str:
    """Return one line of the screen: a box for every background, and the text above the boxes. ``colors`` receives its colors."""
    boxes, words = [], []
    left = 0
    for part, style, _ in Text.from_ansi(line).render(Console(width=COLUMNS)):
        style = style or Style()
        front, back = (style.bgcolor, style.color) if style.reverse else (style.color, style.bgcolor)
        cells = cell_len(part)
        if back and _hex(back) != BACKGROUND:
            boxes.append(f'<path class="{_named(back, colors)}" d="M{left * WIDTH} 0h{cells * WIDTH}v{HEIGHT}h{-cells * WIDTH}"/>')
        if word := part.strip():
            x = left + cell_len(part) - cell_len(part.lstrip())
            names = [_named(front, colors)] if front else []
            names += [name for name, on in (("b", style.bold), ("i", style.italic), ("u", style.underline)) if on]
            shape = f' class="{" ".join(names)}"' if names else ""
            words.append(
                f'<text x="{x * WIDTH}" y="13" textLength="{cell_len(word) * WIDTH}"{shape}>{html.escape(word, quote=False)}</text>'
            )
        left += cells
    return "".join(boxes + words)


def _hex(color: Color) -> str:
    return color.get_truecolor().hex


def _named(color: Color, colors: dict[str, str]) -> str:
    return colors.setdefault(_hex(color), f"c{len(colors)}")


def stage(workspace: Path, copy: Path) -> None:
    """Copy ``workspace``, and append its first training rows once more."""
    shutil.copytree(workspace, copy)
    rows = copy / "data" / "samples" / "desk.jsonl"
    lines = rows.read_text(encoding="utf-8").splitlines(keepends=True)
    rows.write_text("".join(lines + lines[:REPEATED]), encoding="utf-8")


def main(workspace: Path) -> None:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        shop = Path(folder) / "shop"
        stage(workspace, shop)
        try:
            frames = record(shop)
        finally:  # a worker outlives the app
            subprocess.run([sys.executable, "-P", "-m", "mlxtune", "runs", "stop", "last"], cwd=shop, check=False)
    OUTPUT.mkdir(parents=True, exist_ok=True)
    for name, text in (("journey.cast", cast(frames)), ("journey.svg", svg(frames))):
        (OUTPUT / name).write_text(text, encoding="utf-8")
        print(OUTPUT / name, f"{len(text.encode()):,} bytes")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
