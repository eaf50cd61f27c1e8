"""How answers end. A program or a limit of tokens that cuts an answer off leaves signs: an open bracket, a last word that ends no sentence."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence

from mlxtune.data.checks.illustration import CODE
from mlxtune.data.languages import FREQUENT_WORDS, WORDS

_LINKING, SELDOM_LAST = frozenset(WORDS["linking"].split()), frozenset(WORDS["seldom_last"].split())
_STOPS = (*'.!?…。！？"”’)]}>*', "'")
_MARKER = re.compile(r"\s*(?:[-*•+–]|\(?(?:\d{1,3}|[A-Za-z])[.)]\s|#+\s|>)\s*")
_LONE_MARKER, _NUMBERED = re.compile(r"\s*(?:[-*•+–]|\(?\d{1,3}[.)])"), re.compile(r"(?m)^[ \t]*\(?\d{1,3}[.)]\s")
_QUOTED = re.compile(r"'[^'\n]*'|\"[^\"\n]*\"")
_OPEN_QUOTE = re.compile(r"(?<!\S)[\"“](?=\w)[^\"”]*\Z")  # neither inches nor the end of a quotation
_FORMULA = re.compile(r"[={}<>|$\\_#]|https?:|\w\.\w+/|\w@\w")
_LATEX = re.compile(r"\$[^$]*\\[A-Za-z]{2,}|\\\[|\\begin\{")
_SIGNATURE = re.compile(
    r"""(?x)(?:
      (?<=[.!?'\"”]\s)[-–—]\s?[A-Z][\w.]*(?:\s[A-Z][\w.]*)*
    | (?:^|[.!?\n]\s?)(?:Yours?|Sincerely|Respectfully|Cordially|Regards|Best|Kind|Warm\w*|Love|With|Thank\w*)\b[^.,!?\n]{0,40},\s*(?:[\[A-Z][^.!?]{0,40})?
    )\s*\Z"""
)
_ENDED = re.compile(r"(?<!\b[A-Z])(?<!\b[JSDMv][rts])[.!?][\"”’')\]]*\s+[\"“(‘]?[^\W\d_a-z]|[。！？]”?\w")
_CUT_JSON = re.compile(r"[\[{]\s*(?:[\"{\[]|\Z)")
_WORD = r"[぀-ヿ㐀-鿿]|(?:(?![぀-ヿ㐀-鿿])[^\W_])+(?:['’-][^\W_]+)*"
_LAST = re.compile(rf"({_WORD})[\"“”'’*]*\s*\Z")
_MIN_WORDS, _MIN_BARE = 3, 4  # the ends of texts, and of last lines without a stop, with fewer words show nothing
_LONG = 12  # the last words of texts with fewer words show nothing
_LONGEST_WORD = 40  # characters at the end of a line in which its last word is searched for
_SIMILAR_SHARE = 0.8  # of the lines like the last one end with a stop, so that it should, too
# A word, and the next one if no stop follows
_USE = re.compile(rf"({_WORD})[\"”'’*)]*(?:[.!?。！？,\n]|\Z|[^\S\n]*(?=[\"“‘(*]*(\w+)))")
_PRIOR, _MANY = 2, 20  # neighbors of a word that are assumed to be as usual, and those that show enough
_GRAMMATICAL = FREQUENT_WORDS.union(WORDS["empty"].split(), SELDOM_LAST)  # of others, a small file shows only some of the uses
MOST_ODDS = 50.0


def ending(text: str) -> tuple[str, str] | None:
    """Return how a text ends, and the last word of one that does not end whole if it shows something, or ``None`` if it is too short to tell.

    It is ``whole``, ``broken`` off within brackets, a fence, or a list, or ``cut`` after a word or sign that something follows.
    Without a stop, it is ``open`` if its other sentences or items have one, and ``bare`` if it may be a sentence.
    """
    text = text.rstrip()
    if _CUT_JSON.match(text) and (text.endswith(("}", "]")) or _is_open(text, "{}", "[]")):
        return "other" if text.endswith(("}", "]")) else "broken", ""
    if _words(text) < _MIN_WORDS:
        return None
    before, _, line = text.rpartition("\n")
    end = _line_ending(line, before)
    return end, _last_word(line).casefold() if end != "whole" and _words(text) >= _LONG else ""


def _line_ending(line: str, before: str) -> str:
    text = f"{before}\n{line}"
    is_lone_marker = bool(_LONE_MARKER.fullmatch(line) and (line[-1] not in ".)" or _NUMBERED.search(before)))
    if line.endswith(("```", *_STOPS[:7])) or _SIGNATURE.search(text[-200:]):
        return "broken" if is_lone_marker else "whole"
    if is_lone_marker or (text.count("```") % 2 and len(re.findall(r"(?m)^[ \t]*```", text)) % 2) or _is_in_formula(text):
        return "broken"
    is_item, sentence = bool(_MARKER.match(line)), _MARKER.sub("", line, count=1)
    words, is_code = sentence.split(), bool(CODE.search(line))
    is_long = _words(sentence) >= _MIN_BARE
    similar = [one for one in before.split("\n")[-30:] if bool(_MARKER.match(one)) == is_item and len(one.split()) >= _MIN_WORDS]
    if (
        is_long
        and not is_code
        and (_continues(line) or _OPEN_QUOTE.search(line))
        and not any(_continues(one, SELDOM_LAST) for one in similar)
    ):
        return "cut"
    code = text[text.rfind("```") + 1 :]
    if is_code or len(CODE.findall(code[-1000:])) > 1:
        code = _QUOTED.sub("", code)
        return "broken" if _is_open(code, "()", "{}", "[]") and line[-1] not in "\"'}" else "other"
    if line.endswith(_STOPS):
        return "whole"
    if _is_open(re.sub(r"[:;=]'?-?\(", "", line), "()"):
        return "broken"
    has_ended = _ENDED.search(sentence)
    word = _last_word(line)
    if not word or any(map(str.isdigit, word)) or words[-1][0] in "#@" or (_FORMULA.search(line) and not has_ended):
        return "other"
    stops = [one.rstrip().endswith(_STOPS) for one in similar if not one.rstrip().endswith(":")]
    if has_ended or ((is_item or is_long) and len(stops) > is_item and sum(stops) >= _SIMILAR_SHARE * len(stops)):
        return "open"
    is_title = line.isupper() or sum(one[0].isupper() for one in words) > 0.6 * len(words)
    return "other" if is_item or not is_long or is_title or (similar and not any(stops)) else "bare"


def _is_open(text: str, *brackets: Sequence[str]) -> bool:
    return any(text.count(pair[0]) > text.count(pair[1]) for pair in brackets)


def _is_in_formula(text: str) -> bool:
    plain = text.replace("\\\\", "").replace("\\$", "")
    return bool(_LATEX.search(plain)) and (plain.count("$") % 2 == 1 or _is_open(plain, ("\\[", "\\]"), ("\\begin{", "\\end{")))


def _words(text: str) -> int:
    return max(len(text.split()), len(text.encode(errors="replace")) // 12)  # some languages have no spaces


def _continues(line: str, others: frozenset[str] = frozenset()) -> bool:
    """Return whether the last word or sign of a line says that something follows, or is one of the ``others``."""
    word = _last_word(line)
    return line.rstrip()[-1:] in (*",;&–—=+，、；",) or (word != "A" and word.casefold() in _LINKING | others)


def _last_word(line: str) -> str:
    return match[1] if (match := _LAST.search(line[-_LONGEST_WORD:])) else ""


def cut_odds(texts: Iterable[str], words: Iterable[str]) -> dict[str, float]:
    """Return how many times as likely each of ``words`` is the last one of a text that was cut anywhere as of a sentence in ``texts``.

    That a word ends no sentence shows little if it has few different neighbors, and nothing if it also has a meaning of its own.
    """
    following = {word: Counter[str]() for word in words}
    uses = ends = 0
    for text in texts:
        for word, after in _USE.findall(text.casefold()):
            uses, ends = uses + 1, ends + (not after)
            if word in following:
                following[word]["0" if after.isdecimal() else after] += 1
    share = ends / max(1, uses)
    odds = {}
    for word, after in following.items():
        neighbors, own = len(after), after[""] / max(1, after.total())
        ratio = share * (neighbors + _PRIOR) / max(1e-9, neighbors * own + _PRIOR * share)
        odds[word] = min(ratio, MOST_ODDS if word in _GRAMMATICAL or neighbors >= _MANY else 1.0)
    return odds
