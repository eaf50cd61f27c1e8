"""Events in words: the one place where the log lines of the terminal and of the app are written."""

from __future__ import annotations

from dataclasses import dataclass

from mlxtune.core.text import one_line, plural, size
from mlxtune.runs.events import Event
from mlxtune.runs.state import HELD_OUT


@dataclass(frozen=True)
class Line:
    """A line of the log: when, a glyph of the visual language, its colour token, and a sentence."""

    t: float
    mark: str
    token: str
    text: str


def narrate(event: Event) -> Line | None:
    """What a reader should see of ``event``; ``None`` for heartbeats and progress."""
    told = _tell(event)
    return Line(event["t"], *told) if told else None


def _tell(event: Event) -> tuple[str, str, str] | None:
    match event["type"]:
        case "run.started":
            return "●", "primary", f"{event['name']} started on {event['base']}"
        case "run.resumed":
            return "●", "primary", f"resumed from checkpoint {event['step']}"
        case "model.loaded":
            return "·", "faint", f"{event['base']} loaded in {event['seconds']:.1f} s: {event['path']}"
        case "reference":
            if event["done"] < event["total"]:
                return None
            return "·", "faint", f"the reference model scored {plural(event['total'], 'pair')}"
        case "data.ready":
            cut = f", {plural(event['truncated'], 'row')} cut" if event["truncated"] else ""
            cut += f", {plural(event['skipped'], 'row')} left out" if event.get("skipped") else ""
            again = "; layers are computed again for the backward pass, to fit" if event.get("checkpointed") else ""
            return "·", "faint", (
                f"{event['train']:,} train, {event['valid']:,} validation, {event['test']:,} held-out rows; "
                f"{event['trained']:,} of {event['tokens']:,} tokens train{cut}{again}"
            )  # fmt: skip
        case "step":
            loss = "not a number" if event["loss"] is None else f"{event['loss']:.2f}"
            return "·", "faint", f"step {event['step']:,}   loss {loss}{_preferred(event)}   {event['speed']:,.0f} tokens/s"
        case "validation":
            loss = "not a number" if event["loss"] is None else f"{event['loss']:.3f}"
            return "◆", "second", f"validation at {event['step']:,}: {loss}{_preferred(event)}"
        case "checkpoint":
            return "▾", "primary", f"checkpoint {event['step']:07d} saved in {event['seconds']:.1f} s"
        case "arm.started":
            return "·", "faint", f"{event['arm']} answers {plural(event['rows'], event.get('of', HELD_OUT))}"
        case "arm.finished":
            how = "from the cache" if event["cached"] else f"in {event['seconds']:.0f} s"
            return "✓", "success", f"{event['arm']}: {plural(event['rows'], event.get('of', 'answer'))} {how}"
        case "export.written":
            return (
                "·",
                "faint",
                f"{event['form']} written: {size(event['bytes'])} in {event['seconds']:.0f} s; it is read again from there",
            )
        case "fidelity":
            mark = ("✓", "success") if event["faithful"] else ("✗", "error")
            return *mark, one_line(event["text"])
        case "warning":
            return "!", "warning", one_line(event["text"])
        case "run.finished":
            return "✓", "success", "finished"
        case "run.stopped":
            reason = one_line(event.get("reason", ""))
            return "■", "warning" if reason else "muted", f"stopped at step {event['step']:,}{f': {reason}' if reason else ''}"
        case "run.failed":
            return "✗", "error", one_line(f"{event['error']} {event['mend']}".strip())
    return None


def _preferred(event: Event) -> str:
    """What preference training watches beside the loss."""
    found = event.get("metrics", {})
    accuracy, margin, kl = (found.get(name) for name in ("rewards/accuracies", "rewards/margins", "kl"))
    shown = [f"accuracy {100 * accuracy:.0f} %"] if accuracy is not None else []
    shown += [f"margin {margin:+.3f}"] if margin is not None else []
    shown += [f"KL {kl:.3f}"] if kl is not None else []
    return "".join(f"   {item}" for item in shown)
