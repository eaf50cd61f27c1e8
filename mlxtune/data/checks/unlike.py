"""Find answers unlike nearly all others: without their form, or broken off."""

from collections import Counter
from collections.abc import Iterator

from mlxtune.data.checks.base import BY_HAND, DROP, Check, CheckFamily, Finding
from mlxtune.data.checks.check_input import scored_answer
from mlxtune.data.checks.corpus import Corpus
from mlxtune.data.checks.endings import SELDOM_LAST, linking_words
from mlxtune.data.checks.forms import ENDING, MIN_ANSWERS, SHARE, WORD

family = CheckFamily()
_WHOLE = 0.5  # of the answers, at least, end like a sentence
_CERTAIN, _CERTAIN_SHARE = 3, 0.2  # if so many answers, and this share of the doubtful ones, surely broke off, all of these did
_READ = 2000  # answers that show which words end no sentence
_FORM_WORDING = {
    "json": "{share:.0%} of the answers are JSON; this one is not.",
    "key": "{share:.0%} of the answers have the field “{form}”; this one does not.",
    "first": "{share:.0%} of the answers begin with “{form}”; this one does not.",
    "last": "{share:.0%} of the answers end with a line like “{form}”; this one does not.",
    "sentence": "{share:.0%} of the answers say “{form}”; this one does not.",
}
_FORM = family.register(Check("form", "warn", "answers without the form of the others", _FORM_WORDING, BY_HAND, "≠"))
_CUT_WORDING = "The answer breaks off; {share:.0%} of the others do not."
_MID_SENTENCE = family.register(Check("mid-sentence", "warn", "answers that break off", _CUT_WORDING, DROP))


@family.corpus_check
def unlike(corpus: Corpus) -> Iterator[Finding]:
    """Find answers that break off, and others that lack a form that at least 90% of the answers have, unless there is a contract."""
    forms = corpus.forms
    counts = Counter(form for own in forms.values() for form in own)
    shared = [
        form
        for kind in _FORM_WORDING
        for form, count in counts.most_common()
        if form[0] == kind and len(forms) >= MIN_ANSWERS and SHARE * len(forms) <= count < len(forms)
    ]
    lasts = {form for form in shared if form[0] == "last"}
    endings = {rank: "whole" if lasts & own else end for rank, own in forms.items() for kind, end in own if kind == ENDING}
    cut = _cut(corpus, endings) if len(endings) >= MIN_ANSWERS else set()
    for rank in sorted(cut):
        yield _MID_SENTENCE.finding(corpus.indices[rank], values={"share": 1 - len(cut) / len(endings)})
    for rank, own in forms.items() if not corpus.has_contract else ():
        if rank not in cut and (missing := next((form for form in shared if form not in own), None)):
            values = {"share": counts[missing] / len(forms), "form": missing[1]}
            yield _FORM.finding(corpus.indices[rank], reason=missing[0], values=values)


def _cut(corpus: Corpus, endings: dict[int, str]) -> set[int]:
    """Return the ranks of the answers that break off, while nearly all others end like a sentence, with a shared last line, or like code."""
    whole, broken, cut = ({rank for rank, end in endings.items() if end == kind} for kind in ("whole", "broken", "cut"))
    doubtful = cut | {rank for rank, end in endings.items() if end in ("open", "bare")}
    words = {rank: word for rank in doubtful for kind, word in corpus.forms[rank] if kind == WORD}
    answers = (scored_answer(corpus.read(corpus.indices[rank]))[1] for rank in [*endings][:: max(1, len(endings) // _READ)])
    links = linking_words(answers, SELDOM_LAST.intersection(words.values()))
    cut |= {rank for rank in doubtful if words[rank] in links}
    certain = broken | {rank for rank in cut if words[rank]}
    are_cut = len(certain) >= max(_CERTAIN, _CERTAIN_SHARE * len(doubtful))
    few = (1 - SHARE) * len(endings)  # where more end without a stop, people write so, unless many surely broke off
    if len(whole) < _WHOLE * len(endings) or (len(doubtful) > few and not are_cut):
        return broken if len(broken) <= few else set()
    return broken | (doubtful if are_cut else cut)
