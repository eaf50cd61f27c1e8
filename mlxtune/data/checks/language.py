"""Find answers in another language than their prompt, or than nearly all other answers."""

import re
from collections import Counter
from collections.abc import Iterator

from mlxtune.data.checks.base import DROP, Check, CheckFamily, Evidence, Finding, Span, whole_span
from mlxtune.data.checks.characters import NAMED_LANGUAGE
from mlxtune.data.checks.check_input import CheckInput
from mlxtune.data.checks.corpus import Corpus
from mlxtune.data.checks.forms import LANGUAGE, MIN_ANSWERS, SHARE, longest_text
from mlxtune.data.checks.illustration import CODE
from mlxtune.data.languages import LONGEST, SCRIPTS, has_words_of, language, language_other_than

family = CheckFamily()
_WORDING = {
    "prompt": "The prompt is in {prompt}; the answer is in {answer}.",
    "others": "{share:.0%} of the answers are in {prompt}; this one is in {answer}.",
}
_LANGUAGE = Check("language", "warn", "answers in another language than their prompt", _WORDING, DROP, "≠")


@family.row_check(_LANGUAGE)
def other_language(row_input: CheckInput) -> Evidence | None:
    """Find an answer in another language than the last prompt, unless a language is named."""
    for prompt, answer, span in _answers(row_input):
        if (
            (expected := language(prompt) or language_other_than(answer, prompt))
            and expected != answer
            and (expected not in SCRIPTS or not re.search("[A-Za-z]{4}", prompt))
        ):
            return Evidence((span,), "prompt", {"prompt": expected, "answer": answer})
    return None


@family.corpus_check
def unusual_language(corpus: Corpus) -> Iterator[Finding]:
    """Find an answer in another language than at least 90% of the answers, if the language of its prompt is not clear."""
    languages = {rank: name for rank, forms in corpus.forms.items() for kind, name in forms if kind == LANGUAGE}
    usual, count = next(iter(Counter(languages.values()).most_common(1)), ("", 0))
    for rank, name in languages.items() if count >= max(MIN_ANSWERS, SHARE * len(languages)) else ():
        if name == usual:
            continue
        row_input = CheckInput(corpus.indices[rank], corpus.read(corpus.indices[rank]))
        for prompt, answer, span in _answers(row_input):
            if answer == name and prompt.isascii() and not language(prompt) and has_words_of(usual, prompt, name):
                values = {"share": count / len(languages), "prompt": usual, "answer": name}
                yield _LANGUAGE.finding(row_input.index, spans=(span,), reason="others", values=values)
                break


def _answers(row_input: CheckInput) -> Iterator[tuple[str, str, Span]]:
    """Yield the last prompt and the language of each answer for which no language is named, if it is clear, and where it is."""
    prompt, earlier = "", ""
    for part in row_input.parts:
        if part.role in ("user", "system", "developer"):
            prompt, earlier = (part.text if part.role == "user" else prompt), f"{earlier}\n{part.text}"
        elif part.is_answer and (answer := language(longest_text(part.text))):
            is_code = len(CODE.findall(part.text[:LONGEST])) > 1
            if not is_code and part.text.strip() not in prompt and not NAMED_LANGUAGE.search(earlier):
                yield prompt, answer, whole_span(part.name, part.text)
