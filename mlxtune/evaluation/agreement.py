"""Two readers of the same things: how far they agree beyond chance, and what a fallible reader's rate really means."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from mlxtune.evaluation.statistics import Z


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % interval."""

    low: float
    value: float
    high: float


def kappa(pairs: Sequence[tuple[Hashable, Hashable]], z: float = Z) -> Estimate | None:
    """Cohen's κ of two readers (Cohen 1960), −1 to 1, with the interval of Fleiss, Cohen and Everitt 1969.

    ``pairs`` holds what the first and the second said of each thing. ``None`` where both always say one and the same: there is
    no agreement beyond chance to speak of. Raises ``ValueError`` for no pairs.
    """
    total = len(pairs)
    if total == 0:
        raise ValueError("no pairs have no agreement")
    cells = {key: count / total for key, count in Counter(pairs).items()}
    first = {word: count / total for word, count in Counter(one for one, _ in pairs).items()}
    second = {word: count / total for word, count in Counter(two for _, two in pairs).items()}
    seen = sum(share for (one, two), share in cells.items() if one == two)
    chance = sum(share * second.get(word, 0.0) for word, share in first.items())
    if chance > 1 - 1e-12:
        return None
    value = (seen - chance) / (1 - chance)
    agreed = sum(
        share * (1 - (first.get(one, 0.0) + second.get(one, 0.0)) * (1 - value)) ** 2
        for (one, two), share in cells.items()
        if one == two
    )
    apart = (1 - value) ** 2 * sum(
        share * (first.get(two, 0.0) + second.get(one, 0.0)) ** 2 for (one, two), share in cells.items() if one != two
    )
    spread = (agreed + apart - (value - chance * (1 - value)) ** 2) / (1 - chance) ** 2
    half = z * math.sqrt(max(0.0, spread) / total)
    return Estimate(max(-1.0, value - half), value, min(1.0, value + half))


@dataclass(frozen=True)
class Calibration:
    """A fallible reader against the truth: of ``positive`` true cases it found ``found``, of ``negative`` it cleared ``cleared``."""

    found: int
    positive: int
    cleared: int
    negative: int


def corrected(hits: int, total: int, known: Calibration, z: float = Z) -> Estimate | None:
    """The true rate behind a fallible reader's ``hits`` of ``total``.

    The estimate is that of Rogan and Gladen 1978, cut to 0–1; the interval, which knows that sensitivity and specificity are
    estimates too, that of Lang and Reiczigel 2014 (Preventive Veterinary Medicine 113:13). ``None`` where the reader is no
    better than chance, or one kind of case was never seen. Raises ``ValueError`` unless 0 <= hits <= total and total > 0.
    """
    if not 0 <= hits <= total or total == 0:
        raise ValueError(f"{hits} of {total} is no rate")
    if known.positive == 0 or known.negative == 0:
        return None
    youden = known.found / known.positive + known.cleared / known.negative - 1
    if youden <= 1e-12:
        return None
    value = (hits / total + known.cleared / known.negative - 1) / youden
    n, n_se, n_sp = total + z * z, known.positive + 2, known.negative + 2
    rate, se, sp = (hits + z * z / 2) / n, (known.found + 1) / n_se, (known.cleared + 1) / n_sp
    true = (rate + sp - 1) / (se + sp - 1)
    v_se, v_sp = se * (1 - se) / n_se, sp * (1 - sp) / n_sp
    half = z * math.sqrt(rate * (1 - rate) / n + true * true * v_se + (1 - true) ** 2 * v_sp) / (se + sp - 1)
    middle = true + 2 * z * z * (true * v_se - (1 - true) * v_sp)
    return Estimate(_share(middle - half), _share(value), _share(middle + half))


def _share(value: float) -> float:
    return min(1.0, max(0.0, value))
