"""Check preference pairs for answers without a meaningful difference, and for length bias."""

import math
import statistics
import unicodedata
from collections.abc import Iterator

from mlxtune.data.checks.base import DROP_UNUSABLE, Check, CheckFamily, Evidence, Finding, whole_span
from mlxtune.data.checks.check_input import CheckInput
from mlxtune.data.checks.corpus import Corpus
from mlxtune.data.rows import Preference

_MIN_PAIRS = 20  # fewer pairs are no evidence of length bias
_SHARE = 0.7  # minimum share of pairs whose chosen answer is longer (or shorter)
_RATIO = 1.2  # minimum median ratio of the two lengths

family = CheckFamily()


_SAME_WORDING = {
    "": "Chosen and rejected differ only in case, spacing or final punctuation, so there is no preference to learn.",
    "unreadable": "{error:all} {hint:all}",
}


@family.row_check(Check("same-pair", "block", "pairs with identical answers", _SAME_WORDING, DROP_UNUSABLE, "✗", short="same pair"))
def same_pair(row_input: CheckInput) -> Evidence | None:
    row = row_input.row
    if not isinstance(row, Preference) or normalize_answer(row.chosen) != normalize_answer(row.rejected):
        return None
    return Evidence((whole_span("chosen", row.chosen), whole_span("rejected", row.rejected)))


def normalize_answer(text: str) -> str:
    """Return ``text`` in NFKC form, case-folded, without extra spacing or punctuation at either end.

    Punctuation inside the text is kept, because it matters in code and numbers.
    """
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split()).strip(" .,;:!?…\"'“”‘’*`") or text


_LENGTH = family.register(
    Check(
        "length-bias", "warn", "pairs that reward length",
        "The chosen answer is {direction} in {share:.0%} of {pairs:n pair} (median ratio {ratio:.1f}): the model may only learn to "
        "write {direction} answers.",
    )
)  # fmt: skip


@family.corpus_check
def length_bias(corpus: Corpus) -> Iterator[Finding]:
    """Find chosen answers that are longer in most pairs: a policy learns length first (Singhal et al. 2023, arXiv:2310.03716)."""
    pairs = [(chosen, rejected) for chosen, rejected in corpus.pairs.values() if chosen != rejected]
    if len(pairs) < _MIN_PAIRS:
        return
    for name, ratios in (
        ("longer", [chosen / max(1, rejected) for chosen, rejected in pairs]),
        ("shorter", [rejected / max(1, chosen) for chosen, rejected in pairs]),
    ):
        share, median = sum(ratio > 1 for ratio in ratios) / len(ratios), statistics.median(ratios)
        significant = share - 1.96 * math.sqrt(0.25 / len(ratios)) > 0.5
        if share >= _SHARE and median >= _RATIO and significant:
            yield _LENGTH.finding(values={"direction": name, "share": share, "pairs": len(ratios), "ratio": median})
