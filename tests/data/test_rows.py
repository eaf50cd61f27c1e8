from pathlib import Path

from mlxtune.data.rows import Conversation, Location, Message, Preference, TextRow, Unpaired, shared_system_prompt

LOCATION, OTHER_LOCATION = Location(Path("/a/x.jsonl"), 3), Location(Path("/b/y.jsonl"), 9)
TURNS = (Message("system", "s"), Message("user", "q"), Message("assistant", "a"))


def test_the_hash_depends_on_content_not_on_location_or_metadata():
    first, second = Conversation(LOCATION, {"topic": "x"}, TURNS), Conversation(OTHER_LOCATION, {}, TURNS)
    assert first.hash == second.hash
    assert first.id == first.hash[:12]
    assert first.hash != Conversation(LOCATION, {}, TURNS, ({"name": "f"},)).hash


def test_prompt_content_excludes_the_system_prompt():
    assert Conversation(LOCATION, {}, TURNS).prompt_content == Conversation(LOCATION, {}, TURNS[1:]).prompt_content
    assert Preference(LOCATION, {}, TURNS[:2], "c", "r").prompt_content == Conversation(LOCATION, {}, TURNS).prompt_content


def test_a_shared_system_prompt_is_in_every_row():
    rows = [
        Conversation(LOCATION, {}, TURNS),
        Preference(LOCATION, {}, TURNS[:2], "c", "r"),
        Unpaired(LOCATION, {}, TURNS[:2], "a", True),
    ]
    assert shared_system_prompt(rows) == "s"
    assert shared_system_prompt([*rows, Conversation(LOCATION, {}, TURNS[1:])]) == ""
    assert shared_system_prompt([*rows, Conversation(LOCATION, {}, (Message("system", "t"), *TURNS[1:]))]) == ""
    assert shared_system_prompt([*rows, TextRow(LOCATION, {}, "q")]) == ""
    assert shared_system_prompt([]) == ""


def test_rows_of_different_kinds_have_different_hashes():
    assert TextRow(LOCATION, {}, "q").hash != Conversation(LOCATION, {}, TURNS).hash
    assert Preference(LOCATION, {}, TURNS[:2], "a", "b").hash != Preference(LOCATION, {}, TURNS[:2], "b", "a").hash


def test_the_hash_depends_on_label_and_tools():
    good, bad = (Unpaired(LOCATION, {}, TURNS[:2], "a", label) for label in (True, False))
    assert good.hash != bad.hash
    assert good.prompt_content == bad.prompt_content == Conversation(LOCATION, {}, TURNS).prompt_content
    pair = Preference(LOCATION, {}, TURNS[:2], "a", "b")
    assert pair.hash != Preference(LOCATION, {}, TURNS[:2], "a", "b", ({"name": "f"},)).hash
    assert "tools" not in pair.content
