"""What the Evaluate room shows: the verdict, each arm's rates with their intervals, a failed row, and an evaluation at work."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from textual.content import Content

from mlxtune.core.text import duration, one_line, plural, safe_text
from mlxtune.tui.draw import Part, axis, bar, col, fold, interval, key, line, lines, wrap
from mlxtune.tui.evaluations import Lens, Opened, label
from mlxtune.tui.snapshot import RunView
from mlxtune.tui.verdict import SIGNS
from mlxtune.tui.widgets.answer_text import Span, answer_rows, marks

if TYPE_CHECKING:
    from mlxtune.evaluation.drill import Row
    from mlxtune.evaluation.evidence import Linked
    from mlxtune.evaluation.report import Arm
    from mlxtune.evaluation.scorers import Score

NAME, FIGURES, GAP = 19, 14, 4  # cells of an arm's name, of its rate with the interval, and between two metrics
TUNED = "tuned"


def verdict(opened: Opened, live: RunView | None, width: int, most: int) -> Content:
    """The verdict, and of what else must be known to believe it as much as fits ``most`` rows.

    Where only the base has been measured, what is being measured now, if anything is.
    """
    report = opened.report
    word = report.word
    mark, token = SIGNS.get(word, ("◐", "$primary"))
    told = one_line(report.verdict)
    if live and not word:
        arm = live.state.answering[0] if live.state.answering else live.name
        told = f"The base is measured. Now {one_line(arm)} is being measured; the verdict follows."
    start = f"{word[:1].upper()}{word[1:]}."
    said = fold(told, width - 2, indent="    ", style="")
    if word and told.startswith(start):
        said = said.stylize(f"bold {token}", 4, 4 + len(start))
    rows = [line((f"  {mark} ", f"bold {token}"), said[4:])]
    used = said.plain.count("\n") + 1
    for part in _beside(opened):
        more = fold_marked(part, width)
        if used + len(more) <= most or (part[1] == "$error" and len(rows) == 1):
            rows += more
            used += len(more)
    return lines(*rows)


def _beside(opened: Opened) -> list[tuple[str, str, str]]:
    """A sign, its token and a sentence each: what a reader would ask next, the gravest first."""
    from mlxtune.evaluation import regression
    from mlxtune.evaluation.wording import change

    report, found = opened.report, list[tuple[str, str, str]]()
    off_task = regression.of(report.facts)
    if off_task:
        found.append(("✗", "$error", off_task.sentence) if off_task.blocks else ("✓", "$success", off_task.sentence))
    headline, base = report.headline, report.arms[0].arm
    if headline and headline.first != base:
        asked = (headline.metric, base, headline.second)
        over = next((item for item in report.comparisons if (item.metric, item.first, item.second) == asked), None)
        if over:
            found.append((" ", "", f"Over {one_line(base)}: {change(over.low, over.change, over.high)} points."))
    found += [(" ", "", told) for told in margins(opened)]
    if report.facts.get("ledger"):
        found.append((" ", "", one_line(str(report.facts["ledger"]))))
    return found


def margins(opened: Opened) -> list[str]:
    """How much likelier each arm finds chosen answers, where the rows are pairs; and by how much the last one does so more."""
    from mlxtune.evaluation.wording import p_value

    arms = [f"{one_line(arm.arm)} {_signed(arm.margin.value, 2)}" for arm in opened.report.arms if arm.margin]
    if not arms:
        return []
    told = [f"Margin of the chosen answers, in nats a token: {', '.join(arms)}."]
    over = opened.report.headline.first if opened.report.headline else ""
    for item in opened.report.margins:
        if item.first == over:
            p = p_value(item.p).replace("<", "< ") if item.p < 0.001 else f"= {p_value(item.p)}"
            moved = f"{_signed(item.change, 3)} ({_signed(item.low, 3)} to {_signed(item.high, 3)})"
            told.append(f"{one_line(item.second)} over {one_line(item.first)}: {moved}, {item.rose} rose, {item.fell} fell, p {p}.")
    return told


def _signed(value: float, decimals: int) -> str:
    return f"{value:+.{decimals}f}".replace("-", "−")


def fold_marked(part: tuple[str, str, str], width: int) -> list[Content]:
    """A sentence behind its sign, on as many rows as it needs."""
    mark, token, told = part
    first, *rest = wrap(told, width - 4)
    return [
        line((f"  {mark} ", f"bold {token}" if token else ""), (first, "$muted")),
        *(line((f"    {row}", "$muted")) for row in rest),
    ]


def columns(opened: Opened, metrics: Sequence[str], width: int) -> int:
    """Cells of an interval's picture, of ``width`` for a row of the table."""
    return (width - NAME - len(metrics) * (FIGURES + GAP)) // max(len(metrics), 1)


def arms_header(opened: Opened, metrics: Sequence[str], width: int) -> Content:
    """The names of the metrics, over their axes."""
    room = columns(opened, metrics, width - 2)
    names = (col(f"{label(metric)}, %", room + FIGURES + GAP, "$muted") for metric in metrics)
    return line("  ", col("", NAME), *names).truncate(max(width, 0))


