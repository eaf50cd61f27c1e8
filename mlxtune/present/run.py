"""A run: its document, its status, its work, its warnings, and its log."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from mlxtune.core.text import duration, one_line, plural, size, speed
from mlxtune.data.template_notes import TemplateNote
from mlxtune.present.blocks import ActionBlock, Block, Document, Fact, Facts, Heading, Mark, Span, Text, text
from mlxtune.present.generation import refusal_title
from mlxtune.present.labels import failure_name, word
from mlxtune.present.words import WORDS, StatusLabel, fill
from mlxtune.runs.events import HELD_OUT_ROW, DataReady, Event, WorkProgress
from mlxtune.runs.registry import Run, RunStatus
from mlxtune.runs.state import RunState, RunWarning, SampleAnswer, Work, earlier_adapter_step


def warning_text(warning: RunWarning) -> str:
    """Return a warning on one line; if its values are not those of its code, as they are."""
    try:
        return one_line(_warning_text(warning))
    except (AttributeError, KeyError, TypeError, ValueError):
        return one_line(f"{warning.code} {warning.values}")


def _warning_text(warning: RunWarning) -> str:
    values: dict[str, Any] = dict(warning.values)
    if warning.code == "export_note":
        from mlxtune.present.export import export_note  # imports the scorers, which the first screen must not wait for

        return export_note(**values)
    if warning.code == "template_note":
        values["sentence"] = TemplateNote(values["note"]).sentence
    return fill(WORDS.warnings[warning.code], values)


# The work of a run


_LONG = 10.0  # seconds after which the time that an arm has taken so far is shown


def work_text(work: tuple[Work, int, int]) -> tuple[str, str]:
    """Return what a run does before or between steps, and the total with its unit."""
    name, _, total = work
    words, one, many = WORDS.work[name]
    return words, plural(total, one, many)


def answering_text(state: RunState) -> str:
    """Return the model's current task in an evaluation or export, with a count; empty if nothing has been reported yet."""
    if (one := state.answering) is None:
        return ""
    verb, noun = WORDS.answering.get(one.kind, ("answers", word(one.kind)))
    purpose = " to find similar rows" if one.kind == "prompt" else ""
    count = f"{one_line(one.arm, 40)} {verb} {one.done:,} of {plural(one.total, noun)}{purpose}"
    return ", ".join(filter(None, [count, pace_text(state)]))


def pace_text(state: RunState) -> str:
    """Return how far the current batch of answers is, and the time left or, if that is unknown, its maximum or the time so far."""
    one, now = state.answering, state.updated
    if one is None or one.done >= one.total:
        return ""
    seconds, elapsed = one.remaining_seconds(now) or 0.0, now - one.started
    longest = one.longest if one.kind == HELD_OUT_ROW else 0
    reading = "reading the prompts" if one.most and one.kind == HELD_OUT_ROW else ""
    tokens = f"the longest of this batch at token {longest:,} of at most {one.most:,}" if longest else reading
    if seconds >= 1:
        time = f"{duration(seconds)} left"
    elif longest and (seconds := one.batch_remaining_seconds(now) or 0.0) >= 1:
        then = f", then {plural(one.waiting, 'more row')}" if one.waiting else ""
        time = f"up to {duration(seconds)} more for the batch{then}"
    else:
        time = f"{duration(elapsed)} so far" if elapsed >= _LONG else ""
    return ", ".join(filter(None, [tokens, time]))


def saved_text(state: RunState) -> str:
    if not state.checkpoints:
        return "no checkpoint yet"
    lost = state.step - state.checkpoints[-1]
    again = f"{plural(lost, 'step')} would run again" if lost > 0 else "nothing is lost"
    return f"checkpoint {state.checkpoints[-1]:,} is intact, {again}"


def status_blocks(status: RunStatus, state: RunState, now: float) -> tuple[Text, ...]:
    """Describe why a training run does not train, how it ended, and what was saved; nothing while it trains."""
    mark, fact, detail, note = _ended(status, state, now)
    if not fact:
        return ()
    spans: tuple[Span, ...] = ((fact, "bold"), (f", {detail}", "muted")) if detail else ((fact, "bold"),)
    return (Text(spans, mark), *([text(note)] if note else []))


