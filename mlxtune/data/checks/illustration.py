"""Tell values that a row is about from values that leaked into it: those in code, in an example, or in a task about such values."""

import re
from typing import Literal

from mlxtune.data.checks.check_input import CheckInput, TextPart

_LONG_SYSTEM = 300  # characters; a longer system prompt is about more than the row's task
_BEFORE = 60  # characters before a value in which a word can say that it is an example
FENCE = re.compile(r"```[\s\S]*?(?:```|\Z)|`[^`\n]*`")
CODE = re.compile(
    r"""(?xm)
      (?:[{}]|(?<!&\w\w)(?<!&\w{3})(?<!&\w{4});)\s*$ | ^\s*(?:(?:def|class|import|from|function|const|let|var|public|private|return|print|echo|SELECT|INSERT)\b|\#include|<\?php|\#!|\$\w+)
    | =>\s | ^\s*<(?:a|img|form|html|!) | ^\s*\w+(?:\[\w+\])?\s*:?=\s*["'\[({] | \w\([^)\n]*["'][^)\n]*\)
    """
)
_EXAMPLE = re.compile(
    r"(?i)\b(?:e\.?g\.?|for (?:example|instance)|such as|examples?|sample|dummy|fake|fictional|fictitious|made-up)\b[^\n.!?]*$"
)
_PROGRAM = re.compile(
    r"""(?x)
      (?i:\b(?:write|create|generate|build|implement|develop|design|construct|print|produce|make|edit|modify|fix|debug|complete|rewrite|refactor|convert)\b
        [^.?!\n]{0,80}\b(?:functions?|programs?|scripts?(?=[ ](?:to|that|which)\b)|class(?:es)?|methods?|algorithms?|regex|regular[ ]expressions?|quer(?:y|ies)|web[ ]?pages?|templates?))\b
    | (?i:\b(?:write|create|generate|fix|debug|complete|explain|update|edit|modify)\b[^.?!\n]{0,30}\bcode(?:[ ](?:to|that|which|for|in|so|snippet|below)\b|[:.]))
    | \b(?:Python|JavaScript|TypeScript|Java|PHP|C\+\+|C\#|SQL|HTML|CSS|Bash|Perl|Kotlin|jQuery|Node\.?js)\b
    | (?i:\bregex\b | \bregular[ ]expressions?\b | \b(?:shell|bash)[ ](?:script|command) | \bdata[ ]?frames?\b)
    """
)
_ABOUT_VALUES = re.compile(
    r"""(?xi)
    \b(?:extract|find|identify|detect|validat\w*|verify|check|mask|redact|anonymi[sz]e|remove|filter|format|parse|match|print|list|count|sort|classify
      |recogni[sz]e|generate|invent|replace|split|group)\b
    (?:(?!\b(?:my|our|your|me|I)\b)[^.?!\n]){0,60}
    \b(?:e-?mails|(?:(?:e-?|g|hot)?mail|outlook|yahoo)[ ](?:addresses|accounts)|(?:phone|card|social[ ]security|ID)[ ]numbers|passwords|(?:API[ ])?keys|tokens|secrets|IBANs
      |addresses|placeholders|personal[ ](?:data|information)|PII
      |(?:an?|any|every|each|valid)[ ](?:\w+[ ])?(?:e-?mail|mail|phone|card|password|token|secret|IBAN|address|(?:phone|ID|account|valid)[ ]number))\b
    | (?:电子邮件|邮箱|电话号码)[^。\n]{0,6}列表 | \b(?:dummy|filler|placeholder|sample)[ ](?:text|copy|content|paragraphs?)\b | \blorem[ ]ipsum\b
    """
)
_GIVEN = re.compile(r"(?i)\b(?:given|following|input) (?:string|array|list|dictionary|tuple|text|sentence|paragraph|passage)s?\b")


def is_illustration(row_input: CheckInput, part: TextPart, start: int, kind: Literal["", "fence", "code", "any"]) -> bool:
    """Return whether what is at ``start`` of ``part`` is there to be read: in a ``fence``, among lines of code, or in a task about code.

    ``any`` kind may also be in one line of code, in an example, or in a task about such values; without a kind, it never is.
    """
    text, is_any = part.text, kind == "any"
    in_fence = bool(kind) and any(match.start() <= start < match.end() for match in FENCE.finditer(text))
    if in_fence or kind in ("", "fence"):
        return in_fence
    if is_any and _EXAMPLE.search(text[max(0, start - _BEFORE) : start]):
        return True
    if not part.trains and text[start : start + 5].casefold() == "lorem":
        return True
    line = text[text.rfind("\n", 0, start) + 1 : text.find("\n", start) if "\n" in text[start:] else len(text)]
    if text.lstrip()[:1] not in ("{", "[") and (len(CODE.findall(text)) > 1 or (is_any and CODE.search(line))):
        return True
    return any(
        (is_any and _ABOUT_VALUES.search(one.text))
        or (one.role == "user" and (_PROGRAM.search(one.text) or (is_any and _GIVEN.search(one.text))))
        for one in row_input.parts
        if one.role == "user" or (one.role in ("system", "developer") and len(one.text) <= _LONG_SYSTEM)
    )
