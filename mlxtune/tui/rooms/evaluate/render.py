"""Draw the Evaluate room: the verdict, the arms' rates, a row in detail, a running evaluation, and the pages."""

from collections.abc import Mapping, Sequence
from itertools import zip_longest

from textual.content import Content

from mlxtune.advice.next_step import NextStep
from mlxtune.core.text import duration, one_line, plural, safe_text
from mlxtune.evaluation.arms import is_tuned
from mlxtune.evaluation.drilldown import ScoredRow
from mlxtune.evaluation.evidence import NearestRow
from mlxtune.evaluation.off_task.prompts import OffTaskPrompt, OffTaskResult
from mlxtune.evaluation.report import ArmResult, token_limit
from mlxtune.evaluation.scorers import GRAMMAR_LIMIT, LOOP, PREFERENCE, Score
from mlxtune.evaluation.scorers.registry import metric_label
from mlxtune.evaluation.verdict import Comparison
from mlxtune.present import verdict as present
from mlxtune.present.blocks import Fact
from mlxtune.present.labels import change_text, failure_name, p_value
from mlxtune.present.next_step import step_title
from mlxtune.present.report import expected_answer, nearest_row_text
from mlxtune.present.run import answering_text, pace_text
from mlxtune.runs.events import HELD_OUT_ROW
from mlxtune.tui import draw
from mlxtune.tui.render.bars import axis, bar, interval
from mlxtune.tui.render.output_text import Span, is_marked, output_rows
from mlxtune.tui.render.source import message_rows
from mlxtune.tui.render.text import RECIPE_KEY, Part, cell, cut_rows, invitation, key, line, lines, marked, paragraph, shorten, wrap
from mlxtune.tui.rooms.evaluate.service import LoadedReport, RowFilter
from mlxtune.workspace.index import RunView

_URGENCY = {"error": 0, "warning": 1}  # of a fact, by its mark
_LABEL = 18  # cells before the value of a fact
NAME, FIGURES, GAP = 20, 14, 4  # cells of an arm's name, of its rate with interval, and between two metrics


def verdict(loaded: LoadedReport, step: NextStep | None, width: int, max_rows: int) -> Content:
    """Draw the verdict and as many of its notes as fit in ``max_rows``, most important first: ``step`` is what to do next."""
    report = loaded.report
    rows = draw.text_rows(present.verdict(report.verdict), width)
    base = report.arms[0].name
    item = loaded.comparison(report.headline.metric, base) if report.headline and loaded.baseline != base else None
    own = [*([present.comparison_fact(item)] if item else []), *_margins(loaded)]  # which the room's tables leave out
    facts = sorted([*own, *present.report_facts(report).facts], key=lambda fact: _URGENCY.get(fact.mark, 2))
    for fact in (*([Fact("next", step_title(step))] if step else []), *facts):
        more = draw.fact_rows(fact, width, label_width=_LABEL)
        if len(rows) + len(more) <= max_rows or fact.mark == "error":
            rows += more
    return lines(*rows)


def _margins(loaded: LoadedReport) -> list[Fact]:
    """Describe the log-probability margins of preference pairs, and how they changed from the baseline."""
    arms = ", ".join(f"{one_line(arm.name)} {_signed(arm.margin.value)}" for arm in loaded.report.arms if arm.margin)
    changes = "; ".join(
        f"{one_line(item.second)} {_signed(item.change)} ({_signed(item.low)} to {_signed(item.high)}), p {p_value(item.p)}"
        for item in loaded.report.margins
        if item.first == loaded.baseline
    )
    return [Fact("margin", arms, f"nats per token; {changes}" if changes else "nats per token")] if arms else []


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", "−")


def arms_header(metrics: Sequence[str], width: int) -> Content:
    column = _axis_width(metrics, width - 2) + FIGURES + GAP
    names = (cell(f"{metric_label(metric)}, %", column, "$muted") for metric in metrics)
    return line("  ", cell("", NAME), *names)


