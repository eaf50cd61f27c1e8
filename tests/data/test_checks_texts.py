"""Text checks report what they must and nothing else."""

from collections import Counter
from pathlib import Path

import pytest

from mlxtune.data.checks.characters import invisible, mojibake
from mlxtune.data.checks.check_input import CheckInput
from mlxtune.data.checks.personal import addresses, cards, emails, government_ids, ibans, luhn, mod97, phones
from mlxtune.data.checks.secrets import entropy, mask, secrets
from mlxtune.data.checks.wording import boilerplate, loops, placeholders, refusals, residue, self_references
from mlxtune.data.rows import Conversation, Location, Message


def matched_text(check, text: str) -> list[str]:
    return [text[hit.start : hit.end] for hit in check(text)]


# split so that secret scanners ignore them
SECRETS = [
    "AKIA" + "IOSF7DNNQ2RT5WVK",
    "ghp_" + "a1B2c3D4" * 4 + "e5F6",
    "github_pat_" + "11ABQDWFG0" * 6,
    "glpat-" + "x9Y8z7W6v5U4t3S2r1Q0",
    "sk-ant-" + "api03-" + "a1B2c3D4" * 6,
    "sk-proj-" + "a1B2c3D4" * 5,
    "sk_live_" + "4eC39HqLyjWDarjtT1zdp7dc",
    "hf_" + "aBqDeWgHiJ" * 3 + "kLmN",
    "AIza" + "SyA1b2C3d4E5f6G7h8I9j0K1l2M3n4O5p6Q",
    "xoxb-" + "290417835562-bqdzefGHWJKL",
    "SG." + "a1B2c3D4e5F6g7H8i9J0k1" + "." + "a1B2c3D4" * 5 + "e5F",
    "npm_" + "a1B2c3D4" * 4 + "e5F6",
    "eyJ" + "hbGciOiJIUzI1NiJ9" + ".eyJ" + "zdWIiOiIxMjM0NTY3ODkwIn0" + "." + "dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U",
]


@pytest.mark.parametrize("secret", SECRETS)
def test_keys_of_known_services(secret: str) -> None:
    assert matched_text(secrets, f"Here it is: {secret}. Use it") == [secret]


def test_a_private_key_is_one_match() -> None:
    key = "-----BEGIN RSA PRIVATE KEY-----\n" + "MIIEow+/abc\n" * 5 + "-----END RSA PRIVATE KEY-----"
    assert matched_text(secrets, f"see\n{key}\nthere") == [key]


def test_entropy_and_mask() -> None:
    assert entropy(Counter("aaaa")) == 0.0
    assert entropy(Counter("abcd")) == 2.0
    assert mask("sk-1234567") == "sk-1…(10 characters)"


@pytest.mark.parametrize(
    "number",
    [
        "+44 20 7946 0958", "+4915112345678", "(212) 010-9999", "212-010-9999", "020 7946 0958", "030/12345678", "01 44 35 66 78",
        "01.44.35.66.78", "06-18345678", "138 0013 8042", "(0306) 999 0867", "6876412745",
    ],
)  # fmt: skip
def test_phone_numbers(number: str) -> None:
    assert matched_text(phones, f"Call {number}, or write.") == [number]


def test_cards_need_an_issuer_and_a_valid_check_digit() -> None:
    good = ["4111 1111 1111 1111", "4111.1111.1111.1111", "5500-0000-0000-0004", "378282246310005", "6011111111111117"]
    assert matched_text(cards, ", ".join(good)) == good
    assert matched_text(cards, "4111 1111 1111 1112 and 1234 5678 9012 3452 and 355909190063-746") == []


def test_luhn_detects_every_single_digit_error() -> None:
    digits = [int(character) for character in "4111111111111111"]
    assert luhn(digits)
    for index in range(len(digits)):
        for wrong in range(1, 10):
            assert not luhn([*digits[:index], (digits[index] + wrong) % 10, *digits[index + 1 :]])


def test_ibans_need_a_valid_length_and_checksum() -> None:
    assert matched_text(ibans, "DE89 3704 0044 0532 0130 00 IST MEINE, GB82WEST12345698765432.") == [
        "DE89 3704 0044 0532 0130 00",
        "GB82WEST12345698765432",
    ]
    assert matched_text(ibans, "DE89 3704 0044 0532 0130 01 and XX82WEST12345698765432") == []
    assert mod97("NO9386011117947")