def arm_row(opened: Opened, arm: Arm, metrics: Sequence[str], width: int) -> Content:
    """One arm: its name, and for each metric the interval on the axis and in figures. What was tuned has the accent."""
    own = arm.arm == TUNED
    room = columns(opened, metrics, width)
    parts: list[Part] = [col(one_line(arm.arm), NAME, "bold $primary" if own else "")]
    for metric in metrics:
        rate = next((rate for rate in arm.rates if rate.metric == metric), None)
        if rate is None:
            parts.append(" " * (max(room, 0) + FIGURES + GAP))
            continue
        figures = line(
            col(f"{100 * rate.share:.1f}", 6, "bold" if own else "", right=True),
            (f"  {100 * rate.low:.0f}–{100 * rate.high:.0f}", "$muted"),
        )
        parts += [
            interval(rate.low, rate.share, rate.high, room, "$primary" if own else "$muted"),
            col(figures, FIGURES),
            " " * GAP,
        ]
    return line(*parts).truncate(max(width, 0))


def arms_axis(opened: Opened, metrics: Sequence[str], width: int) -> Content:
    """The axes below the arms."""
    room = columns(opened, metrics, width - 2)
    return line("  ", col("", NAME), *(part for _ in metrics for part in (axis(room), " " * (FIGURES + GAP)))).truncate(
        max(width, 0)
    )


def square_told(opened: Opened, metric: str, brief: bool) -> Content:
    """What the 2×2 comes to."""
    from mlxtune.evaluation.wording import change, p_value

    item = opened.comparison(metric)
    if item is None:
        return Content("")
    p = item.p if item.adjusted is None else item.adjusted
    moved = f"{change(item.low, item.change, item.high)} points"
    value = p_value(p)
    return line((f"{moved}  " if not brief else "", ""), (f"p {value if value.startswith('<') else f'= {value}'}", "$muted"))