def arm_row(arm: ArmResult, metrics: Sequence[str], width: int) -> Content:
    own = is_tuned(arm.name)
    axis_width = _axis_width(metrics, width)
    parts: list[Part] = [cell(one_line(arm.name), NAME, "bold $primary" if own else "")]
    for metric in metrics:
        rate = next((rate for rate in arm.rates if rate.metric == metric), None)
        if rate is None:
            parts.append(" " * (max(axis_width, 0) + FIGURES + GAP))
            continue
        figure = cell(f"{100 * rate.share:.1f}", 6, "bold" if own else "", right=True)
        limits = (f"  {100 * rate.low:.0f}–{100 * rate.high:.0f}", "$muted")
        parts.append(interval(rate.low, rate.share, rate.high, axis_width, "$primary" if own else "$muted"))
        parts += [cell(line(figure, limits), FIGURES), " " * GAP]
    return line(*parts)


def arms_axis(metrics: Sequence[str], width: int) -> Content:
    axes = (part for _ in metrics for part in (axis(_axis_width(metrics, width - 2)), " " * (FIGURES + GAP)))
    return line("  ", cell("", NAME), *axes)


def _axis_width(metrics: Sequence[str], width: int) -> int:
    return (width - NAME - len(metrics) * (FIGURES + GAP)) // max(len(metrics), 1)


def paired_note(item: Comparison, brief: bool) -> Content:
    """Draw the p-value below the 2×2 table, with its adjustment, and, unless ``brief``, the change."""
    moved = "" if brief else f"{change_text(item.low, item.change, item.high)} points  "
    holm = "" if item.adjusted in (None, item.p) else " (Holm)"
    return line(moved, (f"p {p_value(item.p if item.adjusted is None else item.adjusted)}{holm}", "$muted"))


