"""Find answers unlike nearly all others: without their form, or cut off in mid-sentence."""

from collections import Counter
from collections.abc import Iterator

from mlxtune.data.checks.base import BY_HAND, DROP, Check, CheckFamily, Finding
from mlxtune.data.checks.corpus import Corpus
from mlxtune.data.checks.forms import MIN_ANSWERS, SHARE

family = CheckFamily()
_CUT, _WHOLE = 0.05, 0.92  # of the open ends are a word that ends no sentence, and of the answers end, where open ones were cut
_FORM_WORDING = {
    "json": "{share:.0%} of the answers are JSON; this one is not.",
    "key": "{share:.0%} of the answers have the field “{form}”; this one does not.",
    "first": "{share:.0%} of the answers begin with “{form}”; this one does not.",
    "last": "{share:.0%} of the answers end with a line like “{form}”; this one does not.",
    "sentence": "{share:.0%} of the answers say “{form}”; this one does not.",
}
_FORM = family.register(Check("form", "warn", "answers without the form of the others", _FORM_WORDING, BY_HAND, "≠"))
_MID_SENTENCE = family.register(
    Check(
        "mid-sentence", "warn", "answers that end in mid-sentence",
        "The answer ends in mid-sentence; {share:.0%} of the others do not.", DROP,
    )
)  # fmt: skip


@family.corpus_check
def unlike(corpus: Corpus) -> Iterator[Finding]:
    """Find answers that lack a form that at least 90% of the answers have, unless there is a contract, and those that end in mid-sentence if so few do."""
    forms = corpus.forms
    counts = Counter(form for own in forms.values() for form in own)
    shared = [
        form
        for form, count in counts.most_common()
        if form[0] in _FORM_WORDING and len(forms) >= MIN_ANSWERS and SHARE * len(forms) <= count < len(forms)
    ]
    shared.sort(key=lambda form: list(_FORM_WORDING).index(form[0]))
    for rank, own in forms.items() if not corpus.has_contract else ():
        if missing := next((form for form in shared if form not in own), None):
            values = {"share": counts[missing] / len(forms), "form": missing[1]}
            yield _FORM.finding(corpus.indices[rank], reason=missing[0], values=values)
    prose, whole, stopped, cut, unclear = (counts[kind, ""] for kind in ("prose", "end", "stop", "cut", "open"))
    has_cuts = cut > _CUT * unclear  # otherwise, those answers only lack a period
    for rank, own in forms.items() if prose >= MIN_ANSWERS and whole >= _WHOLE * prose and 2 * stopped > prose else ():
        if ("cut", "") in own or (("open", "") in own and has_cuts):
            yield _MID_SENTENCE.finding(corpus.indices[rank], values={"share": whole / prose})