def row_line(row: Row, lens: Lens, several: bool, width: int) -> Content:
    """A row of the list: whether it holds, where it stands, and why not; how it fails, where there are ``several`` ways."""
    score = row.scores.get(lens.arm)
    held = score is not None and score.holds
    failed = score if score and not score.holds else row.scores.get(lens.against)
    kind = one_line(failed.kind) if failed and not failed.holds else ""
    why = one_line(failed.why) if failed and not failed.holds else one_line(asked(row))
    if held and kind:
        kind, why = f"was {kind}", why
    sign = ("✓ ", "bold $success") if held else ("✗ ", "bold $error")
    size = min(max(width // 4, 8), 18) if several else 0
    how: list[Part] = [col(kind, size, "$muted"), " "] if several else []
    return line(sign, col(f"{row.asked.line:,}", 6, "$muted"), *how, col(why, width - 9 - size)).truncate(max(width, 0))


def asked(row: Row) -> str:
    """The last thing that a user said in a row."""
    return next((message.content for message in reversed(row.asked.prompt) if message.role == "user"), "")


def detail(opened: Opened, row: Row, lens: Lens, versus: str, width: int, height: int) -> Content:
    """An output beside the reference or another arm's, the failing part marked, why it fails, and its nearest training rows.

    Where there is no room for all of it, long answers are cut, but not what is marked in them.
    """
    head = [*(line((f"  {piece}", "$muted")) for piece in _question(row, width - 4, 2 if height > 16 else 1)), Content("")]
    tail = [*why_rows(row.scores.get(lens.arm), width), *_near(row.linked, width)]
    drill, half = opened.drill, (width - 6) // 2
    spans = [drill.span(row, lens.metric, arm) if drill and arm in row.said else None for arm in (lens.arm, versus)]
    first = side_rows(one_line(lens.arm), row.said[lens.arm].output, spans[0], lens.arm == TUNED, half)
    second = side_rows(one_line(versus), _said(row, versus), spans[1], versus == TUNED, half)
    sides = _zipped(first, second)
    room = height - len(head) - len(tail) - 1
    if height > 0 and room < len(sides):
        sides = _window(sides, max(room, 4))
    body = [line("  ", col(one, half), "  ", col(two, half)).rstrip() for one, two in sides]
    return lines(*head, *body, Content(""), *tail)


def _window(sides: list[tuple[Content, Content]], room: int) -> list[tuple[Content, Content]]:
    """The names and ``room`` rows in all, those that are marked among them."""
    names, *rows = sides
    room -= 1
    marked = next((at for at, pair in enumerate(rows) if any(map(marks, pair))), 0)
    first = max(0, min(marked - room // 2, len(rows) - room))
    cut = rows[first : first + room]
    dots = (Content.styled("…", "$muted"), Content.styled("…", "$muted"))
    if first:
        cut[0] = dots
    if first + room < len(rows):
        cut[-1] = dots
    return [names, *cut]


def _zipped(first: list[Content], second: list[Content]) -> list[tuple[Content, Content]]:
    """Both columns, a row of carets on one side beside an empty cell on the other."""
    left, right, out = list(first), list(second), list[tuple[Content, Content]]()
    blank = Content("")
    while left or right:
        one, two = bool(left) and marks(left[0]), bool(right) and marks(right[0])
        take = (bool(left) and (one or not two), bool(right) and (two or not one))
        out.append((left.pop(0) if take[0] else blank, right.pop(0) if take[1] else blank))
    return out


def side_rows(name: str, text: str | None, span: Span | None, own: bool, width: int) -> list[Content]:
    """An answer under the name of who gave it."""
    head = Content.styled(name, "bold $primary" if own else "bold $muted")
    if not text:
        return [head, Content.styled("–" if text is None else "(empty)", "$muted")]
    return [head, *answer_rows(text, span, width)]


def _said(row: Row, versus: str) -> str | None:
    return row.said[versus].output if versus in row.said else row.asked.reference


def _question(row: Row, width: int, most: int) -> list[str]:
    told = wrap(one_line(asked(row)) or "(no question)", width - 2)
    cut = told[:most]
    if len(told) > most:
        cut[-1] = f"{cut[-1][: max(width - 3, 0)]}…"
    return [f"{'○ ' if at == 0 else '  '}{piece}" for at, piece in enumerate(cut)]


def why_rows(score: Score | None, width: int) -> list[Content]:
    """Why an answer fails, or that it holds; an empty row follows."""
    if score is None:
        return [Content("")]
    if score.holds:
        return [line(("  ✓ ", "bold $success"), "it holds"), Content("")]
    first, *rest = wrap(safe_text(score.why or score.kind), width - 4)
    return [line(("  ✗ ", "bold $error"), (first, "bold")), *(line("    ", (more, "bold")) for more in rest), Content("")]


def _near(found: Linked | None, width: int) -> list[Content]:
    if found is None or not found.near:
        return []
    rows = [line(("  Nearest training rows", "$muted"))]
    for one in found.near:
        reviewed = "" if one.reviewed else ", not reviewed"
        head = line(
            "  ", col(f"{one.line:,}", 6, "bold"), col(f"{100 * one.alike:.0f} % alike{reviewed}", 26 if reviewed else 12, "$muted")
        )
        rows.append(line(head, col(one_line(one.asks), width - head.cell_length - 1)))
    return rows


def progress(view: RunView, now: float, width: int) -> Content:
    """An evaluation at work: each arm with the rows it has answered."""
    rows: list[Content] = []
    for arm, done, total in view.state.arms:
        whole = done >= total
        mark = ("✓ ", "bold $success") if whole else ("● ", "bold $primary")
        figure = f" {done:,} of {plural(total, 'row')}"
        name = col(one_line(arm), NAME - 2, "bold $primary" if arm == TUNED else "")
        rows.append(
            line(
                "  ",
                mark,
                name,
                bar(done / max(1, total), width - NAME - 3 - len(figure), "$primary" if arm == TUNED else "$muted"),
                (figure, "$muted"),
            )
        )
    if not rows:
        rows.append(line(("  ● ", "bold $primary"), "The model is being loaded."))
    if view.status == "quiet":
        rows.append(line(("  ! ", "bold $warning"), f"Nothing was heard for {duration(now - view.updated)}. Its process is alive."))
    return lines(*(row.truncate(max(width, 0)) for row in rows))


def trouble(view: RunView, width: int) -> Content:
    """Why the newest evaluation came to no report."""
    state = view.state
    said = {"stopped": "The evaluation was stopped.", "crashed": "The evaluation ended without saying why."}.get(view.status)
    told = said or state.error or "The evaluation failed."
    token = "$muted" if view.status == "stopped" else "$error"
    mark = "■" if view.status == "stopped" else "✗"
    last = f"Its process printed last: {view.tail[-1]}" if view.tail else f"Its log: evals/{view.title}/worker.log"
    more = state.mend or ("Start another when you like." if view.status == "stopped" else last)
    body = fold(told, width - 2, indent="    ", style=f"bold {token if token != '$muted' else ''}".strip())
    return lines(line((f"  {mark} ", f"bold {token}"), body[4:]), fold(more, width, "    ", style=""))


def invite(name: str, arms: Sequence[str], rows: int, starts: bool, width: int) -> Content:
    """The room before anything was evaluated: what it is for, what it takes, one key."""
    who = ", ".join(one_line(arm) for arm in arms)
    where = f"the same {plural(rows, 'held-out row')}" if rows else "the same held-out rows"
    told = [
        fold("Nothing has been evaluated yet.", width, style="bold"),
        fold(f"{who[:1].upper()}{who[1:]} answer {where}." if who else f"Every arm answers {where}.", width),
        fold("The verdict is better, worse or cannot tell, with an interval.", width),
        Content(""),
    ]
    if starts and name:
        told.append(line("  ", key("enter", f"evaluate {name}", "screen.evaluate")))
    elif not name:
        told.append(line("  ", key("H", "go home: a sample workspace is one key away", "app.room('home')")))
    else:
        told.append(fold("Something else is running. It can start when that has ended.", width))
    return lines(*told)
