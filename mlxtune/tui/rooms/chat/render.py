"""Draw the Chat room: the empty state, and questions and replies by role."""

from textual.content import Content

from mlxtune.core.errors import MlxtuneError
from mlxtune.core.text import one_line, safe_text
from mlxtune.evaluation.scorers import Score
from mlxtune.present.labels import usage
from mlxtune.tui.paths import base_name
from mlxtune.tui.render.output_text import output_rows
from mlxtune.tui.render.text import error_rows, key, line, lines, paragraph, side_by_side, wrap
from mlxtune.tui.rooms.chat.service import AdapterOption, ChatReply, ChatService
from mlxtune.workspace.index import RunView

MIN_SIDE_BY_SIDE_WIDTH = 60
_PREVIEW = 4  # rows of a text in the empty room


def empty_state(option: AdapterOption | None, base: str, error: MlxtuneError | None, live: RunView | None, width: int) -> Content:
    """Draw the room before a model is loaded. ``option`` is what enter loads, or ``None`` until it is known."""
    if option is None:
        return Content("")
    rows = [*error_rows(error, width), Content("")] if error else []
    rows.append(paragraph("No model loaded.", width, style="bold"))
    if live:
        rows.append(paragraph(f"{live.name} is using this machine.", width, style="$warning"))
    if option.name:
        rows.append(paragraph(f"{one_line(option.name)} is {option.about}.", width))
    rows += [Content(""), *_load_keys(option, base)]
    for question, answer in option.answered:
        rows += [Content(""), *_turn("○", "user", one_line(question), "$muted", width)[:_PREVIEW]]
        rows += _turn("●", one_line(option.name), one_line(answer), "$primary", width, "$muted")[:_PREVIEW]
    return lines(*rows)


def _load_keys(option: AdapterOption, base: str) -> list[Content]:
    keys = [line("  ", key("enter", f"load {one_line(option.name) or base}", "screen.load"))]
    if option.name:
        keys.append(line("  ", key("b", f"load {base} alone", "screen.load_base")))
    return keys


def heading_note(chat: ChatService, with_base: bool) -> Content:
    """Return the note at the right end of the heading: the state of the model, or the conversation's base and mode."""
    match chat.state:
        case "loading":
            return line(("● ", "bold $primary"), "loading")
        case "failed":
            return line(("✗ ", "bold $error"), one_line(chat.error.message, 60) if chat.error else "failed")
        case "ready" if chat.ready:
            parts = [f"on {base_name(chat.ready.base)}" if chat.adapter else one_line(chat.ready.path, 60)]
            parts += ["side by side with the base"] if with_base and chat.adapter else []
            parts += ["with a system prompt"] if chat.session.system else []
            return line(", ".join(parts))
    return line(("■ ", "$muted"), "unloaded")


def transcript(chat: ChatService, option: AdapterOption | None, base: str, width: int) -> list[Content]:
    """Draw the whole conversation and, if no model is loaded, how to go on: ``option`` is what enter loads, once that is known."""
    rows: list[Content] = []
    if chat.session.system:
        rows += [*_turn("◇", "system", chat.session.system, "$muted", width, "$muted"), Content("")]
    for number, exchange in enumerate(chat.exchanges):
        rows += [*_turn("○", "user", one_line(exchange.question, 4000), "$muted", width), Content("")]
        are_two = len(exchange.replies) > 1
        half = (width - 4) // 2 if are_two and width >= MIN_SIDE_BY_SIDE_WIDTH else 0
        replies = [_reply(reply, number > 0 and are_two, half or width) for reply in exchange.replies]
        if half:
            left, right = ([row[2:] for row in reply] for reply in replies)
            rows += [line("  ", row) for row in side_by_side(left, right, half)]
        else:
            rows += [row for reply in replies for row in reply]
        rows.append(Content(""))
    if not chat.exchanges:
        rows.append(paragraph("Ask a question.", width))
    if chat.state in ("idle", "failed") and option is not None:
        rows += error_rows(chat.error, width) if chat.error else []
        rows += [paragraph("No model loaded.", width, style="bold"), *_load_keys(option, base)]
    return rows


def _reply(reply: ChatReply, follows: bool, width: int) -> list[Content]:
    """Draw a reply under its adapter's name, with the reason why it ended. ``follows``: the base, too, has read earlier answers."""
    token, base = "$primary" if reply.adapter else "$muted", "base, having read the answers above" if follows else "base"
    head, *answer = _turn("●", one_line(reply.adapter) or base, reply.text, token, width)
    reasoning = wrap(safe_text(reply.reasoning.rstrip()).expandtabs(4), width - 6) if reply.reasoning else []
    return [head, *(line((f"    {row}", "$muted")) for row in reasoning), *answer, *_ending(reply, width)]


def _turn(glyph: str, role: str, text: str, token: str, width: int, style: str = "") -> list[Content]:
    rows = output_rows(text, None, width - 6) if text else []
    return [line((f"  {glyph} ", f"bold {token}"), (role, token)), *(line("    ", row.stylize_before(style)) for row in rows)]


def _ending(reply: ChatReply, width: int) -> list[Content]:
    if reply.error:
        rows = wrap(reply.error, width - 6)
        return [line((f"    {'  ' if index else '✗ '}{row}", "bold $error")) for index, row in enumerate(rows)]
    if reply.unloaded:
        return [line(("    Stopped: the model was unloaded.", "$muted"))]
    done = reply.done
    if done is None:
        return [line(("    ▏", "$primary"))]
    return [*_contract(reply.score, width), *(line((f"    {row}", "$faint")) for row in wrap(usage(done), width - 6))]


def _contract(score: Score | None, width: int) -> list[Content]:
    if score is None:
        return []
    if score.passed:
        return [line(("    ✓ ", "bold $success"), ("meets the contract", "$muted"))]
    rows = wrap(f"fails the contract: {score.detail}", width - 8)
    return [line(("      " if index else "    ✗ ", "bold $error"), row) for index, row in enumerate(rows)]
