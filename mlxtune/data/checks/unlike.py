"""Find answers unlike nearly all others: without their form, or broken off."""

from collections import Counter
from collections.abc import Iterator

import numpy as np

from mlxtune.data.checks.base import BY_HAND, DROP, Check, CheckFamily, Finding
from mlxtune.data.checks.check_input import scored_answer
from mlxtune.data.checks.corpus import Corpus
from mlxtune.data.checks.endings import MOST_ODDS, cut_odds
from mlxtune.data.checks.forms import ENDING, MIN_ANSWERS, SHARE, WORD, Form, forms_of

family = CheckFamily()
_WHOLE = 0.5  # of the answers, at least, end like a sentence
_CUT = 0.6  # least probability that an answer broke off
_SIGN_ODDS = 5.0  # that an answer with a comma or quote at its end broke off
_SHORT_ODDS, _SURE = 0.3, 30.0  # those of a text of a few words, and those of another whose last line may have any form
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
    forms, lacking = corpus.forms, _lacking(corpus)
    lasts = {form for form in lacking if form[0] == "last"}
    endings = {rank: "whole" if lasts & own else end for rank, own in forms.items() for kind, end in own if kind == ENDING}
    cut = _cut(corpus, endings) if len(endings) >= MIN_ANSWERS else set()
    for rank in sorted(cut):
        yield _MID_SENTENCE.finding(corpus.indices[rank], values={"share": 1 - len(cut) / len(endings)})
    for rank in forms if not corpus.has_contract else ():
        if rank not in cut and (missing := next((form for form, ranks in lacking.items() if rank in ranks), None)):
            values = {"share": (len(forms) - len(lacking[missing])) / len(forms), "form": missing[1]}
            yield _FORM.finding(corpus.indices[rank], reason=missing[0], values=values)


def _lacking(corpus: Corpus) -> dict[Form, set[int]]:
    """Map each form that at least 90% of the answers have, but not all, to the ranks without it, the fewest of a kind first."""
    total, kinds = len(corpus.forms), [*_FORM_WORDING]
    if total < MIN_ANSWERS:
        return {}
    counts = Counter(form for own in corpus.forms.values() for form in own if form[0] in kinds)
    shared = [form for form, count in counts.items() if SHARE * total <= count < total]
    lacking = {form: {rank for rank, own in corpus.forms.items() if form not in own} for form in shared}
    hashes, ranks = np.asarray(corpus.sentences), np.asarray(corpus.sentence_ranks)
    distinct, times = np.unique(hashes, return_counts=True)
    for sentence in distinct[(times >= SHARE * total) & (times < total)].tolist():
        having = ranks[hashes == sentence].tolist()
        answer = scored_answer(corpus.read(corpus.indices[having[0]]))[1]
        form = next(("sentence", text) for text in forms_of(answer)[1] if hash(text) == sentence)
        lacking[form] = corpus.forms.keys() - having
    return dict(sorted(lacking.items(), key=lambda item: (kinds.index(item[0][0]), len(item[1]), item[0])))


def _cut(corpus: Corpus, endings: dict[int, str]) -> set[int]:
    """Return the ranks of the answers that break off, while most others end like a sentence, with a shared last line, or like code.

    The doubtful ones are a mixture of answers that were cut anywhere and of whole ones, in the share that fits their last words best.
    """
    whole, broken = ([rank for rank, end in endings.items() if end == kind] for kind in ("whole", "broken"))
    few = (1 - SHARE) * len(endings)
    if len(whole) < _WHOLE * len(endings):
        return set(broken) if len(broken) <= few else set()
    ends = {rank: word for rank in endings.keys() - {*whole, *broken} for kind, word in corpus.forms[rank] if kind == WORD}
    answers = (scored_answer(corpus.read(corpus.indices[rank]))[1] for rank in whole[:: max(1, len(whole) // _READ)] if ends)
    by_word = cut_odds(answers, ends.values()) | {"": _SHORT_ODDS}
    sure = {rank for rank, word in ends.items() if endings[rank] == "other" and by_word[word] >= _SURE}  # such as an item
    words = {rank: word for rank, word in ends.items() if endings[rank] != "other"}
    signs = sum(endings[rank] == "cut" and not word for rank, word in words.items())
    by_sign = _SIGN_ODDS if signs <= few else 1.0  # where more end with a comma, people write so
    found = [by_word[word] if endings[rank] != "cut" else MOST_ODDS if word else by_sign for rank, word in words.items()]
    odds = np.array([*found, *(MOST_ODDS for _ in broken)])
    shares = np.linspace(0, 0.99, 100)[:, None]
    share = shares[np.argmax(np.log(shares * odds + 1 - shares).sum(axis=1) + np.log(1 - shares[:, 0]))].item()
    least = _CUT * (1 - share) / max(1e-9, share * (1 - _CUT))
    return sure.union(broken, (rank for rank, ratio in zip(words, found, strict=True) if ratio >= least))
