"""Personal data: what names or reaches one person. Numbers count only if their check digits agree."""

from __future__ import annotations

import re
from collections.abc import Iterator

from mlxtune.data.checks.finding import Fix, Hit, text_check

_PUT = Fix("put", "mask", safe=True)

_EMAIL = re.compile(
    r"(?<![\w.+-])[A-Za-z0-9][\w.+-]{0,63}@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+[A-Za-z]{2,24}(?![\w-])"
)
_PHONE = re.compile(
    r"""(?x)(?<![\w.,/+-])(?:
      \+[1-9]\d{0,2}(?:[ .-]?\(?\d{1,5}\)?){2,6}        # +44 20 7946 0958
    | \(\d{3}\)[ ]?\d{3}[ .-]\d{4}                        # (555) 010-9999
    | (?:1[ .-])?[2-9]\d{2}([ .-])\d{3}\1\d{4}            # 555-010-9999
    | 0\d{2,5}[ /-]\d{3,8}(?:[ -]\d{2,5}){0,3}            # 020 7946 0958, 030/1234567
    )(?![\w/]|[.,]\d|-\d)"""
)
_DIGITS = re.compile(r"\d(?:[ ().\-/]{0,3}\d){8}")  # in every number that anyone is reached or charged by
_CARD = re.compile(
    r"""(?x)(?<![\w.-])(?:
      \d{14,19} | \d{4}([ -])\d{4}\1\d{4}\1\d{2,4}(?:\1\d{1,3})? | 3\d{3}([ -])\d{6}\2\d{4,5}
    )(?![\w-]|\.\d)"""
)
# Who issues them, by what they begin with (ISO/IEC 7812): Visa, Mastercard, American Express, Diners, JCB, Discover, UnionPay.
_ISSUER = re.compile(r"4|5[1-5]|2(?:2[2-9]|[3-6]|7[01]|720)|3[47]|3(?:0[0-5]|[68])|35(?:2[89]|[3-8])|6(?:011|4[4-9]|5)|62")
_IBAN = re.compile(r"\b[A-Z]{2}\d{2}(?:[ ]?[A-Z0-9]){11,30}")
_IBANS = {  # how long each country's are: the registry of ISO 13616
    country: length
    for length, countries in {
        15: "NO", 16: "BE", 18: "DK FO FI GL NL SD", 19: "MK SI", 20: "AT BA EE KZ LT LU XK", 21: "CH HR LI LV",
        22: "BG BH CR DE GB GE IE ME RS VA", 23: "AE GI IL IQ OM TL", 24: "AD CZ ES MD PK RO SA SE SK TN VG", 25: "LY PT ST",
        26: "IS TR", 27: "BI DJ FR GR IT MC MR SM", 28: "AL AZ BY CY DO GT HU LB NI PL SV", 29: "BR EG PS QA UA", 30: "JO KW MU",
        31: "MT SC", 32: "LC", 33: "RU",
    }.items()
    for country in countries.split()
}  # fmt: skip


@text_check("email", "warn", "rows with an e-mail address", _PUT, "@")
def emails(text: str) -> Iterator[Hit]:
    if "@" in text:
        for match in _EMAIL.finditer(text):
            yield Hit(*match.span(), "An e-mail address would be learned and said again.", "[EMAIL]")


@text_check("phone", "warn", "rows with a phone number", _PUT, "@")
def phones(text: str) -> Iterator[Hit]:
    for match in _PHONE.finditer(text) if _DIGITS.search(text) else ():
        if 9 <= sum(sign.isdigit() for sign in match[0]) <= (15 if re.search(r"[ ().-]", match[0]) else 13):
            yield Hit(*match.span(), "A phone number would be learned and said again.", "[PHONE]")


@text_check("card", "warn", "rows with a card number", _PUT, "@")
def cards(text: str) -> Iterator[Hit]:
    for match in _CARD.finditer(text) if _DIGITS.search(text) else ():
        digits = [int(sign) for sign in match[0] if sign.isdigit()]
        if _ISSUER.match(match[0]) and len(set(digits)) > 1 and luhn(digits):
            yield Hit(*match.span(), "A payment card's number would be learned and said again.", "[CARD]", f"{match[0][:4]}…")


@text_check("iban", "warn", "rows with an IBAN", _PUT, "@")
def ibans(text: str) -> Iterator[Hit]:
    for match in _IBAN.finditer(text):
        length, seen = _IBANS.get(match[0][:2], 0), 0
        for at, sign in enumerate(match[0], 1):
            seen += sign != " "
            if seen == length:
                end = match.start() + at
                if mod97(match[0][:at].replace(" ", "")) and not text[end : end + 1].isalnum():
                    yield Hit(
                        match.start(), end, "A bank account's IBAN would be learned and said again.", "[IBAN]", f"{match[0][:4]}…"
                    )
                break


def luhn(digits: list[int]) -> bool:
    """Whether the last digit is the one that the others ask for (ISO/IEC 7812-1, annex B)."""
    doubled = [digit * 2 - 9 if digit > 4 else digit * 2 for digit in digits[-2::-2]]
    return (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


def mod97(iban: str) -> bool:
    """Whether an IBAN without spaces has the check digits that it should (ISO 7064, MOD 97-10)."""
    return int("".join(str(int(sign, 36)) for sign in iban[4:] + iban[:4])) % 97 == 1
