"""Text of the Review room: a row's parts, and its progress, contract, findings, tags and origin."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from textual.content import Content

from mlxtune.core.errors import DataError
from mlxtune.core.text import duration, one_line, safe_text
from mlxtune.data.browser import SourceBrowser
from mlxtune.data.checks.base import Finding
from mlxtune.data.checks.check_input import rewrite_texts, scored_answer, text_parts
from mlxtune.data.checks.registry import get_check
from mlxtune.data.generate.lineage import KEY, lineage_of
from mlxtune.data.rows import Conversation, Row, RowError
from mlxtune.evaluation.contract import Contract
from mlxtune.evaluation.scorers import ModelAnswer, Score
from mlxtune.evaluation.scorers.disclaimer import add_missing_disclaimers
from mlxtune.evaluation.scorers.registry import metric_label
from mlxtune.planning.masks import TurnTokens
from mlxtune.present.check import SEVERITY_STYLES, finding_text
from mlxtune.tui.render.bars import bar
from mlxtune.tui.render.output_text import content_rows, difference_styles, styled_rows, word_diff
from mlxtune.tui.render.source import role_glyph
from mlxtune.tui.render.text import cell, clickable, justify, key, line, lines, marked, paragraph, side_by_side
from mlxtune.tui.widgets import Lines

SIDES = ("chosen", "rejected")
_MAX_SOURCE = 24  # characters of a file's name and the row's place in it, which fit on one line


@dataclass(frozen=True)
class RowPart:
    """One turn, or one answer in a pair. ``name`` is the core's name for it; ``text`` is not yet safe to display."""

    name: str
    role: str
    text: str
    trains: bool
    calls: tuple[str, ...] = ()


def parts_of(row: Row) -> tuple[RowPart, ...]:
    """Return the parts of ``row``; the two answers of a pair come last."""
    turns = row.messages if isinstance(row, Conversation) else ()
    result = []
    for index, part in enumerate(text_parts(row)):
        calls = _tool_calls(turns[index].extra.get("tool_calls")) if turns else ()
        trains = part.trains or part.name in ("completion", *SIDES)
        result.append(RowPart(part.name, part.name if part.name in SIDES else part.role, part.text, trains, calls))
    return tuple(result)


def _tool_calls(value: object) -> tuple[str, ...]:
    functions = [call.get("function", {}) for call in value] if isinstance(value, list) else []
    return tuple(
        one_line(f"{function.get('name', '')}({json.dumps(function.get('arguments', {}), ensure_ascii=False)})", 2000)
        for function in functions
    )


def check_contract(contract: Contract, row: Row) -> dict[str, Score]:
    """Score the row's answer on the required metrics of ``contract``. Empty if the row has no answer it applies to."""
    part, text = scored_answer(row)
    scores = contract.score(ModelAnswer(text, reference=text)) if part else {}
    return {metric.name: scores[metric.name] for metric in contract.metrics if metric.required and metric.name in scores}


def add_disclaimers(contract: Contract, row: Row) -> Row | None:
    """Return ``row`` with its missing disclaimers added, or ``None`` if its answer lacks none."""
    part, text = scored_answer(row)
    fixed = add_missing_disclaimers(text, contract.section.disclaimers) if part else None
    return None if fixed is None else rewrite_texts(row, lambda name, current: fixed if name == part else current)


def origin(browser: SourceBrowser, index: int, row: Row | None) -> list[tuple[str, str]]:
    decision = browser.decision(index)
    location = browser.records.location(index)
    facts = [("source", f"{one_line(location.file.name, _MAX_SOURCE - len(location.place))}, {location.place}")]
    if split := browser.split(index):
        facts.append(("split", split))
    if similar := [finding.rows[1] for finding in browser.findings(index) if len(finding.rows) > 1]:
        facts.append(("similar", ", ".join(dict.fromkeys(f"row {other + 1:,}" for other in similar[:3]))))
    if row is not None:
        facts += _lineage_facts(row)
        meta = [(name, value) for name, value in row.meta.items() if name not in ("tags", "tag", KEY)]
        facts += [(one_line(str(name), 8), one_line(str(value), 60)) for name, value in meta[:3]]
    facts.append(("edited", "yes" if decision.record is not None else "no"))
    if decision.note:
        facts.append(("note", one_line(decision.note, 200)))
    if decision.is_disputed:
        facts.append(("disputed", ", ".join(f"{one_line(name, 20)} {status}" for name, status in decision.by)))
    if (step := browser.last_step(index)) and (not browser.annotator or step.who == browser.annotator):
        reason = f", {one_line(step.reason, 200)}" if step.reason else ""
        facts.append((step.action, f"by {one_line(step.who, 20)}, {format_time(step.t)}{reason}"))
    return facts


