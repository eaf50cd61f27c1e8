"""Keys and tokens: shapes that only a secret has, and names of secrets beside a value that nobody would choose.

The shapes are those that gitleaks and detect-secrets know for the services that people meet most. A value beside a name counts only
if it is as random as a key, by its entropy in bits a character (Shannon), and has digits.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator

from mlxtune.data.checks.finding import Fix, Hit, text_check

_SHAPES = re.compile(
    r"""
      (?P<private_key>-----BEGIN[ A-Z0-9]{0,24}PRIVATE[ ]KEY(?:[ ]BLOCK)?-----(?:[\s\S]{0,8000}?-----END[ A-Z0-9]{0,24}-----)?)
    | (?<![\w-])(?:
      (?P<AWS_key>(?:AKIA|ASIA|ABIA|ACCA|A3T[A-Z0-9])[A-Z0-9]{16})
    | (?P<GitHub_token>gh[pousr]_[A-Za-z0-9]{30,255}|github_pat_[A-Za-z0-9_]{40,255})
    | (?P<GitLab_token>gl(?:pat|dt|rt|ptt|ft|imt|agent|oas|soat|cbt)-[A-Za-z0-9_-]{20,})
    | (?P<API_key>sk-ant-[A-Za-z0-9_-]{24,}|sk-(?:(?:proj|svcacct|admin|live|test|or-v1|lf)-)?[A-Za-z0-9_-]{20,})
    | (?P<Stripe_key>(?:sk|rk|pk|whsec)_(?:live|test|prod)?_?[A-Za-z0-9]{16,})
    | (?P<Hugging_Face_token>(?:hf|api_org)_[A-Za-z]{30,})
    | (?P<Google_key>AIza[A-Za-z0-9_-]{35}|GOCSPX-[A-Za-z0-9_-]{28}|ya29\.[A-Za-z0-9_-]{30,})
    | (?P<Slack_token>xox[abeoprs]-[A-Za-z0-9-]{10,}|xapp-\d-[A-Za-z0-9-]{10,})
    | (?P<Slack_webhook>https://hooks\.slack\.com/(?:services|workflows)/[A-Za-z0-9+/]{40,})
    | (?P<Discord_webhook>https://discord(?:app)?\.com/api/webhooks/\d{15,}/[\w-]{50,})
    | (?P<SendGrid_key>SG\.[A-Za-z0-9_-]{16,32}\.[A-Za-z0-9_-]{32,64})
    | (?P<npm_token>npm_[A-Za-z0-9]{36})
    | (?P<PyPI_token>pypi-AgEIcHlwaS5vcmc[A-Za-z0-9_-]{50,})
    | (?P<Twilio_key>SK[0-9a-f]{32})
    | (?P<Telegram_token>\d{8,10}:AA[A-Za-z0-9_-]{33})
    | (?P<DigitalOcean_token>do[opr]_v1_[a-f0-9]{64})
    | (?P<Shopify_token>shp(?:at|ca|pa|ss)_[a-fA-F0-9]{32})
    | (?P<Square_token>(?:EAAA|sq0atp-|sq0csp-)[A-Za-z0-9_-]{22,60})
    | (?P<Databricks_token>dapi[a-f0-9]{32})
    | (?P<Vault_token>hv[sb]\.[A-Za-z0-9_-]{24,})
    | (?P<age_key>AGE-SECRET-KEY-1[A-Z0-9]{58})
    | (?P<Azure_secret>[A-Za-z0-9_~.]{3}\dQ~[A-Za-z0-9_~.-]{31,34})
    | (?P<JWT>eyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,})
    )(?![A-Za-z0-9])
    | (?P<password_in_a_URL>(?<=://)[^\s/:@"'<>{}$]{1,60}:[^\s/:@"'<>{}$]{4,80}(?=@[\w.-]+))
    """,
    re.VERBOSE,
)
_NAMED = re.compile(
    r"""(?ix)
    \b[\w.-]{0,30}?(?:api[ _-]?key|access[ _-]?key|secret(?:[ _-]?key)?|auth[ _-]?token|access[ _-]?token|client[ _-]?secret
      |private[ _-]?key|token|password|passwd|pwd|credential|bearer)\b
    [\w-]{0,12}["'`]?\s{0,3}(?:=>|:=|=|:|\bis\b|\s)\s{0,3}["'`]?
    (?P<value>[A-Za-z0-9+/_.~=!@\#$%^&*-]{10,200})
    """
)
_BEGINS = (  # one of these is in every shape: to look for them costs a hundredth of looking for the shapes
    "-----BEGIN", "AKIA", "ASIA", "ABIA", "ACCA", "A3T", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_", "glpat-", "gldt-", "glrt-", "glptt-", "glft-", "glimt-", "glagent-", "gloas-", "glsoat-", "glcbt-", "sk-", "sk_", "rk_",
    "pk_", "whsec_", "hf_", "api_org_", "AIza", "GOCSPX-", "ya29.", "xox", "xapp-", "/webhooks/", "hooks.slack", "SG.", "npm_", "pypi-",
    "SK", ":AA", "_v1_", "shp", "EAAA", "sq0", "dapi", "hvs.", "hvb.", "AGE-SECRET", "Q~", "eyJ", "://",
)  # fmt: skip
_HINTS = ("key", "secret", "token", "passw", "pwd", "credential", "bearer")
_BITS = 3.5  # of entropy a character: gitleaks asks a generic key for as much
_EXAMPLE = re.compile(r"(?i)your|placeholder|redacted|changeme|dummy|\*{3}|x{4}|\.{3}|<|\{|\[")


def entropy(text: str) -> float:
    """Bits a character, by how often each stands in ``text``."""
    return -sum(count / len(text) * math.log2(count / len(text)) for count in Counter(text).values())


def masked(secret: str) -> str:
    """``secret`` as it can be shown: its first four characters, and how many there are."""
    return f"{secret[:4]}…({len(secret)} characters)"


@text_check("secret", "block", "rows with a key or password", Fix("put", "mask", safe=True), "✗")
def secrets(text: str) -> Iterator[Hit]:
    taken = 0
    for match in _SHAPES.finditer(text) if any(begin in text for begin in _BEGINS) else ():
        name = (match.lastgroup or "").replace("_", " ")
        if name == "API key" and not any(sign.isdigit() for sign in match[0]):
            continue  # sk-something-with-hyphens is a word
        start, end = match.span(match.lastgroup or 0)
        yield _hit(start, end, name, text)
        taken = end
    lower = text.lower()
    if not any(hint in lower for hint in _HINTS):
        return
    for match in _NAMED.finditer(text):
        start, end = match.span("value")
        value = text[start:end].rstrip(".!")
        if start >= taken and _random(value):
            yield _hit(start, start + len(value), "secret beside its name", text)


def _random(value: str) -> bool:
    """Whether ``value`` looks drawn rather than written: digits, letters, and no word of an example."""
    if _EXAMPLE.search(value) or not any(sign.isdigit() for sign in value) or not any(sign.isalpha() for sign in value):
        return False
    if "example" in value.lower() and len(value) < 32:
        return False
    return len(value) >= 10 and entropy(value) >= min(_BITS, 0.85 * math.log2(len(value)))


def _hit(start: int, end: int, name: str, text: str) -> Hit:
    return Hit(start, end, f"What looks like {_an(name)} would be learned and said again.", "[SECRET]", masked(text[start:end]))


def _an(name: str) -> str:
    return f"an {name}" if name[0] in "AaEeIiOo" else f"a {name}"
