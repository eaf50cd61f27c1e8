"""Find personal data: email addresses, phone numbers, home addresses, government IDs, and card numbers and IBANs with valid check digits."""

import re
from collections.abc import Iterator

from mlxtune.data.checks.base import Check, CheckFamily, Fix, Hit

family = CheckFamily()
_MASK = Fix("put", "mask", safe=True, everywhere=True)
_MASK_UNSAFE = Fix("put", "mask", everywhere=True)


def _check(id: str, title: str, name: str, fix: Fix = _MASK, *, short: str = "") -> Check:
    return Check(id, "warn", title, f"The model may learn and repeat this {name}.", fix, "@", short, illustrates="any")


_EMAIL = re.compile(
    r"(?<![\w.+-])[A-Za-z0-9][\w.+-]{0,63}@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+[A-Za-z]{2,24}(?![\w-])"
)
_PHONE = re.compile(
    r"""(?x)(?<![\w.,/+-])(?:
      \+[1-9]\d{0,2}(?:[ .-]?\(?\d{1,5}\)?){2,6}        # +44 20 7946 0958
    | \([2-9]\d{2}\)[ ]?\d{3}[ .-]\d{4}                        # (555) 010-9999
    | (?:1[ .-])?[2-9]\d{2}([ .-])\d{3}\1\d{4}            # 555-010-9999
    | 0\d{2,5}[ /-]\d{3,8}(?:[ -]\d{2,5}){0,3}            # 020 7946 0958, 030/1234567
    | (?<!\d[ .-])0[1-9]([ .-])\d{2}(?:\2\d{2}){3}(?!\2\d) | 06-\d{8}   # 01 23 45 67 89, 06-12345678
    | 1[3-9]\d([ -])\d{4}\3\d{4}                          # 138 0013 8000
    )(?![\w/]|[.,]\d|-\d)"""
)
# Not assigned to anyone: domains for documentation (RFC 2606), common stand-ins, and North American numbers with 555 (except 555-1212).
_RESERVED_DOMAIN = re.compile(
    r"(?i)(?:[\w-]+\.)*(?:example\.(?:com|net|org)|(?:your|my)[\w-]*\.\w+|(?:some|any)?(?:company|domain|organization|website|site|mail|email)\.com"
    r"|[\w-]+\.(?:example|test|invalid|localhost)|localhost)(?![\w-])"
)
_STAND_IN = re.compile(r"(?i)(?:your|my)[\w.+-]*|user(?:name)?\d*|e?mail|name|someone|somebody|recipient|sender|first\.?last")
_FICTIONAL = re.compile(r"(?:\+?1)?(?:555\d{7}|\d{3}555(?!1212)\d{4})")
_DIGITS = re.compile(r"\d(?:[ ().\-/]{0,3}\d){8}")  # every phone or card number matches this
_CARD = re.compile(
    r"""(?x)(?<![\w.-])(?:
      \d{14,19} | \d{4}([ .-])\d{4}\1\d{4}\1\d{2,4}(?:\1\d{1,3})? | 3\d{3}([ -])\d{6}\2\d{4,5}
    )(?![\w-]|\.\d)"""
)
# Issuer prefixes (ISO/IEC 7812): Visa, Mastercard, American Express, Diners, JCB, Discover, UnionPay.
_ISSUER = re.compile(r"4|5[1-5]|2(?:2[2-9]|[3-6]|7[01]|720)|3[47]|3(?:0[0-5]|[68])|35(?:2[89]|[3-8])|6(?:011|4[4-9]|5)|62")
_IBAN = re.compile(r"\b[A-Z]{2}\d{2}(?:[ ]?[A-Z0-9]){11,30}")
_IBAN_LENGTHS = {  # by country, from the registry of ISO 13616
    country: length
    for length, countries in {
        15: "NO", 16: "BE", 18: "DK FO FI GL NL SD", 19: "MK SI", 20: "AT BA EE KZ LT LU XK", 21: "CH HR LI LV",
        22: "BG BH CR DE GB GE IE ME RS VA", 23: "AE GI IL IQ OM TL", 24: "AD CZ ES MD PK RO SA SE SK TN VG", 25: "LY PT ST",
        26: "IS TR", 27: "BI DJ FR GR IT MC MR SM", 28: "AL AZ BY CY DO GT HU LB NI PL SV", 29: "BR EG PS QA UA", 30: "JO KW MU",
        31: "MT SC", 32: "LC", 33: "RU",
    }.items()
    for country in countries.split()
}  # fmt: skip