def _lineage_facts(row: Row) -> list[tuple[str, str]]:
    lineage = lineage_of(row)
    if lineage is None:
        return []
    facts = [("written", f"by {one_line(lineage.teacher, 60)}{f' at {one_line(lineage.host, 40)}' if lineage.host else ''}")]
    if lineage.source:
        facts.append(("quotes", f"{one_line(lineage.source.file, 40)}: “{one_line(lineage.source.quote, 160)}”"))
    if lineage.flaw:
        facts.append(("flaw", one_line(lineage.flaw, 40)))
    if lineage.scores:
        facts.append(("scores", ", ".join(f"{one_line(name, 20)} {value:.2f}" for name, value in lineage.scores.items())))
    return facts


def format_time(seconds: float) -> str:
    """Format a timestamp as a time of day, with the date unless it is today."""
    moment = time.localtime(seconds)
    today = time.strftime("%Y-%m-%d", moment) == time.strftime("%Y-%m-%d")
    return time.strftime("%H:%M" if today else "%b %d, %Y, %H:%M", moment)


_MAX_CHARACTERS = 20_000  # maximum number of characters shown of one part
_TOKEN_WASH = ("$trained-alt", "$trained")
Turns = Sequence[TurnTokens] | None  # the tokens of each part, if they are known

# The row


def invalid_row(error: DataError, width: int) -> list[Content]:
    why = error.reason if isinstance(error, RowError) else error.message
    names = (("e", "edit", "screen.edit"), ("x", "reject", "screen.decide('reject')"), ("→", "next row", "screen.go(1)"))
    rows = [
        *marked("✗", "$error", f"Invalid row: {one_line(why)}", width),
        paragraph(one_line(error.hint), width, "    "),
        Content(""),
    ]
    if isinstance(error, RowError):
        before, fault = error.raw[: error.at or 0], error.raw[error.at : error.at + 1] if error.at is not None else b""
        parts = [part.decode(errors="replace")[:_MAX_CHARACTERS] for part in (before, fault, error.raw[len(before) + len(fault) :])]
        text = line(
            *((safe_text(part).expandtabs(4), style) for part, style in zip(parts, ("", "$span-ink on $span", ""), strict=True))
        )
        rows += [*(line("    ", row) for row in _wrapped(text, width - 5)), Content("")]
    keys = line("    ", *(part for name in names for part in (key(*name), "   ")))
    return lines(*rows, keys).split("\n", allow_blank=True)


def conversation(parts: Sequence[RowPart], turns: Turns, window: int, width: int, cursor: int, air: bool) -> Lines:
    """Return the parts from top to bottom. ``turns`` holds their tokens, if known; ``air`` adds an empty line between parts."""
    rows: list[Content] = []
    starts = []
    for index, part in enumerate(parts):
        turn = turns[index] if turns and index < len(turns) else None
        starts.append(len(rows))
        rows.append(_part_head(part, turn, width, index == cursor))
        rows += _part_body(part, turn, window, width)
        rows += [Content("")] if air and index < len(parts) - 1 else []
    return rows, starts


def above_editor(parts: Sequence[RowPart], turns: Turns, edited: RowPart, window: int, width: int, air: bool) -> Lines:
    """Return the parts before ``edited``, which the editor shows below them. In a pair, the other answer comes before it."""
    position = next((index for index, part in enumerate(parts) if part.name == edited.name), 0)
    in_pair = edited.name in SIDES
    before = [at for at, part in enumerate(parts) if at < position or (in_pair and part.name in SIDES and at != position)]
    known = [turns[index] for index in before] if turns and len(turns) == len(parts) else None
    rows, _ = conversation([parts[index] for index in before], known, window, width, -1, air)
    rows += [Content("")] if air and rows else []
    return [*rows, _part_head(edited, None, width, True)], [len(rows)]