@pytest.mark.parametrize(
    ("garbled", "expected"),
    [
        ("cafÃ©", "é"),
        ("itâ€™s", "’"),
        ("â€œyesâ€\x9d", "“"),
        ("20Â€", None),
        ("Ã¼ber", "ü"),
        ("ÐŸÑ€Ð¸Ð²ÐµÑ‚", "Привет"),
        ("âš¡ï¸\x8f 2.9 million", "⚡\ufe0f"),
        ("ðŸ‘©â€\x8dðŸ”§", "👩\u200d🔧"),
        ("â\x81¦@user", "\u2066"),
    ],
)
def test_mojibake_has_a_replacement(garbled: str, expected: str | None) -> None:
    hits = [hit.replacement for hit in mojibake(garbled)]
    assert (hits[0] if hits else None) == expected


def test_invisible_characters() -> None:
    assert matched_text(invisible, "a\u202eb\u200bc\x1b[31m\ufeff") == ["\u202e", "\u200b", "\x1b", "\ufeff"]
    assert matched_text(invisible, "tabs\tand\nlines\r\n, \u200d in 👩\u200d🔧, no\u00a0break, می\u200cخواهم") == []
    assert matched_text(invisible, "a\x81b ê\x81\x8f") == ["\x81"]  # the second one is a part of mojibake that is not repaired
    flag = "\U0001f3f4\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f"
    assert matched_text(invisible, f"{flag} is Scotland") == []


def test_a_latex_command_that_was_read_as_an_escape_is_restored() -> None:
    assert [hit.replacement for hit in invisible("\x0crac{1}{2}, \x08eta and a page\x0c")] == ["\\f", "\\b", ""]
    assert [hit.replacement for hit in invisible("an of\x0cial, as speci\x0bed")] == ["", ""]


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I cannot assist with that.",
        "I can't help with this request.",
        "I'm sorry, but I don't have the capability to book flights.",
        "I am sorry, but I am unable to perform external tasks.",
        "Unfortunately I’m unable to tell you that.",
        "I am not comfortable with that.",
        "I’m sorry, I’m not going to help you to commit a crime.",
        "As an AI, I don't have access to real-time data.",
        "If you want to bypass their security, I won’t do that.",
        "It's not appropriate or safe to discuss how somebody is poisoned.",
        "I am an AI language model and do not condone violence.",
        "I'd rather not get into that topic.",
        "I must respectfully decline this request.",
        "Helping with this would go against my guidelines.",
        "My programming does not permit me to respond to this.",
        "No, I will not be writing that.",
        "There is nothing I can do for you in this matter.",
        "We are unable to fulfill your request at this time.",
        "I won't be able to write that for you.",
        "That's a request I have to turn down.",
        "Helping with that would be wrong of me, so I will pass.",
    ],
)
def test_refusals(text: str) -> None:
    assert matched_text(refusals, text)


@pytest.mark.parametrize(
    ("prompt", "answer", "expected"),
    [
        ("Is it warm?", "As an AI language model, I have no body.", True),
        ("Is it warm?", "I’m just an AI, so no.", True),
        ("Is it new?", "My knowledge cutoff is 2021.", True),
        ("Imagine that you fly. Describe what you are seeing.", "As an AI, I see nothing.", True),
        ("Who are you?", "I am a language model by Ada.", False),
        ("Tell me what you are.", "As an AI, I am a program.", False),
        ("Name a tool.", "You could try software such as an AI assistant.", False),
    ],
)
def test_answers_that_speak_as_an_ai(prompt: str, answer: str, expected: bool) -> None:
    row = Conversation(Location(Path("rows.jsonl"), 1), {}, (Message("user", prompt), Message("assistant", answer)))
    assert bool(self_references(CheckInput(0, row))) is expected


def test_boilerplate() -> None:
    assert matched_text(boilerplate, "Certainly! Here is the list. I hope this helps! Feel free to ask.")
    assert [hit.values for hit in boilerplate("I hope this helps!")] == [{"phrase": "I hope this helps"}]
    assert matched_text(boilerplate, "We hope you enjoy the tent. Of course it is waterproof.") == []


