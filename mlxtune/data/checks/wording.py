"""Find wording that the model should not learn: refusals, chatbot boilerplate, loops, and unfilled placeholders."""

import itertools
import operator
import re
from collections.abc import Iterator

from mlxtune.core.files import read_patterns
from mlxtune.core.text import one_line
from mlxtune.data.checks.base import BY_HAND, DROP, Check, CheckFamily, Evidence, Hit, Span, contains_any
from mlxtune.data.checks.check_input import CheckInput
from mlxtune.data.checks.illustration import FENCE

family = CheckFamily()

_PATTERNS = read_patterns(__package__, "wording.toml")
_BEGINNING = 250  # characters
_ABOUT_IDENTITY = re.compile(  # a prompt that asks what the assistant is may be answered
    r"(?i)\b(?:(?:who|what)(?:['’]s| is| are| was) (?:you|your)|wh(?:o|at) you(?: are|['’]re)(?! \w+ing)|are you|were you|do you|your (?:name|model|creator|maker|training)|yourself"
    r"|(?:made|created|built|trained|developed|designed|programmed|taught|owns?|about|call) you|human|robot|chat ?bot|GPT|AI|artificial|language model)\b"
)
# Every match contains one of these words. Most answers contain none, which is cheap to check.
_DECLINE_WORDS = (
    "declin", "refus", "refrain", "pass on", "rather not", "not to", "turn", "able", "not ", "n't", "n’t", "lack", "approp", "ethic", "wrong",
    "irresp", "outside", "beyond", "against", "violat", "my ", "nothing",
)  # fmt: skip
_APOLOGY_WORDS = ("sorry", "apolog", "afraid", "unfort")
_SELF_WORDS = (" ai", "language model", "intelligence", "virtual assistant", "cutoff", "cut-off", "cut off", "only goes")
_BOILERPLATE_WORDS = (
    "hope", "feel free", "hesitate", "let me know", "anything else", "sure", "certainly", "of course", "absolutely", "great question",
)  # fmt: skip
_FORMAT = re.compile(r"\bf['\"]|\.format\(")
_SENTENCE = re.compile(r"[^.!?。！？\n]+")
_WORD = re.compile(r"[぀-ヿ㐀-鿿가-힣]|[^\W_]+")

_MAX_PERIOD = 16  # words in the longest loop
_MIN_REPEATS = 4  # in a row
_MIN_WORD_REPEATS = 5  # for a single word, because songs repeat words
_MIN_SENTENCE_REPEATS = 3
_MIN_LETTERS = 12  # in all repeats combined


@family.text_check(
    Check("refusal", "warn", "answers that refuse", "The answer refuses. The tuned model would do the same.", DROP),
    answers_only=True,
)
def refusals(text: str) -> Iterator[Hit]:
    beginning = text[:_BEGINNING]
    found = _PATTERNS["declines"].search(beginning) if contains_any(beginning.lower(), _DECLINE_WORDS) else None
    if match := found or (_PATTERNS["apology"].search(text) if contains_any(text.lower(), _APOLOGY_WORDS) else None):
        yield Hit(*match.span())


@family.row_check(
    Check(
        "self-reference", "warn", "answers that speak as an AI",
        "The answer presents itself as an AI model. The tuned model would do the same.", BY_HAND, short="as an AI",
    )
)  # fmt: skip
def self_references(row_input: CheckInput) -> Evidence | None:
    """Find answers that present themselves as an AI model, unless the prompt asks about that."""
    prompt = ""
    for part in row_input.parts:
        if part.role == "user":
            prompt = part.text
        elif part.is_answer and contains_any(part.text.lower(), _SELF_WORDS):
            match = _PATTERNS["self_reference"].search(part.text)
            if match and not _ABOUT_IDENTITY.search(prompt):
                span = Span(part.name, *match.span(), one_line(part.text[max(0, match.start() - 20) : match.end() + 20], 80))
                return Evidence((span,))
    return None


@family.text_check(
    Check("boilerplate", "warn", "answers with boilerplate", "“{phrase}” is a stock chatbot phrase."), answers_only=True
)
def boilerplate(text: str) -> Iterator[Hit]:
    for match in _PATTERNS["boilerplate"].finditer(text) if contains_any(text.lower(), _BOILERPLATE_WORDS) else ():
        yield Hit(*match.span(), values={"phrase": match[0]})


@family.text_check(Check("placeholder", "warn", "rows with placeholders", "“{phrase}” was not filled in.", DROP, illustrates="any"))
def placeholders(text: str) -> Iterator[Hit]:
    if not contains_any(text, ("{", "[", "<", "orem ", "TODO", "FIXME", "TBD", "TKTK")):
        return
    plain = FENCE.sub(lambda match: " " * len(match[0]), text)
    formatted = _FORMAT.search(text)
    for match in _PATTERNS["placeholder"].finditer(plain):
        if formatted and match[0][0] == "{" and match[0][1] != "{":
            continue  # code that formats a string
        yield Hit(*match.span(), values={"phrase": match[0]})


@family.text_check(
    Check("residue", "warn", "answers with residue of a web page", "“{phrase}” was copied from a web page.", illustrates="code"),
    answers_only=True,
)
def residue(text: str) -> Iterator[Hit]:
    for match in _PATTERNS["residue"].finditer(text) if contains_any(text, ("<", "&", "Copy ", "ChatGPT")) else ():
        yield Hit(*match.span(), values={"phrase": match[0]})


_LOOP_WORDING = {
    "sentence": "The same sentence repeats {times:,} times in a row.",
    "words": "The same {words:n word} repeated {times:,} times in a row.",
}


@family.text_check(Check("loop", "warn", "answers that repeat themselves", _LOOP_WORDING, DROP), answers_only=True)
def loops(text: str) -> Iterator[Hit]:
    """Find up to 16 words that repeat at least four times in a row, or a sentence that repeats at least three times."""
    sentences = [match for match in _SENTENCE.finditer(text) if match[0].strip()]
    for _, run_on in itertools.groupby(sentences, key=lambda match: match[0].strip().casefold()):
        again = list(run_on)
        if len(again) >= _MIN_SENTENCE_REPEATS and len(again[0][0].split()) > 3:
            yield Hit(again[0].start(), again[-1].end(), reason="sentence", values={"times": len(again)})
            return
    words = _WORD.findall(text.lower())
    if len(set(words)) > 0.9 * len(words):
        return
    spans: list[tuple[int, int]] = []
    for period in range(1, min(_MAX_PERIOD, len(words) // _MIN_REPEATS) + 1):
        if sum(map(operator.eq, words, words[period:])) < period * (_MIN_REPEATS - 1):
            continue
        end = 0
        for equal, run in itertools.groupby(map(operator.eq, words, words[period:])):
            first, length = end, len([*run])
            end += length
            if not equal or length < period * (_MIN_REPEATS - 1):
                continue
            spans = spans or [match.span() for match in _WORD.finditer(text)]
            if len(spans) != len(words):
                return  # lowercasing can turn one letter into two
            units = [text[spans[first + k * period][0] : spans[first + (k + 1) * period][0]] for k in range(length // period)]
            alike = [unit.casefold() == units[0].casefold() for unit in units]
            times = 1 + (alike.index(False) if False in alike else len(alike))
            letters = sum(char.isalpha() for word in words[first : first + period] for char in word)
            if times >= (_MIN_REPEATS if period > 1 else _MIN_WORD_REPEATS) and letters * times >= _MIN_LETTERS:
                last = first + times * period - 1
                yield Hit(spans[first][0], spans[last][1], reason="words", values={"words": period, "times": times})
                return