def pair(parts: Sequence[RowPart], turns: Turns, width: int, cursor: int, air: bool, swapped: bool) -> Lines:
    """Return the prompt and, below it, both answers side by side with their differences underlined."""
    *prompt, chosen, rejected = parts
    rows, starts = conversation(prompt, turns, 0, width, cursor, air)
    rows += [Content("")] if air else []
    half = (width - 2) // 2
    words = word_diff(chosen.text[:_MAX_CHARACTERS], rejected.text[:_MAX_CHARACTERS])
    sides = []
    for index, (part, own_words) in enumerate(zip((chosen, rejected), words, strict=True), len(prompt)):
        turn = turns[index] if turns and index < len(turns) else None
        key_name = "d" if (part is rejected) != swapped else "a"
        body = styled_rows("".join(text for text, _ in own_words), difference_styles(own_words), half - 5)
        head = _side_head(part, turn, half, index == cursor, key_name)
        sides.append([head, *(line(("  ┃ ", "$primary"), row) for row in body)])
    starts += [len(rows)] * 2
    left, right = sides[::-1] if swapped else sides
    return rows + side_by_side(left, right, half), starts


def _part_head(part: RowPart, turn: TurnTokens | None, width: int, under_cursor: bool) -> Content:
    glyph, style = role_glyph(part.role)
    role = line(("▌ " if under_cursor else "  ", "$primary"), (f"{glyph} ", style), (part.role, f"bold {style}"))
    return justify(width, role, line((_trained(part, turn), "$primary" if part.trains else "$faint")))


def _trained(part: RowPart, turn: TurnTokens | None) -> str:
    """Return ``trained, 62 of 68`` or ``not trained, 20``, with the numbers of tokens if they are known."""
    if not part.trains:
        return f"not trained, {turn.tokens:,}" if turn else "not trained"
    return f"trained, {turn.trained:,} of {turn.tokens:,}" if turn else "trained"


def _part_body(part: RowPart, turn: TurnTokens | None, window: int, width: int) -> list[Content]:
    """Return the text. Trained text has a bar before it and a background that alternates by token."""
    text = part.text[:_MAX_CHARACTERS]
    rows: list[Content] = []
    if not part.trains:
        rows += [line("    ", row) for row in _wrapped(Content(safe_text(text).expandtabs(4)), width - 5)]
    else:
        end = turn.truncated_at if turn and turn.truncated_at is not None else len(text)
        inside, outside = text[:end], text[end:]
        pieces = turn.pieces(inside) if turn and turn.cuts else [inside]
        washes = ((piece, f"$foreground on {_TOKEN_WASH[index % 2]}") for index, piece in enumerate(pieces) if piece)
        lead = [(safe_text(turn.lead).expandtabs(4), f"$primary on {_TOKEN_WASH[1]}")] if turn and turn.lead else []
        washed = line(*lead, *((safe_text(piece).expandtabs(4), style) for piece, style in washes))
        if turn and turn.stop and not outside:
            washed = line(washed, (safe_text(turn.stop), f"$primary on {_TOKEN_WASH[len(pieces) % 2]}"))
        rows += [line(("  ┃ ", "$primary"), row) for row in _wrapped(washed, width - 5)]
        if outside:
            rows += marked("!", "$warning", f"Limit of {window:,} tokens: the rest is not trained on.", width, "$warning")
            rows += [line("    ", row) for row in _wrapped(line((safe_text(outside).expandtabs(4), "$faint")), width - 5)]
    rows += [line(("    calls ", "$muted"), row) for call in part.calls for row in _wrapped(Content(call), width - 11)]
    if len(part.text) > _MAX_CHARACTERS:
        rows.append(line((f"    … {len(part.text) - _MAX_CHARACTERS:,} more characters", "$faint")))
    return rows