@pytest.mark.parametrize(
    "text",
    ["Dear {{ first_name }},", "Dear [Your Name],", "[insert date]", "<your address here>", "Lorem ipsum dolor", "TODO: write it"],
)
def test_placeholders(text: str) -> None:
    assert matched_text(placeholders, text)


def test_loops() -> None:
    assert matched_text(loops, "Well: we ask the courier, we ask the courier, we ask the courier, we ask the courier.") == [
        "we ask the courier, we ask the courier, we ask the courier, we ask the courier"
    ]
    assert matched_text(loops, "no " * 10)
    assert matched_text(loops, "請稍等" * 5)
    for text in (
        "ha ha ha",
        "0, 0, 0, 0, 0, 0, 0, 0",
        "| --- | --- | --- | --- |",
        "2 babies / (2 babies + 2 babies) = 2 babies / 4 babies",
    ):
        assert matched_text(loops, text) == []


FOUND = {
    secrets: [
        ("password: hunter2Xk9!qLmZ", ["hunter2Xk9!qLmZ"]),
        ('api_key = "9f8e7d6c5b4a39281706f5e4d3c2b1a0"', ["9f8e7d6c5b4a39281706f5e4d3c2b1a0"]),
        ("postgres://admin:" + "s3cretPw9@db.local/x", ["admin:s3cretPw9"]),
    ],
    emails: [("to a.b+c@mail.northpeak.co.uk, or @home, a@b, x@y.z1", ["a.b+c@mail.northpeak.co.uk"])],
    government_ids: [
        ("My SSN is 219-09-9871.", ["219-09-9871"]),
        ("NINO QQ 12 34 56 C, or AB 12 34 56 C", ["AB 12 34 56 C"]),
        ("CPF 529.982.247-25", ["529.982.247-25"]),
        ("DNI 12345678Z; order 12345678Z", ["12345678Z"]),
        ("My passport number is AB1234567.", ["AB1234567"]),
        ("Driver license: A221003127147", ["A221003127147"]),
        ("My ITIN is 968-72-8131, my NHS number is 345 389 5835.", ["968-72-8131", "345 389 5835"]),
        ("Meine Steuer-ID ist 79 387 498 916.", ["79 387 498 916"]),
        ("Il mio codice fiscale è CNRSTN00A08B302B.", ["CNRSTN00A08B302B"]),
        ("我的身份证号是532529196309209498。", ["532529196309209498"]),
        ("제 주민등록번호는 610926-1938749입니다.", ["610926-1938749"]),
        ("The passport costs 1000 to 2000, and the social insurance 12 000 euros.", []),
        ("Order 219-09-98712, part 000-12-3456", []),
        ("Enter it as 123-45-6789; never use 078-05-1120.", []),  # made up, and printed on a sample card
    ],
    addresses: [
        ("My address is 4211 Birchwood Lane, Apt 3B, Portland.", ["4211 Birchwood Lane, Apt 3B"]),
        ("Please ship it to 87 King's Road, London, not to 9 Elm Ct.", ["87 King's Road", "9 Elm Ct"]),
        ("I live at 15 Rue de la Paix. Ich wohne in der Schillerstraße 23.", ["15 Rue de la Paix", "Schillerstraße 23"]),
        ("Mi dirección es Calle Mayor 45, Madrid.", ["Calle Mayor 45"]),
        ("My home is 77 W 3rd St.", ["77 W 3rd St"]),
        ("I live at 729 Brown Spring. Pick it up at my house, 899 Kelly Summit.", ["729 Brown Spring", "899 Kelly Summit"]),
        ("Mi dirección es Cuesta de Gimenez 83, Navarra. Moro na Favela Pires, 5.", ["Cuesta de Gimenez 83", "Favela Pires, 5"]),
        ("Ship it to 20 people in New York. We moved to Windows 11, and I live in District 9.", []),
        ("The restaurant is at 181 Thompson St, New York.", []),  # not a person's
        ("Send it to 123 Main Street.", []),  # a stand-in
        ("He lost his house in the 1929 Wall Street crash. She lives on Sesame Street.", []),
    ],
    residue: [
        ("<p>Hello&nbsp;there</p>", ["<p>", "&nbsp;", "</p>"]),
        ("pythonCopy code\nprint(1)", ["Copy code"]),
        ("ChatGPT said:\nIt is warm.", ["ChatGPT said:"]),
        ("ChatGPT said it was warm.", []),
        ("It is warm.\nChatGPT can make mistakes. Check it.", ["ChatGPT can make mistakes"]),
        ('{"reply": "It is warm.\\nChatGPT can make mistakes."}', ["ChatGPT can make mistakes"]),
        ("a < b && c > d; R&D", []),
    ],
}


