"""Texts in many scripts, code, emoji, and whitespace, to compare tokenizers; and plain words, of which tests build rows."""

import random
import unicodedata
from collections.abc import Sequence

_PARTS = (
    "The quick brown fox jumps over the lazy dog.", "It's 3,141 o'clock; they've said he'd come, WE'LL see.", "naïve café, Straße, coöperate, señor",
    "Ich weiß nicht, ob der Fährhafen in Konstanz um 7:45 Uhr öffnet.", "Où est le bac n° 12 ? À 18 h 30, près de l’église.",
    "La barca número 8 zarpó ayer. ¿Volverá mañana?", "Паром отходит в 9:05, не опаздывайте!", "Το πλοίο φεύγει στις 10.", "İstanbul’da ılık bir gün",
    "フェリーは午前九時に出ます。", "渡轮什麼時候開？票價是¥128.50。", "배는 언제 출발하나요?", "नाव कब चलेगी? किराया ₹५०", "เรือออกกี่โมง", "متى تغادر العبّارة؟ ١٢٣",
    "מתי יוצאת המעבורת?", "সময় কত? নৌকা", "தமிழில் படகு", "Thuyền rời bến lúc mấy giờ?", "ქართული ნავი", "ቋንቋ አማርኛ",
    "def fib(n: int) -> int:\n    return n if n < 2 else fib(n - 1) + fib(n - 2)\n", 'for (let i = 0; i < 10; i++) { console.log(`${i}`); }',
    '{"name": "ferry", "seats": [1, 22, 333], "open": true}', "SELECT * FROM boats WHERE id >= 1000000 AND name != '';", "#include <stdio.h>\r\nint main() { return 0; }\r\n",
    "<div class=\"a\">&nbsp;</div>", "x = a[1:-1] ** 2 // 3 % 4\n\n\n\ty += 1", "https://example.com/a_b?c=d&e=%20#f", "C:\\Program Files\\x64\\*.dll",
    "😀👍🏽👩‍👩‍👧‍👦🇩🇪", "❤️ ☕️ ✅ → ≠ ½ ∑ 🫠", "a\u200bb\u00a0c\ufeffd", "  leading", "trailing  ", "\t\ttabs\tand   spaces   ", "\n\nnewlines\n\n\nhere\n", " ", "\n",
    "1234567890 12 345 6,789.01 0xFF 1e-10", "(!?) ... --- ___ *** ### $$$ @user #tag", "ALLCAPS CamelCase snake_case kebab-case", "don't DON'T 'tis ’twas rock'n'roll",
    "e\u0301 n\u0303 (decomposed)", "𝕳𝖊𝖑𝖑𝖔 𠮷野家 𓀀", "\u2581 a block that SentencePiece writes for a space", "<|not_a_token|> [NOT] <s2>", "¹²³ ⅷ ㊗ ﬁ",
)  # fmt: skip
COUNT = 200


def texts(specials: Sequence[str], *, composed: bool = False) -> list[str]:
    """Return 200 texts: parts alone, between the control tokens ``specials``, and joined at random. ``composed`` normalizes them to NFC."""
    random_source = random.Random(22)
    found = ["", *_PARTS]
    for index, part in enumerate(_PARTS):
        if specials:
            first, last = specials[index % len(specials)], specials[(index * 7 + 1) % len(specials)]
            found.append(f"{first}{part}{last}\n{first} {last}{part}")
    while len(found) < COUNT:
        chosen = random_source.choices([*_PARTS, *specials], k=random_source.randint(2, 5))
        found.append(random_source.choice(["", " ", "  ", "\n"]).join(chosen))
    return [unicodedata.normalize("NFC", text) if composed else text for text in found[:COUNT]]


WORDS = (
    "anchor", "basket", "candle", "dolphin", "engine", "feather", "garden", "hammer", "island",
    "jacket", "kettle", "ladder", "magnet", "needle", "orchard", "pencil",
)  # fmt: skip