def _side_head(part: RowPart, turn: TurnTokens | None, width: int, under_cursor: bool, key_name: str) -> Content:
    glyph = (f"{'▌ ' if under_cursor else '  '}{role_glyph(part.role)[0]} ", "$primary")
    name = line(glyph, (part.role, "bold $primary"), "  ", (key_name, "bold $primary"), (" better", "$muted"))
    return justify(width, name, line((_trained(part, turn) if part.trains else "", "$faint")))


def _wrapped(text: Content, width: int) -> list[Content]:
    if text.plain.lstrip().startswith("{"):
        return content_rows(text, width)
    return text.wrap(max(width, 1)) or [Content("")]


# Around the row


def progress(decided: int, total: int, seconds_per_row: float | None, position: str, width: int) -> Content:
    left = line((f"  {decided:,}", "bold"), (f" of {total:,} decided  ", "$muted"))
    rest = total - decided
    estimate = f", about {duration(rest * seconds_per_row)}" if seconds_per_row and rest > 1 else ""
    outlook = f"{rest:,} left{estimate}" if rest else "all decided"
    right = line((f"  {position}   " if position else "  ", "$muted"), (outlook, "$muted" if rest else "$success"))
    room = width - left.cell_length - right.cell_length
    if room < 8:
        right, room = line(("  " + outlook, "$muted")), width - left.cell_length - len(outlook) - 2
    return line(left, bar(decided / total if total else 0.0, room), right)


def contract(checks: Mapping[str, Score], why: str, width: int, add_key: Content | None = None) -> Content:
    """Return every metric in the contract with its result, or ``why`` there is none. ``add_key`` adds a missing disclaimer."""
    if not checks:
        return paragraph(why, width)
    rows: list[Content] = []
    for metric, score in checks.items():
        glyph = ("✓", "bold $success") if score.passed else ("✗", "bold $error")
        rows.append(line("  ", glyph, "  ", cell(metric_label(metric), width - 5, "" if score.passed else "bold").rstrip()))
        if not score.passed:
            rows.append(paragraph(one_line(score.detail), width, "     "))
            if add_key and metric.startswith("disclaimer"):
                rows.append(line("     ", add_key))
    return lines(*rows)


def contract_line(checks: Mapping[str, Score], width: int, add_key: Content | None = None) -> Content:
    if not checks:
        return line("  ", key("g", "contract, tags and origin", "screen.details", "$muted"))
    failed = [(metric, score) for metric, score in checks.items() if not score.passed]
    score = f"{len(checks) - len(failed)} of {len(checks)} pass"
    more = line("   ", add_key or "", "   " if add_key else "", key("g", "contract", "screen.details", "$muted"))
    if not failed:
        return line(("  ✓ ", "bold $success"), "contract passes", (f"  {score}", "$muted"), more)
    reason = f"{metric_label(failed[0][0])}: {one_line(failed[0][1].detail)}"
    reason_cell = cell(reason, min(width - 6 - len(score) - more.cell_length, len(reason)), "bold")
    return line(("  ✗ ", "bold $error"), reason_cell, (f"  {score}", "$muted"), more)


def findings(found: Sequence[Finding], width: int) -> Content:
    rows = []
    for finding in found:
        sentence = paragraph(finding_text(finding), width - 3, "     ", "")
        rows.append(line("  ", (get_check(finding.check).glyph, f"bold ${SEVERITY_STYLES[finding.severity]}"), "  ", sentence[5:]))
    return lines(*rows)


def tags(known: Sequence[str], own: Sequence[str], width: int) -> Content:
    """Return the tags that digits toggle, in two columns. The row's own tags have a bar before them."""
    cells = []
    for number, tag in enumerate(known, 1):
        has = tag in own
        name = cell(one_line(tag, 30), (width - 2) // 2 - 5, "bold" if has else "$muted")
        item = line(("▌" if has else " ", "$primary"), " ", (str(number), "bold $primary"), " ", name)
        cells.append(clickable(item, f"screen.digit({number})"))
    if not cells:
        return line("  ", key("t", "add a tag", "screen.tag", "$muted"))
    return lines(*(line(*cells[start : start + 2]) for start in range(0, len(cells), 2)))