@pytest.mark.parametrize(("check", "text", "found"), [(check, *case) for check, cases in FOUND.items() for case in cases])
def test_what_a_check_finds(check, text: str, found: list[str]) -> None:
    assert matched_text(check, text) == found


NOT_FOUND = {
    secrets: [
        "I forgot my password, please reset it.",
        "The key is under the mat; the secret is to wait 10 minutes.",
        "api_key = YOUR_API_KEY_1234567890",
        "password: ********",
        "Your access token expires in 3600s, see https://example.com/docs/tokens?page=2",
        "a sk-learn-like-interface-for-everyone is not a key",
        "commit 9f8e7d6c5b4a39281706f5e4d3c2b1a0d4e5f6a7 fixes it",
        "tokens: 1,024 per batch, batch_tokens=2048",
        "See http://localhost:8080/path@2x.png",
        "token = tokenizer.encode(text1)[0]",
        "ftp://username:password@ftp.shop.com/Repository",
        "see postgres://admin:s3cretPw9@db.example.com/x",
        "AKIA" + "IOSFODNN7EXAMPLE is the key in the documentation",
        '{"password": "aB3#fG7!kL9@"}',
        "password: A1b2C3d4E5f6",
        "password is aBcD1234EfGh",
        "sk-" + "1234567890abcdef1234567890abcdef",
    ],
    emails: [
        "ada@example.com",
        "yourname@yourdomain.com",
        "your_email@gmail.com",
        "boss@company.com",
        "x@shop.test",
        "j@cs.example.edu",
    ],
    phones: [
        "2020-10-12",
        "10 20 30 40 50 60",
        "01 02 03 04 05 06",
        "3.14159265358979",
        "order 4711-0815-99",
        "1,000,000,000",
        "192.168.100.200",
        "ISBN 978-3-16-148410-0",
        "7 + 1234567890",
        "(555) 123-4567",
        "(123) 456-7891",
        "+1 (512) 555-0202",
        "1-800-799-7233",
    ],
    mojibake: ["café", "naïve Ångström", "ÀÉÎ", "«CAFÉ»", "São Paulo", "über", "Привет", "日本語", "5 Â", "Ελλάδα"],
    refusals: [
        "I am sorry to hear that the pole broke.",
        "We cannot send it before Monday.",
        "As an AI researcher she writes a lot.",
        "Sorry, that size is sold out.",
        "Ask our staff for assistance.",
        "I’m sorry, I won’t keep you any longer.",
        "I don’t know what you mean.",
        "Unfortunately, the tent cannot be repaired.",
        "I can't help but smile.",
        "You cannot give up now.",
        "I cannot recommend it enough.",
        "I won't be late.",
    ],
    placeholders: [
        r"\frac{{a}}{{b}}",
        "`{{ value }}` is Jinja",
        "```\n{{ x }}\n```",
        "see [name](http://a.b)",
        "<b>bold</b>",
        "my todo list",
        "{'a': {'b': 1}}",
        "a sequence {x_n} in [a, b]",
        "x = 1  # TODO: check x",
        "name[Cocum], area[city centre], email[address]",
        "<<<ORDER_START>>> ID: 77 <<<ORDER_END>>>",
    ],
}


@pytest.mark.parametrize(("check", "text"), [(check, text) for check, texts in NOT_FOUND.items() for text in texts])
def test_what_only_looks_alike_is_not_found(check, text: str) -> None:
    assert matched_text(check, text) == matched_text(check, f"It is {text} today") == []
