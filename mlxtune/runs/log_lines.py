"""Log lines that describe events in the terminal and in the app."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mlxtune.core.text import one_line, plural, size, speed
from mlxtune.runs.events import Event, ReferenceProgress, ReplayProgress, ValidationProgress
from mlxtune.runs.state import HELD_OUT_ROW, earlier_adapter_step


@dataclass(frozen=True, slots=True)
class LogLine:
    """A time, a glyph with its style, and a sentence."""

    t: float
    glyph: str
    style: str
    text: str


def describe(event: Event) -> LogLine | None:
    """Return the log line for ``event``, or ``None`` for heartbeats and progress."""
    parts = _describe(event)
    return LogLine(event["t"], *parts) if parts else None


_PROGRESS = {  # what was done, one of them, and several, by the type of an event
    "reference": ("the reference model scored", "pair", "pairs"),
    "replay": ("the base answered", "replay prompt", "replay prompts"),
    "validating": ("validated", "batch", "batches"),
}


def describe_progress(event: ReferenceProgress | ReplayProgress | ValidationProgress) -> LogLine:
    """Return a line about a phase that has not ended: how many pairs, prompts, or batches are done."""
    text, one, many = _PROGRESS[event["type"]] if "of" not in event else ("the reference model read", "pair", "validation pairs")
    return LogLine(event["t"], "·", "faint", f"{text} {event['done']:,} of {plural(event['total'], one, many)}")


def _describe(event: Event) -> tuple[str, str, str] | None:
    match event["type"]:
        case "run.started":
            return "●", "primary", f"{event['name']} started on {event['base']}"
        case "run.resumed":
            return "●", "primary", f"resumed from checkpoint {event['step']}"
        case "model.loaded":
            return "·", "faint", f"{event['base']} loaded in {event['seconds']:.1f} s: {event['path']}"
        case "reference":
            if event["done"] < event["total"] or "of" in event:
                return None
            return "·", "faint", f"the reference model scored {plural(event['total'], 'pair')}"
        case "replay":
            if event["done"] < event["total"]:
                return None
            return "·", "faint", f"the base answered {plural(event['total'], 'replay prompt')}"
        case "data.ready":
            conversations = event.get("conversations", event["train"])
            source = f" (answers of {plural(conversations, 'conversation')})" if conversations < event["train"] else ""
            replayed = f" and {event['replayed']:,} replayed" if event.get("replayed") else ""
            extra = f", {plural(event['truncated'], 'row')} truncated" if event["truncated"] else ""
            extra += f", {plural(event['skipped'], 'row')} skipped" if event.get("skipped") else ""
            extra += "; gradient checkpointing is on to save memory" if event.get("checkpointed") else ""
            return "·", "faint", (
                f"{event['train']:,} training{source}{replayed}, {event['valid']:,} validation, {event['test']:,} held-out rows; "
                f"{event['trained']:,} of {event['tokens']:,} tokens per epoch are trained on{extra}"
            )  # fmt: skip
        case "step":
            loss = "NaN" if event["loss"] is None else f"{event['loss']:.2f}"
            metrics = _metrics(event.get("metrics", {}))
            return "·", "faint", f"step {event['step']:,}   loss {loss}{metrics}   {speed(event['speed'])} tokens/s"
        case "validation":
            loss = "NaN" if event["loss"] is None else f"{event['loss']:.3f}"
            return "◆", "second", f"validation at {event['step']:,}: {loss}{_metrics(event.get('metrics', {}))}"
        case "sampling":
            return "·", "faint", f"generating {plural(event['rows'], 'sample answer')}"
        case "checkpoint":
            return "▾", "primary", f"checkpoint {event['step']:07d} saved in {event['seconds']:.1f} s"
        case "arm.started":
            return "·", "faint", f"{event['arm']} answers {plural(event['rows'], event.get('of', HELD_OUT_ROW))}"
        case "arm.finished":
            source = "from the cache" if event["cached"] else f"in {event['seconds']:.0f} s"
            return "✓", "success", f"{event['arm']}: {plural(event['rows'], event.get('of', 'answer'))} {source}"
        case "export.written":
            text = f"{event['form']} written: {size(event['bytes'])} in {event['seconds']:.0f} s; checking it"
            return "·", "faint", text
        case "fidelity":
            return ("✓", "success", one_line(event["text"])) if event["faithful"] else ("✗", "error", one_line(event["text"]))
        case "search.planned":
            rungs = ", ".join(f"{steps:,}" for steps in event["rungs"])
            return "·", "faint", (
                f"{plural(event['trials'], 'trial')} compared on {plural(event['rows'], 'validation row')} after {rungs} steps"
            )  # fmt: skip
        case "trial.started":
            return "·", "faint", f"trial {event['trial']} trains to step {event['steps']:,}: {event['values']}"
        case "trial.scored":
            loss = "" if event["loss"] is None else f", loss {event['loss']:.3f}"
            return "◆", "second", f"trial {event['trial']} after {event['steps']:,} steps: contract {event['rate']:.1%}{loss}"
        case "trial.ended":
            style = "error" if event["status"] == "failed" else "muted"
            return "×", style, one_line(f"trial {event['trial']} {event['status']}: {event['reason']}")
        case "search.decided":
            return "✓", "success", one_line(event["text"])
        case "rows.proposed":
            refused = ", ".join(f"{count:,} {one_line(kind, 60)}" for kind, count in event["refused"].items())
            return (
                "✓",
                "success",
                f"{plural(event['proposed'], 'row')} proposed for review{f'; rejected: {refused}' if refused else ''}",
            )
        case "warning":
            return "!", "warning", one_line(event["text"])
        case "run.waiting":
            until = "has cooled down" if event["reason"] == "heat" else "is connected to power"
            return "‖", "warning", f"waiting until this machine {until}"
        case "run.continued":
            return "●", "primary", "continued"
        case "run.restarting":
            return "!", "warning", one_line(f"{event['error']} Resuming from the newest checkpoint with smaller GPU commands.")
        case "sleep.prevented":
            return "·", "faint", "the Mac stays awake as long as this runs"
        case "run.finished":
            step = earlier_adapter_step(event.get("summary", {}))
            origin = f"; the adapter is from step {step:,}, with the lowest validation loss" if step else ""
            return "✓", "success", f"finished{origin}"
        case "run.stopped":
            reason = one_line(event.get("reason", ""))
            return "■", "warning" if reason else "muted", f"stopped at step {event['step']:,}{f': {reason}' if reason else ''}"
        case "run.failed":
            hint = event.get("hint", event.get("mend", ""))  # runs from old versions have mend
            return "✗", "error", one_line(f"{event['error']} {hint}".strip())
    return None


def _metrics(metrics: Mapping[str, float | None]) -> str:
    """Return the preference training metrics to show next to the loss."""
    accuracy, margin, kl = (metrics.get(name) for name in ("rewards/accuracies", "rewards/margins", "kl"))
    parts = [f"reward accuracy {accuracy:.0%}"] if accuracy is not None else []
    parts += [f"reward margin {margin:+.3f}"] if margin is not None else []
    parts += [f"KL {kl:.3f}"] if kl is not None else []
    return "".join(f"   {part}" for part in parts)
