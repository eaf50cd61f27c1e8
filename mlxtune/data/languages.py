"""Recognize the language of a text by its script or, in Latin letters, by its most frequent words.

py3langid knows more languages, but takes 0.6 s to load and reads 1 MB a second; lingua is a download of 170 MB.
"""

import re
from collections import Counter
from functools import lru_cache

from mlxtune.data.checks.illustration import FENCE

_WORDS = {
    "English": "the of and to is you that it was for are with this have from they be your what how who which not can will my does do i we he she his her "
    "our their if so but on in an by at or as has had did would there get me any could should am a",
    "German": "der die das und ist nicht ein eine zu mit auf für sich den dem wie was ich sie wir auch wird sind im von kann bitte",
    "French": "le la les des et est une que qui dans pour pas sur avec du vous nous je ce cette sont au plus par quel comment votre",
    "Spanish": "el la los las de que en un y una es por con para del se no su como más pero lo está este son qué cuál cómo muy usted tiene",
    "Italian": "il la un che di è una per non sono della gli nel con come più del alla anche questo ha cosa qual perché mi si lo delle",
    "Portuguese": "o que de não uma para os é com do da em por mais como são um você seu ao na dos isso está foi qual muito também",
    "Dutch": "het een van en is dat niet op te zijn voor met je de wat hoe aan ook er worden kan bij deze naar als uw",
    "Swedish": "och att det är som en på för med inte jag av till den har vi du kan om ett vad hur från så där",
    "Danish": "og at det er som en på for med ikke jeg af til den har vi du kan om et hvad hvordan fra så der",
    "Polish": "nie jest się na że jak co ale za od czy przez dla są tego być może po oraz który które jako tym jego bez",
    "Turkish": "bir ve bu için ile de da ne çok olarak daha olan gibi en kadar var mı nasıl sonra değil ama veya her olduğu",
}  # fmt: skip
_LANGUAGES_OF = {
    word: [name for name, words in _WORDS.items() if word in words.split()] for word in " ".join(_WORDS.values()).split()
}
FREQUENT_WORDS = frozenset(_LANGUAGES_OF)
SCRIPTS = {
    name: re.compile(f"[{letters}]")
    for name, letters in (pair.split() for pair in (
        "Japanese ぀-ヿ", "Korean 가-힣", "Chinese 㐀-鿿", "Cyrillic Ѐ-ӿ", "Arabic ؀-ۿ", "Hebrew ֐-׿", "Hindi ऀ-ॿ", "Thai ฀-๿", "Greek Ͱ-Ͽ"))
}  # fmt: skip
NAMES = (*_WORDS, *SCRIPTS)
_SHARE, _MIXED = 0.5, 0.05  # of the letters are in a script: the text is in its language, or in several
_MIN_WORDS = 3  # distinct frequent words of a language that a text has, and half as many again as of any other
LONGEST = 400  # characters that are read


@lru_cache(maxsize=16)
def language(text: str) -> str:
    """Return the language of ``text``, or its script, and ``""`` if it is not clear."""
    text = FENCE.sub(" ", text[:LONGEST])
    if not text.isascii():
        letters = sum(map(str.isalpha, text)) or 1
        for name, script in SCRIPTS.items():
            share = len(script.findall(text)) / letters
            if share >= (_SHARE if name != "Japanese" else _MIXED):
                return name
            if share >= _MIXED:
                return ""
    counts = Counter(name for word in set(re.findall(r"[^\W\d_]+", text.casefold())) for name in _LANGUAGES_OF.get(word, ()))
    first, second = [*counts.most_common(2), ("", 0), ("", 0)][:2]
    return first[0] if first[1] >= max(_MIN_WORDS, 1.5 * second[1]) else ""


def has_words_of(name: str, text: str, other: str) -> bool:
    """Return whether ``text`` has frequent words of the language ``name``, and none that is frequent in the ``other`` only."""
    words = [_LANGUAGES_OF.get(word, ()) for word in re.findall(r"[^\W\d_]+", text.casefold())]
    return any(name in own for own in words) and not any(other in own and name not in own for own in words)