def row_line(row: ScoredRow, filter: RowFilter, with_kind: bool, width: int) -> Content:
    """Draw a row of the list: pass or fail, line number, kind of failure, and the question."""
    score, other = row.scores.get(filter.arm), row.scores.get(filter.baseline)
    passes = score is not None and score.passed
    failed = other if passes or score is None else score
    failed = failed if failed and not failed.passed else None
    kind = one_line(failure_name(failed.kind)) if failed else ""
    glyph = ("✓ ", "bold $success") if passes else ("✗ ", "bold $error")
    kind_width = min(max(width // 4, 8), 18) if with_kind else 0
    kind_cell: list[Part] = [cell(f"was {kind}" if passes and kind else kind, kind_width, "$muted"), " "] if with_kind else []
    question = cell(one_line(row.row.question), width - 9 - kind_width)
    return line(glyph, cell(f"{row.row.location.number:,}", 6, "$muted"), *kind_cell, question)


def row_detail(loaded: LoadedReport, row: ScoredRow, filter: RowFilter, versus: str, width: int, height: int) -> Content:
    """Draw an output next to the reference or another arm's output, with the failing part marked, the reason, and similar rows.

    Long answers are truncated to fit, but never at the mark.
    """
    question = [*map(Content, wrap(one_line(row.row.question) or "(no user turn)", width - 6))]
    question = shorten(question, 2 if height > 16 else 1, width - 6)
    head = [line("    " if index else "  ○ ", text).stylize("$muted") for index, text in enumerate(question)]
    tail = [*_score_rows(loaded, row, filter.metric, filter.arm, width), *_similar_rows(row.nearest, width)]
    half = (width - 6) // 2
    arms = (versus, filter.arm) if versus == filter.baseline else (filter.arm, versus)  # before and after
    left, right = (_arm_rows(loaded, row, filter.metric, arm, half) for arm in arms)
    sides = list(zip_longest(left, right, fillvalue=Content("")))
    room = height - len(head) - len(tail) - 2
    if height > 0 and room < len(sides):
        tail = cut_rows(tail, max(height - len(head) - 2 - min(len(sides), 4), 1)).split("\n")
        sides = _window(sides, max(room, 4))
    body = [line("  ", cell(first, half), "  ", cell(second, half)).rstrip() for first, second in sides]
    return lines(*head, Content(""), *body, Content(""), *tail)


def _arm_rows(loaded: LoadedReport, row: ScoredRow, metric: str, arm: str, width: int) -> list[Content]:
    if arm in row.answers:
        span = loaded.drilldown.highlight(row, metric, arm) if loaded.drilldown else None
        return _side_rows(arm, row.answers[arm].output, span, width)
    return _side_rows(arm, row.row.reference, None, width)


def _side_rows(name: str, text: str | None, span: Span | None, width: int) -> list[Content]:
    head = Content.styled(one_line(name), "bold $primary" if is_tuned(name) else "bold $muted")
    if not text:
        return [head, Content.styled("–" if text is None else "(empty)", "$muted")]
    return [head, *output_rows(text, span, width)]


def _window(sides: list[tuple[Content, Content]], height: int) -> list[tuple[Content, Content]]:
    """Return the names and the rows around the mark, ``height`` rows in total. A column that ends before them shows its last rows."""
    names, *rows = sides
    height -= 1
    mark = next((index for index, pair in enumerate(rows) if any(map(is_marked, pair))), 0)
    first = max(0, min(mark - height // 2, len(rows) - height))
    left, right = (_column_window(list(column), first, height) for column in zip(*rows, strict=True))
    return [names, *zip(left, right, strict=True)]


def _column_window(rows: list[Content], first: int, height: int) -> list[Content]:
    """Return ``height`` rows from ``first`` on, or the last ones if only a few are left there. Dots stand for rows left out."""
    count = max((index + 1 for index, row in enumerate(rows) if row.plain), default=0)
    if count < first + height // 2:
        first = max(0, count - height)
    shown = (rows[:count] + [Content("")] * height)[first : first + height]
    dots = Content.styled("…", "$muted")
    if first:
        shown[0] = dots
    if first + height < count:
        shown[-1] = dots
    return shown


def _score_rows(loaded: LoadedReport, row: ScoredRow, metric: str, arm: str, width: int) -> list[Content]:
    """Draw why an arm's answer fails and where it was cut off, or that it passes, followed by an empty row."""
    score = row.scores.get(arm)
    if score is None:
        return [Content("")]
    if score.passed:
        return [*marked("✓", "$success", "passes", width), Content("")]
    reason = marked("✗", "$error", safe_text(score.detail or failure_name(score.kind)), width, "bold")
    ending = _ending(row.answers[arm].ended, score, token_limit(loaded.report.facts, arm)) if metric != PREFERENCE else ""
    return [*reason, *(marked(" ", "", ending, width, "$muted") if ending else []), Content("")]


def _ending(ended: str, score: Score, max_tokens: int) -> str:
    """Return how an answer that failed ended, unless it ended on its own."""
    loops = "repeats itself" if ended == LOOP or score.kind == "in_a_loop" else ""
    limit = f"cut off at {max_tokens:,} tokens" if ended in ("length", GRAMMAR_LIMIT) and max_tokens else ""
    return ", ".join(filter(None, (limit, loops)))


def _similar_rows(nearest: Sequence[NearestRow], width: int) -> list[Content]:
    if not nearest:
        return []
    rows = [line(("  Nearest training rows", "$muted"))]
    for near in nearest:
        review = "" if near.reviews else ", not reviewed"
        similarity = cell(f"{near.similarity:.0%} similar{review}", 28 if review else 13, "$muted")
        head = line("  ", cell(f"{near.location.number:,}", 6, "bold"), similarity)
        rows.append(line(head, cell(one_line(near.question), width - head.cell_length - 1)))
    return rows


def progress(view: RunView, arms: Sequence[str], now: float, width: int) -> Content:
    rows: list[Content] = []
    for arm, (done, total) in view.state.arms.items():
        glyph = ("✓ ", "bold $success") if done >= total else ("● ", "bold $primary")
        token = "$primary" if is_tuned(arm) else "$muted"
        figure = f" {done:,} of {plural(total, 'row')}"
        name = cell(one_line(arm), NAME - 2, "bold $primary" if is_tuned(arm) else "")
        filled = bar(done / max(1, total), width - NAME - 3 - len(figure), token)
        rows.append(line("  ", glyph, name, filled, (figure, "$muted")))
    started = view.state.arms
    waiting = [arm for arm in arms if started and arm not in started]
    rows += [line("  ", ("○ ", "$faint"), cell(one_line(arm), NAME - 2, "$muted"), ("waiting", "$faint")) for arm in waiting]
    current = view.state.answering
    is_counted = current is not None and current.kind == HELD_OUT_ROW  # by the bars
    if text := pace_text(view.state).capitalize() if is_counted else answering_text(view.state) or "Loading the model.":
        rows += marked("●", "$primary", text, width)
    if view.status == "quiet":
        rows += marked("!", "$warning", f"No output for {duration(now - view.updated)}. The process is still running.", width)
    return lines(*rows)


def failure(view: RunView, subject: str, width: int) -> Content:
    """Draw the reason why the evaluation of ``subject`` ended without a report, and how to proceed."""
    name = f"The evaluation of {one_line(subject)}"
    if view.status == "stopped":
        hint = paragraph("Its answers are kept: n continues it.", width, "    ", "")
        return lines(*marked("■", "$muted", f"{name} was stopped.", width, "bold"), hint)
    text = f"{name} crashed." if view.status == "crashed" else view.state.error or f"{name} failed."
    log = f"Last output: {view.process_output[-1]}" if view.process_output else f"Log: evals/{view.title}/worker.log"
    return lines(*marked("✗", "$error", text, width, "bold $error"), paragraph(view.state.hint or log, width, "    ", ""))


def empty_state(name: str, arms: Sequence[str], rows: int, is_free: bool, width: int) -> Content:
    """Draw the room before the first evaluation, which can start if the machine ``is_free``.

    ``name`` is the recipe's name; without one, Home is offered.
    """
    about = f"{', '.join(map(one_line, arms))} on {plural(rows, 'held-out row')}" if arms and rows else ""
    action = key("enter", f"evaluate {name}", "screen.evaluate") if is_free else Content.styled("another task is running", "$muted")
    return invitation(width, "No evaluations yet.", action if name else RECIPE_KEY, about=about)


def row_page(loaded: LoadedReport, row: ScoredRow, filter: RowFilter, width: int) -> list[Content]:
    """Draw a whole row: the conversation, every arm's answer with its score, the reference, and similar training rows."""
    rows = message_rows(row.row.prompt, width)
    for arm in (filter.arm, *(other for other in row.answers if other != filter.arm)):
        rows += [line("  ", output) for output in _arm_rows(loaded, row, filter.metric, arm, width - 4)]
        rows += _score_rows(loaded, row, filter.metric, arm, width)
        if thought := row.answers[arm].thought:
            rows.append(line(("    Reasoning", "$muted"), (f"  {plural(row.answers[arm].thought_tokens, 'token')}", "$faint")))
            rows += [Content.styled(f"    {text}", "$muted") for text in wrap(safe_text(thought).expandtabs(4), width - 6)]
            rows.append(Content(""))
    if row.row.reference is not None:
        rows += [line("  ", text) for text in _side_rows("reference", row.row.reference, None, width - 4)]
        rows.append(Content(""))
    if row.nearest:
        rows.append(line(("  Nearest training rows", "bold $muted")))
        rows += [Content(f"  {text}") for near in row.nearest for text in wrap(safe_text(nearest_row_text(near)), width - 4)]
    return rows


def off_task_page(
    result: OffTaskResult, prompts: Sequence[OffTaskPrompt], answers: Mapping[str, Sequence[str]], width: int
) -> list[Content]:
    """Draw every off-task prompt with each arm's answer: broken ones first, then those that both arms fail."""
    rows = [*draw.fact_rows(present.off_task_fact(result), width), Content("")]
    if len(answers) < 2:
        return rows
    results = []
    for prompt, *outputs in zip(prompts, *answers.values(), strict=False):
        results.append((prompt.passes(outputs[-1]), not prompt.passes(outputs[0]), prompt, outputs))
    for after, failed_before, prompt, outputs in sorted(results, key=lambda item: item[:2]):
        label, token = ("", "$muted")
        if after == failed_before:
            label, token = ("fixed  ", "$success") if after else ("broken  ", "$error")
        glyph = ("✓ ", "bold $success") if after else ("✗ ", "bold $error")
        asked = "  with the system prompt" if prompt.with_system else ""
        rows.append(line("  ", glyph, (label, f"bold {token}"), (f"{one_line(prompt.id)}{asked}", "$muted")))
        rows += [Content(f"    {text}") for text in wrap(safe_text(prompt.prompt), width - 6)]
        for arm, output in zip(answers, outputs, strict=True):
            name = cell(one_line(arm), 8, "bold $primary" if is_tuned(arm) else "$muted")
            text_rows = output_rows(output, None, width - 16) or [Content("")]
            rows += [line("    ", " " * 8 if index else name, "  ", text) for index, text in enumerate(text_rows[:4])]
        accepted = line("    ", cell("accepted", 8, "$muted"), "  ", (one_line(expected_answer(prompt)), "$muted"))
        rows += [accepted, Content("")]
    return rows
