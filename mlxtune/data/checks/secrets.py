"""Find secrets: API keys and tokens by their format, and random values next to a word such as ``password``.

The formats for common services follow gitleaks and detect-secrets. A value next to such a word counts only if it has digits and as
many bits of Shannon entropy per character as a generated key.
"""

import math
import re
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping
from importlib.resources import files

from mlxtune.data.checks.base import Check, CheckFamily, Fix, Hit, contains_any
from mlxtune.data.checks.personal import is_reserved_domain

family = CheckFamily()

_KINDS: Mapping[str, str] = tomllib.loads(files("mlxtune.data.checks").joinpath("secrets.toml").read_text("utf-8"))
_FORMATS = re.compile(
    r"(?P<private_key>-----BEGIN[ A-Z0-9]{0,24}PRIVATE KEY(?: BLOCK)?-----(?:[\s\S]{0,8000}?-----END[ A-Z0-9]{0,24}-----)?)"
    rf"|(?<![\w-])(?:{'|'.join(f'(?P<{kind}>{pattern})' for kind, pattern in _KINDS.items())})(?![A-Za-z0-9])"
    r"""|(?P<password_in_a_URL>(?<=://)[^\s/:@"'<>{}$]{1,60}:[^\s/:@"'<>{}$]{4,80}(?=@[\w.-]+))"""
)
_NAMED = re.compile(
    r"""(?ix)
    \b[\w.-]{0,30}?(?:api[ _-]?key|access[ _-]?key|secret(?:[ _-]?key)?|auth[ _-]?token|access[ _-]?token|client[ _-]?secret
      |private[ _-]?key|token|password|passwd|pwd|credential|bearer)\b
    [\w-]{0,12}["'`]?\s{0,3}(?:=>|:=|=|:|\bis\b|\s)\s{0,3}["'`]?
    (?P<value>[A-Za-z0-9+/_.~=!@\#$%^&*-]{10,200})
    """
)
_PREFIXES = (  # every format contains one of these; searching for them is 100 times faster than matching the formats
    "-----BEGIN", "AKIA", "ASIA", "ABIA", "ACCA", "A3T", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_", "glpat-", "gldt-", "glrt-", "glptt-", "glft-", "glimt-", "glagent-", "gloas-", "glsoat-", "glcbt-", "sk-", "sk_", "rk_",
    "pk_", "whsec_", "hf_", "api_org_", "AIza", "GOCSPX-", "ya29.", "xox", "xapp-", "/webhooks/", "hooks.slack", "SG.", "npm_", "pypi-",
    "SK", ":AA", "_v1_", "shp", "EAAA", "sq0", "dapi", "hvs.", "hvb.", "AGE-SECRET", "Q~", "eyJ", "://",
)  # fmt: skip
_WORDS = ("key", "secret", "token", "passw", "pwd", "credential", "bearer")
_MIN_ENTROPY = 3.5  # bits per character; gitleaks' threshold for a generic key
_PLACEHOLDER = re.compile(
    r"(?i)your|example|placeholder|redacted|changeme|change_me|dummy|\*{3}|x{4}|\.{3}|<|\{|\[|12345678|abcdefg|^(?:user(?:name)?|admin|name)?:?(?:pass(?:word)?|pw|secret)\d{0,3}$"
)
_MIN_ALPHABETICAL = 5  # letters


def entropy(counts: Counter[str]) -> float:
    """Return the Shannon entropy of kinds that occur this often, in bits."""
    total = counts.total()
    return -sum(count / total * math.log2(count / total) for count in counts.values())


def mask(secret: str) -> str:
    return f"{secret[:4]}…({len(secret)} characters)"


@family.text_check(
    Check(
        "secret", "block", "rows with a key or password", "This looks like a secret that the model may learn and repeat: {kind}.",
        Fix("put", "mask", safe=True, everywhere=True), "✗", illustrates="any",
    )
)  # fmt: skip
def secrets(text: str) -> Iterator[Hit]:
    end_of_last = 0
    for match in _FORMATS.finditer(text) if contains_any(text, _PREFIXES) else ():
        name = match.lastgroup or ""
        if name == "API_key" and not any(char.isdigit() for char in match[0]):
            continue  # hyphenated words after sk-
        start, end = match.span(match.lastgroup or 0)
        if _PLACEHOLDER.search(match[0]) or (name == "password_in_a_URL" and is_reserved_domain(text[end + 1 : end + 100])):
            continue
        yield _hit(start, end, name, text, certain=name != "password_in_a_URL")
        end_of_last = end
    if not contains_any(text.lower(), _WORDS):
        return
    for match in _NAMED.finditer(text):
        start, end = match.span("value")
        value = text[start:end].rstrip(".!")
        if start >= end_of_last and _random(value):
            yield _hit(start, start + len(value), "value of a key or password", text)


def _random(value: str) -> bool:
    """Return whether ``value`` looks generated: it has digits, letters and high entropy, and is not an example."""
    letters = [char for char in value.casefold() if char.isalpha()]
    if _PLACEHOLDER.search(value) or not letters or not any(char.isdigit() for char in value):
        return False
    if len(letters) >= _MIN_ALPHABETICAL and letters == sorted(letters):
        return False  # letters in alphabetical order: a made-up example such as A1b2C3d4E5f6
    return len(value) >= 10 and entropy(Counter(value)) >= min(_MIN_ENTROPY, 0.85 * math.log2(len(value)))


def _hit(start: int, end: int, kind: str, text: str, *, certain: bool = False) -> Hit:
    return Hit(start, end, "[SECRET]", mask(text[start:end]), values={"kind": kind.replace("_", " ")}, certain=certain)
