"""What was guessed for a first recipe, as a document."""

from mlxtune.data.scaffold import Scaffold
from mlxtune.present.blocks import Document, Fact, Facts
from mlxtune.present.blocks import text as paragraph
from mlxtune.present.check import column_facts


def scaffold_document(guessed: Scaffold, name: str = "") -> Document:
    """Describe a scaffold. ``name`` is the recipe's, if it is known."""
    formats = ", ".join(f"{count:,} {format}" for format, count in guessed.formats.items())
    unreadable = f", {guessed.unreadable:,} cannot be read" if guessed.unreadable else ""
    facts = [Fact("rows", f"{guessed.rows:,} ({formats}){unreadable}"), *column_facts(guessed.columns)]
    facts += [Fact("method", guessed.method), Fact("tokens", f"max_tokens = {guessed.max_tokens:,}", "estimated")]
    contract = None if guessed.only_texts else _contract(guessed, name)
    facts += [Fact("contract", *contract)] if contract else []
    if guessed.correct:
        facts.append(Fact("correct", ", ".join(guessed.correct), "equal to the reference"))
    if guessed.sentences:
        required, offered = guessed.required_sentences, len(guessed.sentences) - guessed.required_sentences
        parts = [f"{required:,} in every answer they apply to"] if required else []
        parts += [f"{offered:,} in some answers, commented out"] if offered else []
        facts.append(Fact("disclaimers", ", ".join(parts)))
    missing = (paragraph("Say what an answer must satisfy in [evaluation].", mark="warning"),) if guessed.needs_contract else ()
    return (Facts(tuple(facts)), *missing)


def _contract(guessed: Scaffold, name: str) -> tuple[str, str] | None:
    if guessed.labels:
        return f"{len(guessed.labels)} labels", ""
    if guessed.schema is not None:
        return f"{name}.schema.json" if name else "a JSON Schema", "from the calls" if guessed.correct == (
            "calls",
        ) else "from the JSON answers"
    if guessed.number_form:
        return f"ends with {guessed.number_form}", ""
    if guessed.correct:
        return None
    measure = "the likelihood of both answers" if guessed.method == "dpo" else "exact match"
    return "the disclaimers" if guessed.required_sentences else "none", f"measured by {measure}"