_ID = re.compile(  # US social security, UK national insurance, Brazilian CPF, and numbers after the name of a document
    r"""(?x)(?<![\w.-])(?:
      (?!000|666|9|123-45-6789|078-05-1120)\d{3}-(?!00)\d{2}-(?!0000)\d{4}  # neither sample numbers
    | (?!BG|GB|KN|NK|NT|TN|ZZ)[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z][ ]?\d\d[ ]?\d\d[ ]?\d\d[ ]?[A-D]
    | \d{3}\.\d{3}\.\d{3}-\d{2}
    | (?i:\b(?:passport|driver['’]?s?[ ]licen[cs]e|(?:national[ ])?ID[ ]card|tax[ ]ID|DNI|NIE)(?:[ ](?:no\.?|number))?(?:[ ]is|:)?[ ]\#?)
      (?P<document>(?=[A-Z0-9]*\d{5})[A-Z0-9]{7,12})
    )(?![\w-]|\.\d)"""
)
_NUMBER = re.compile(r"\d")
_FIVE_DIGITS = re.compile(r"\d(?:[ .-]?\d){4}")  # every ID matches this

_ADDRESS = re.compile(
    r"""(?x)(?<![\w.,$-])(?!123\b|1234\b)(?:
      \d{1,5}[A-Za-z]?[ ](?:[NSEW]\.?[ ])?(?:(?:[A-Z][\w'’]+|\d{1,3}(?:st|nd|rd|th))\.?[ ]){1,3}
        (?:Street|St|Avenue|Ave|Road|Rd|Lane|Ln|Drive|Dr|Boulevard|Blvd|Court|Ct|Place|Terrace|Way|Close|Crescent|Square|Parkway|Pkwy|Highway|Hwy)\b
    | [A-ZÄÖÜ][a-zäöüß]+(?:(?:straße|strasse|str\.|weg|gasse|platz|allee)|[ ](?:Straße|Str\.|Weg|Allee|Platz))[ ]\d{1,4}[a-z]?\b
    | \d{1,4}(?:[ ](?:bis|ter))?,?[ ](?:[Rr]ue|[Aa]venue|[Bb]oulevard|[Aa]llée|[Cc]hemin|[Ii]mpasse)[ ](?:(?:de|du|des|la|le|les)[ ]|d['’]|l['’])*[A-ZÉ]\w+
    | (?:[Cc]alle|[Aa]venida|[Vv]ia|[Pp]iazza|[Rr]ua)[ ](?:(?:de|del|della|di|da|do|la|los)[ ])*[A-Z]\w+(?:[ ][A-Z]\w+)?,?[ ](?:n[.º°][ ]?)?\d{1,4}\b
    )(?:,?[ ](?:Apt|Apartment|Unit|Suite|Flat)\.?[ ]?\#?\w{1,5})?"""
)
_RESIDENCE = re.compile(  # words before the address of a person, not of a shop
    r"""(?xi)\b(?:
      (?:my|our|his|her|their|home|house|shipping|billing|mailing|delivery|current|(?<=['’])s)[ ](?:\w+[ ])?address | address(?:[ ](?:is|for)\b|:)
    | (?:live[sd]?|living|resid(?:e[sd]?|ing)|staying|tenant|moved|(?:home|house)[ ]is(?:[ ]located)?|number[ ]is)\b(?:[ ](?:at|on|in|of|to))?
    | (?:ship|deliver|send|mail|sent|forward|pick[ ]up)\w*\b[^.\n]{0,40}[ ](?:to|at|from)
    | wohn[et]\w*|adresse|anschrift|lieferung|schick\w*|habit[eo]\w*|livr\w+|direcci[oó]n|vivo|indirizzo|abito|morada|endereço
    )\b"""
)
_BEFORE_ADDRESS = 60  # characters


