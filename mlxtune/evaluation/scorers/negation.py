"""Detect whether a phrase in a text is negated, quoted or hidden, and therefore not asserted.

The rules are for English text that was folded by ``output_text.fold_typography``; the tests have examples of each.
"""

import re

from rapidfuzz import fuzz

from mlxtune.evaluation.scorers.output_text import normalize

NEGATOR = r"(?:\b(?:not|no|never|none|nobody|neither|nor|cannot|without|hardly)\b|n't\b)"
_NEGATORS = re.compile(NEGATOR)
_REACH = 300  # characters before and after a phrase that may retract it

_SENTENCE_END = re.compile(r"[.!?][\"')\]*_]*\s|\n\n|;\s")
_CLAUSE_END = re.compile(r"[,:()]|\s-+\s|\b(?:but|and|so|because|since|as|although|though|however|yet|while)\b")
_LEAD = r"[\s\"'(*_:,-]*$"  # allowed between retracting words and the phrase
_TRUE = r"(?:true|the case|correct|right|accurate|valid)"
_FALSE = r"(?:false|untrue|wrong|incorrect|inaccurate|a lie|a myth|nonsense|a mistake)"
_SAY = (
    r"(?:say|said|saying|claim|claiming|state|stating|tell|telling|add|adding|include|including|write|writing|repeat|repeating|mention|"
    r"mentioning|think|believe|mean|agree|accept|pretend|assume|call|use|using|give|giving)"
)
_HELP = r"(?:\s+(?:going|to|have|want|even|ever|really|honestly|longer|be|able|here|just|one|should|would|could|can|will|must|i|we|you)){0,4}"
_FILL = (
    r"(?:\s+(?:to|that|it|this|you|the|a|any|words?|sentence|line|phrase|text|disclaimer|note|following|like|anything|say|add|is))*"
)

# Right before the phrase, in the same clause: "this is not", "it is not at all".
_NEAR = re.compile(
    NEGATOR
    + r"(?:\s+(?:a|an|the|any|just|merely|simply|really|exactly|strictly|at|all|in|way|considered|meant|as|to|be|that|is|this))*"
    + _LEAD
)
# A denial that ends before the phrase, which then corrects what was denied: "that was wrong: …", "I never said it was: …".
_CLOSED = re.compile(
    rf"(?:\b(?<!far from )(?:that|it|so|anything|like|think|believe|mean|agree|accept|assume)|\b{_TRUE}|\b{_FALSE}"
    rf"|\bsaid\s+(?:that\s+)?(?:it|this|that)\s+(?:is|was))[\"')*_]*\s*[,:(-]{_LEAD}"
)
# Unless its subject points ahead: "this is false: …", "the following is not true: …".
_POINTS_AHEAD = re.compile(
    rf"\b(?:this|(?:the )?(?:following|next)(?: \w+)?|what follows) is (?:\w+ )?(?:not {_TRUE}|{_FALSE})[\"')*_]*\s*:{_LEAD}"
)
# Before it, in the same sentence: "it is not true that", "I will not say:", "ignore the line".
_RETRACTED = re.compile(
    rf"{NEGATOR}(?:\s+\w+){{0,3}}?\s+{_TRUE}{_FILL}{_LEAD}"
    rf"|\b{_FALSE}{_FILL}{_LEAD}"
    rf"|\b(?:far from it|contrary to [\w' ]+){_LEAD}|\b(?:if|unless){_FILL}{_LEAD}"
    rf"|\b(?:asked|told|instructed|supposed|wanted|meant)\s+(?:me\s+)?to\s+\w+{_FILL}(?:\s+(?:with|by|on))?{_LEAD}"
    rf"|{NEGATOR}{_HELP}\s+{_SAY}{_FILL}{_LEAD}"
    rf"|{NEGATOR}\s+need\s+(?:the|this|any|a|to)\b{_FILL}{_LEAD}"
    rf"|\b(?:instead of|rather than|refus\w+|declin\w+|stop)\s+(?:to\s+)?(?:{_SAY}{_FILL})?{_LEAD}"
)
_DISMISSED = re.compile(
    rf"\b(?:ignore|disregard|forget|skip|omit|drop|delete|remove)\b(?:\s+(?:about|all|every|old))?{_FILL}{_LEAD}"
)
# Right after it: "… is not true", "… does not apply here", "… That is a lie", "… Just kidding".
_AFTERWARDS = re.compile(
    r"[.!\"'*_)\s,(-]*(?:(?:actually|well|sorry|in fact|or rather|oh|no|wait)[\s,]+)*(?:"
    r"(?:(?:and|but|which|that|this|it|the above)\s+)*(?:"
    rf"(?:that's|it's|is|was)\s+(?:(?:simply|just|really|clearly|of course)\s+)?(?:{_FALSE}|(?:not|no longer)\s+(?:really\s+)?{_TRUE})"
    rf"|(?:isn't|wasn't)\s+(?:really\s+)?{_TRUE}"
    r"|(?:does not|doesn't|do not|don't|did not|didn't|no longer|never)\s+(?:apply|applies|hold|holds|count|counts)"
    r")(?:\s+(?:here|now|today|to you|in your case))?(?=[\s\"')*_]*(?:[.!?,;-]|$))"
    r"|just kidding|only joking|not really\b|not!|not\.\s*$|(?:please\s+)?(?:ignore|disregard|forget) (?:that|this|it)\b|scratch that|strike that"
    r")"
)
_PLAIN_QUOTE = re.compile(r'(?:(?<=[\s(\[:,;*_-])|^)"(?=\S)(?:(?!\n\n)[^"])+"(?!\w)')
_ESCAPED_QUOTE = re.compile(r'\\"(?:(?!\n\n)[^"\\])+\\"')
_SINGLE_QUOTE = re.compile(r"(?:(?<=[\s(\[:,;*_\"-])|^)'(?=\S)(?:(?!\n\n)[^'\"]|(?<=\w)'(?=\w))+'(?!\w)")
# An instruction from the prompt, copied along with the phrase: "begin every safety reply with: …".
_INSTRUCTION = re.compile(
    r"\b(?:begin|start|open|end|finish|close|add|append|include|say|write|state|use|put|reply|answer|respond)\b"
)
_JSON_NAME = re.compile(r'[{\[,]\s*"[^"\n]{0,80}"\s*:')


