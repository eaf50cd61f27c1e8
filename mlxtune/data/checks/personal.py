"""Find personal data: email addresses, phone numbers, home addresses, government IDs, and card numbers and IBANs with valid check digits."""

import re
from collections.abc import Iterator

from mlxtune.core.files import read_patterns
from mlxtune.data.checks.base import Check, CheckFamily, Fix, Hit

family = CheckFamily()
_MASK = Fix("put", "mask", safe=True, everywhere=True)
_MASK_UNSAFE = Fix("put", "mask", everywhere=True)


def _check(id: str, article: str, name: str, fix: Fix = _MASK, *, short: str = "") -> Check:
    wording = f"The model may learn and repeat this {name}."
    return Check(id, "warn", f"rows with {article} {name}", wording, fix, "@", short, illustrates="any")


_PATTERNS = read_patterns(__package__, "personal.toml")
_IBANS = {length: pattern for name, pattern in _PATTERNS.items() if (length := name.removeprefix("iban_")).isdigit()}
_DIGITS = re.compile(r"\d(?:[ ().\-/]{0,3}\d){8}")  # every phone or card number matches this
_FOUR_DIGITS = re.compile(r"\d(?:[A-Z .-]?\d){3}")  # every ID matches this
_BEFORE_ADDRESS = 60  # characters


@family.text_check(_check("email", "an", "email address"))
def emails(text: str) -> Iterator[Hit]:
    if "@" in text:
        for match in _PATTERNS["email"].finditer(text):
            name, _, domain = match[0].partition("@")
            if not is_reserved_domain(domain) and not _PATTERNS["stand_in"].fullmatch(name):
                yield Hit(*match.span(), "[EMAIL]")


@family.text_check(_check("phone", "a", "phone number"))
def phones(text: str) -> Iterator[Hit]:
    for match in _PATTERNS["phone"].finditer(text) if _DIGITS.search(text) else ():
        start, end = match.span("bare" if match["bare"] else 0)
        digits = "".join(char for char in match[0] if char.isdigit())
        is_fictional = _PATTERNS["fictional_phone"].fullmatch(digits)
        if 9 <= len(digits) <= (15 if re.search(r"[ ().-]", match[0]) else 13) and not is_fictional:
            yield Hit(start, end, "[PHONE]")


@family.text_check(_check("card", "a", "card number"))
def cards(text: str) -> Iterator[Hit]:
    for match in _PATTERNS["card"].finditer(text) if _DIGITS.search(text) else ():
        digits = [int(char) for char in match[0] if char.isdigit()]
        if _PATTERNS["issuer"].match(match[0]) and len(set(digits)) > 1 and luhn(digits):
            yield Hit(*match.span(), "[CARD]", f"{match[0][:4]}…")


@family.text_check(_check("iban", "an", "IBAN", short="IBAN"))
def ibans(text: str) -> Iterator[Hit]:
    for match in _PATTERNS["iban"].finditer(text):
        length = next((int(length) for length, countries in _IBANS.items() if countries.match(match[0])), 0)
        ends = [end for end, char in enumerate(match[0], match.start() + 1) if char != " "]
        end = ends[length - 1] if 0 < length <= len(ends) else 0
        if end and mod97(text[match.start() : end].replace(" ", "")) and not text[end : end + 1].isalnum():
            yield Hit(match.start(), end, "[IBAN]", f"{match[0][:4]}…")


@family.text_check(_check("government-id", "a", "government ID", _MASK_UNSAFE, short="ID"))
def government_ids(text: str) -> Iterator[Hit]:
    for match in _PATTERNS["id"].finditer(text) if _FOUR_DIGITS.search(text) else ():
        start, end = match.span("document") if match["document"] else match.span()
        yield Hit(start, end, "[ID]", f"{text[start : start + 2]}…")


@family.text_check(_check("address", "a", "home address", _MASK_UNSAFE))
def addresses(text: str) -> Iterator[Hit]:
    if not re.search(r"\d", text):
        return
    found = {match.start("house"): match.end("house") for match in _PATTERNS["residence"].finditer(text) if match["house"]}
    for match in _PATTERNS["address"].finditer(text):
        if _PATTERNS["residence"].search(text, max(0, match.start() - _BEFORE_ADDRESS), match.start()):
            found[match.start()] = match.end()
    for start, end in sorted(found.items()):
        yield Hit(start, end, "[ADDRESS]")


def is_reserved_domain(text: str) -> bool:
    """Return whether ``text`` begins with a domain that is reserved for examples, such as ``example.com``."""
    return bool(_PATTERNS["reserved_domain"].match(text))


def luhn(digits: list[int]) -> bool:
    """Return whether the last digit is the correct check digit (ISO/IEC 7812-1, annex B)."""
    doubled = [digit * 2 - 9 if digit > 4 else digit * 2 for digit in digits[-2::-2]]
    return (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


def mod97(iban: str) -> bool:
    """Return whether an IBAN without spaces has correct check digits (ISO 7064, MOD 97-10)."""
    return int("".join(str(int(char, 36)) for char in iban[4:] + iban[:4])) % 97 == 1