@family.text_check(_check("email", "rows with an email address", "email address"))
def emails(text: str) -> Iterator[Hit]:
    if "@" in text:
        for match in _EMAIL.finditer(text):
            name, _, domain = match[0].partition("@")
            if not is_reserved_domain(domain) and not _STAND_IN.fullmatch(name):
                yield Hit(*match.span(), "[EMAIL]")


@family.text_check(_check("phone", "rows with a phone number", "phone number"))
def phones(text: str) -> Iterator[Hit]:
    for match in _PHONE.finditer(text) if _DIGITS.search(text) else ():
        digits = "".join(char for char in match[0] if char.isdigit())
        if 9 <= len(digits) <= (15 if re.search(r"[ ().-]", match[0]) else 13) and not _FICTIONAL.fullmatch(digits):
            yield Hit(*match.span(), "[PHONE]")


@family.text_check(_check("card", "rows with a card number", "card number"))
def cards(text: str) -> Iterator[Hit]:
    for match in _CARD.finditer(text) if _DIGITS.search(text) else ():
        digits = [int(char) for char in match[0] if char.isdigit()]
        if _ISSUER.match(match[0]) and len(set(digits)) > 1 and luhn(digits):
            yield Hit(*match.span(), "[CARD]", f"{match[0][:4]}…")


@family.text_check(_check("iban", "rows with an IBAN", "IBAN", short="IBAN"))
def ibans(text: str) -> Iterator[Hit]:
    for match in _IBAN.finditer(text):
        length = _IBAN_LENGTHS.get(match[0][:2], 0)
        ends = [end for end, char in enumerate(match[0], match.start() + 1) if char != " "]
        end = ends[length - 1] if 0 < length <= len(ends) else 0
        if end and mod97(text[match.start() : end].replace(" ", "")) and not text[end : end + 1].isalnum():
            yield Hit(match.start(), end, "[IBAN]", f"{match[0][:4]}…")


@family.text_check(_check("government-id", "rows with a government ID", "ID number", _MASK_UNSAFE, short="ID"))
def government_ids(text: str) -> Iterator[Hit]:
    for match in _ID.finditer(text) if _FIVE_DIGITS.search(text) else ():
        start, end = match.span("document") if match["document"] else match.span()
        yield Hit(start, end, "[ID]", f"{text[start : start + 2]}…")


@family.text_check(_check("address", "rows with a home address", "address", _MASK_UNSAFE))
def addresses(text: str) -> Iterator[Hit]:
    for match in _ADDRESS.finditer(text) if _NUMBER.search(text) else ():
        if _RESIDENCE.search(text, max(0, match.start() - _BEFORE_ADDRESS), match.start()):
            yield Hit(*match.span(), "[ADDRESS]")


def is_reserved_domain(text: str) -> bool:
    """Return whether ``text`` begins with a domain that is reserved for examples, such as ``example.com``."""
    return bool(_RESERVED_DOMAIN.match(text))


def luhn(digits: list[int]) -> bool:
    """Return whether the last digit is the correct check digit (ISO/IEC 7812-1, annex B)."""
    doubled = [digit * 2 - 9 if digit > 4 else digit * 2 for digit in digits[-2::-2]]
    return (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


def mod97(iban: str) -> bool:
    """Return whether an IBAN without spaces has correct check digits (ISO 7064, MOD 97-10)."""
    return int("".join(str(int(char, 36)) for char in iban[4:] + iban[:4])) % 97 == 1
