"""The registry of checks. To add a family, list it in ``FAMILIES``."""

from mlxtune.core.errors import InputError
from mlxtune.core.text import nearest, one_line
from mlxtune.data.checks import (
    characters,
    conflicts,
    contract,
    labels,
    language,
    lengths,
    mismatch,
    pairs,
    personal,
    repeated_rows,
    secrets,
    statistics,
    template,
    unlike,
    unreadable,
    wording,
)
from mlxtune.data.checks.base import SEVERITIES, Check, CheckFamily, Finding

_MODULES = (  # in report order; contract metrics come after the first family
    characters, lengths, template, statistics, pairs, personal, unreadable, secrets, conflicts, repeated_rows, labels, unlike, language,
    mismatch, wording,
)  # fmt: skip
FAMILIES: list[CheckFamily] = [module.family for module in _MODULES]
CHECKS = {check.id: check for family in FAMILIES for check in family.checks}
TEXT_CHECKS = [item for family in FAMILIES for item in family.text_checks]
ROW_CHECKS = [item for family in FAMILIES for item in family.row_checks]
CORPUS_CHECKS = [function for family in FAMILIES for function in family.corpus_checks]

_ORDER = {id: number for number, id in enumerate(CHECKS)}
_CONTRACT_ORDER = _ORDER[FAMILIES[0].checks[-1].id]
_UNREADABLE = {check.id for check in unreadable.family.checks}
_SINGLE_ROW = {check.id for check, _, _ in TEXT_CHECKS} | {check.id for check, _ in ROW_CHECKS} | _UNREADABLE


def is_check(id: str) -> bool:
    """Return whether there is a check with this ID. Every ``contract-…`` ID is valid, because scorers define the metrics."""
    return id in CHECKS or id.startswith(contract.PREFIX)


def check_named(name: str) -> str:
    """Return the ID of a check, given its ID or the short name that lists show. Raises ``InputError`` if there is none."""
    if is_check(name):
        return name
    words = name.casefold().replace("-", " ")
    found = next((id for id, check in CHECKS.items() if check.short.casefold().replace("-", " ") == words), None)
    if found is None:
        names = {check.label.casefold(): id for id, check in CHECKS.items()} | {id: id for id in CHECKS}
        match = nearest(name.casefold(), names)
        hint = f"Did you mean {names[match]}?" if match else "Use a name from the list of findings."
        raise InputError(f"Unknown check {one_line(name, 30)}.", hint=hint)
    return found


def check_filter_name(id: str) -> str:
    """Return the name of a check in lists as a word that :func:`check_named` accepts."""
    return CHECKS[id].label.replace(" ", "-") if id in CHECKS else id


def get_check(id: str) -> Check:
    """Return the check with this ID. Raises ``KeyError`` if there is none."""
    return contract.metric_check(id) if id.startswith(contract.PREFIX) else CHECKS[id]


def may_mute(id: str) -> bool:
    """Return whether a check may be muted. Records that cannot be read are refused by training as well."""
    return id not in _UNREADABLE


def depends_on_row_only(id: str) -> bool:
    """Return whether a check's findings depend on a single row, so that editing the row invalidates them."""
    return id in _SINGLE_ROW or id.startswith(contract.PREFIX)


def report_order(finding: Finding) -> tuple[int, int, str, float, tuple[int, ...]]:
    """Return the sort key for reports: by severity, then registry order, then the odds that there is a problem, then row."""
    order = _ORDER.get(finding.check, _CONTRACT_ORDER)
    return SEVERITIES.index(finding.severity), order, finding.check, -finding.values.get("odds", 0.0), finding.rows