def discount_reason(before: str, phrase: str, after: str, prompt: str) -> str:
    """Return why an occurrence of ``phrase`` does not count: ``negated``, ``quoted``, ``hidden`` (in a comment, struck out), or ``""``.

    ``before`` and ``after`` are the text around it. With a ``prompt``, text in quotation marks is a quotation only if the prompt
    contains it; without one, it always is.
    """
    if before.rfind("<!--") > before.rfind("-->") or (before.count("~~") % 2 and "~~" in after):
        return "hidden"
    if _quoted(before, phrase, after, prompt):
        return "quoted"
    sentence = _SENTENCE_END.split(before[-_REACH:])[-1]
    retracted = _RETRACTED.search(sentence) and (_POINTS_AHEAD.search(sentence) or not _CLOSED.search(sentence))
    if retracted or _NEAR.search(_CLAUSE_END.split(sentence)[-1]) or _AFTERWARDS.match(after[:_REACH]):
        return "negated"
    dismissed = _DISMISSED.search(sentence)
    if dismissed and not _NEGATORS.search(sentence[: dismissed.start()]):  # "do not forget: …" dismisses nothing
        return "negated"
    return ""


def negation_words(text: str) -> list[str]:
    """Return the negations in ``text``, in order; "isn't" counts as "is not"."""
    return [
        "no" if word[0] in ("no", "none") else "not" if word[0] in ("not", "n't", "cannot") else word[0]
        for word in _NEGATORS.finditer(text)
    ]


def _quoted(before: str, phrase: str, after: str, prompt: str) -> bool:
    text, start, end = before + phrase + after, len(before), len(before) + len(phrase)
    patterns = (_ESCAPED_QUOTE,) if _JSON_NAME.search(text) else (_PLAIN_QUOTE, _SINGLE_QUOTE)
    marked = any(span.start() < start and end < span.end() for pattern in patterns for span in pattern.finditer(text))
    if not prompt:
        return marked
    prompt, phrase = normalize(prompt), normalize(phrase)
    if marked or before.rsplit("\n", 1)[-1].lstrip().startswith(">"):
        return len(phrase) <= len(prompt) and fuzz.partial_ratio(phrase, prompt) >= 90
    lead = normalize(_SENTENCE_END.split(before[-_REACH:])[-1])
    return bool(_INSTRUCTION.search(lead)) and f"{lead} {phrase}" in prompt