def _ended(status: RunStatus, state: RunState, now: float) -> tuple[Mark, str, str, str]:
    """Return the mark, the fact, a detail, and the consequence."""
    saved = saved_text(state)
    match status:
        case "quiet":
            return "warning", f"no events for {duration(now - state.updated)}", "its process is alive", saved
        case "waiting" | "cooling":
            return "warning", WORDS.statuses[status].text, "", saved
        case "crashed":
            return "error", f"crashed at step {state.step:,}", "its process no longer exists", saved
        case "failed":
            step = state.steps[-1] if state.steps else None
            nan = f"the loss is not a number at step {step.step:,}" if step and not math.isfinite(step.loss) else "failed"
            return "error", one_line(state.error) or nan, "", one_line(state.hint) or saved
        case "stopped":
            fact = f"stopped at step {state.step:,} of {state.total:,}" if state.total else "stopped before the first step"
            return "muted", fact, one_line(state.error), saved
        case "finished":
            took = f" in {duration(state.updated - state.started)}" if state.started else ""
            return "success", f"{plural(state.step, 'step')}{took}", validation_text(state), ""
    return "", "", "", ""


def validation_text(state: RunState) -> str:
    """Return the last validation loss, the best one, and the adapter's step if it is an earlier one; empty without validations."""
    best, last = state.best_validation, state.validations[-1] if state.validations else None
    if best is None or last is None:
        return ""
    rank = "the best" if best.step == last.step else f"best {best.loss:.2f} at {best.step:,}"
    earlier = earlier_adapter_step(state.summary)
    kept = f", adapter from step {earlier:,}" if earlier else ""
    return f"validation {last.loss:.2f}, {rank}{kept}"


def run_document(run: Run, state: RunState, status: RunStatus, now: float) -> Document:
    facts = [Fact("kind", run.kind), Fact("base", state.base)]
    blocks: list[Block] = [Heading(run.id, WORDS.statuses[status].text)]
    if run.kind == "train":
        blocks += status_blocks(status, state, now)
        losses = "  ".join(f"{item.loss:.3f} at {item.step:,}" for item in state.validations[-4:])
        facts += [
            Fact("step", f"{state.step:,} of {state.total:,}" if state.total else f"{state.step:,}"),
            *([Fact("validation", losses)] if losses else []),
            Fact("memory", f"peak {size(state.peak)}" if state.peak else "unknown"),
            Fact("checkpoints", f"at step {', '.join(f'{step:,}' for step in state.checkpoints[-3:])}" if state.checkpoints else "none"),
        ]  # fmt: skip
        if state.work and status == "running":
            what, items = work_text(state.work)
            facts.append(Fact("now", f"{what}: {state.work[1]:,} of {items}"))
    elif state.error:
        blocks.append(text(f"{state.error} {state.hint}".strip(), "bold", "error"))
    facts += [Fact("time", duration(state.updated - state.started)), Fact("folder", str(run.folder))]
    if run.kind == "search":
        facts += [Fact(name, str(value)) for name, value in state.summary.items()]
    if status == "crashed":
        facts.append(Fact("log ends", " ".join(run.log_tail(2)), mark="error"))
    resume = ActionBlock("train.resume", "", f"mlxtune runs resume {run.id}")
    return (*blocks, Facts(tuple(facts)), *([resume] if status == "crashed" else []))


def sample_verdict(sample: SampleAnswer) -> StatusLabel:
    label = WORDS.samples[sample.outcome]
    return replace(label, text=fill(label.text, {"limit": sample.limit, "failure": failure_name(sample.failure)}))


# The log


@dataclass(frozen=True, slots=True)
class LogLine:
    t: float
    glyph: str
    style: str
    text: str


def log_line(event: Event) -> LogLine | None:
    """Return the log line for ``event``, or ``None`` for heartbeats and progress."""
    if label := WORDS.log.get(event["type"]):
        return LogLine(event["t"], label.glyph, label.style, fill(label.text, {"step": 0, **event}))
    parts = _training(event) or _search(event) or _answers(event)
    return LogLine(event["t"], *parts) if parts else None


def progress_line(event: WorkProgress) -> LogLine:
    """Return a line about a phase that has not ended: how many pairs, prompts, or batches are done."""
    words, one, many = WORDS.progress[event.get("of", event["type"])]
    return LogLine(event["t"], "·", "faint", f"{words} {event['done']:,} of {plural(event['total'], one, many)}")


_Parts = tuple[str, str, str] | None


def _training(event: Event) -> _Parts:
    match event["type"]:
        case "warning":
            return "!", "warning", warning_text(RunWarning(event["code"], event["values"]))
        case "run.waiting":
            until = "has cooled down" if event["reason"] == "heat" else "is connected to power"
            return "‖", "warning", f"waiting until this machine {until}"
        case "run.finished":
            step = earlier_adapter_step(event["summary"])
            origin = f"; the adapter is from step {step:,}, with the lowest validation loss" if step else ""
            return "✓", "success", f"finished{origin}"
        case "run.stopped":
            reason = one_line(event.get("reason", ""))
            return "■", "warning" if reason else "muted", f"stopped at step {event['step']:,}{f': {reason}' if reason else ''}"
        case "reference" | "replay":
            if event["done"] < event["total"] or "of" in event:
                return None
            words, one, many = WORDS.progress[event["type"]]
            return "·", "faint", f"{words} {plural(event['total'], one, many)}"
        case "data.ready":
            return "·", "faint", _data_text(event)
        case "step":
            loss = "NaN" if event["loss"] is None else f"{event['loss']:.2f}"
            metrics = _metrics_text(event.get("metrics", {}))
            return "·", "faint", f"step {event['step']:,}   loss {loss}{metrics}   {speed(event['speed'])} tokens/s"
        case "validation":
            loss = "NaN" if event["loss"] is None else f"{event['loss']:.3f}"
            return "◆", "second", f"validation at {event['step']:,}: {loss}{_metrics_text(event.get('metrics', {}))}"
    return None


def _data_text(event: DataReady) -> str:
    conversations = event.get("conversations", event["train"])
    source = f" (from {plural(conversations, 'row')})" if conversations < event["train"] else ""
    replayed = f" and {event['replayed']:,} replayed" if event.get("replayed") else ""
    extra = f", {plural(event['truncated'], 'row')} truncated" if event["truncated"] else ""
    extra += f", {plural(event['skipped'], 'row')} skipped" if event.get("skipped") else ""
    extra += "; gradient checkpointing is on to save memory" if event.get("checkpointed") else ""
    return (
        f"{event['train']:,} training{source}{replayed}, {event['valid']:,} validation, {event['test']:,} held-out rows; "
        f"{event['trained']:,} of {event['tokens']:,} tokens per epoch are trained on{extra}"
    )


def _metrics_text(metrics: Mapping[str, float | None]) -> str:
    accuracy, margin, kl = (metrics.get(name) for name in ("rewards/accuracies", "rewards/margins", "kl"))
    parts = [f"reward accuracy {accuracy:.0%}"] if accuracy is not None else []
    parts += [f"reward margin {margin:+.3f}"] if margin is not None else []
    parts += [f"KL {kl:.3f}"] if kl is not None else []
    return "".join(f"   {part}" for part in parts)


def _search(event: Event) -> _Parts:
    from mlxtune.present.search import decision_text, standing_text, values_text  # slow to import, for the first screen

    match event["type"]:
        case "trial.started":
            return "·", "faint", f"trial {event['trial']} trains to step {event['steps']:,}: {values_text(event['values'])}"
        case "trial.scored":
            loss = "" if event["loss"] is None else f", loss {event['loss']:.3f}"
            return "◆", "second", f"trial {event['trial']} after {event['steps']:,} steps: contract {event['rate']:.1%}{loss}"
        case "trial.ended":
            style = "error" if event["status"] == "failed" else "muted"
            reason = event.get("error", "") or (standing_text(event["standing"]) if "standing" in event else "")
            return "×", style, one_line(f"trial {event['trial']} {event['status']}{f': {reason}' if reason else ''}")
        case "search.decided":
            return "✓", "success", decision_text(event["outcome"], event["selected"], len(event["tied"]), event["compared"])
    return None


def _answers(event: Event) -> _Parts:
    match event["type"]:
        case "arm.started":
            return "·", "faint", f"{event['arm']} answers {plural(event['rows'], word(event.get('of', HELD_OUT_ROW)))}"
        case "arm.finished":
            source = "from the cache" if event["cached"] else f"in {event['seconds']:.0f} s"
            return "✓", "success", f"{event['arm']}: {plural(event['rows'], word(event.get('of', 'answer')))} {source}"
        case "fidelity":
            lost = "" if event["lost"] is None else f": {event['lost']:.1%} of the adapter's effect lost"
            glyph, style, label = ("✓", "success", "faithful") if event["faithful"] else ("✗", "error", "not faithful")
            return glyph, style, f"{label}{lost}, {event['same']} of {plural(event['rows'], 'greedy answer')} identical"
        case "rows.proposed":
            refused = ", ".join(f"{count:,} {refusal_title(kind)}" for kind, count in event["refused"].items())
            proposed = f"{plural(event['proposed'], 'row')} proposed for review"
            return "✓", "success", f"{proposed}; rejected: {refused}" if refused else proposed
    return None
