from __future__ import annotations

from pathlib import Path

from mlxtune.data.rows import Conversation, Message, Place, Preference, RowError, Text, Unpaired, shared_system

HERE, THERE = Place(Path("/a/x.jsonl"), 3), Place(Path("/b/y.jsonl"), 9)
TURNS = (Message("system", "s"), Message("user", "q"), Message("assistant", "a"))


def test_identity_is_the_content_and_not_the_place_or_the_meta():
    one, two = Conversation(HERE, {"topic": "x"}, TURNS), Conversation(THERE, {}, TURNS)
    assert one.hash == two.hash
    assert one.id == one.hash[:12]
    assert one.hash != Conversation(HERE, {}, TURNS, ({"name": "f"},)).hash


def test_system_prompt_is_no_part_of_the_question():
    assert Conversation(HERE, {}, TURNS).question == Conversation(HERE, {}, TURNS[1:]).question
    assert Preference(HERE, {}, TURNS[:2], "c", "r").question == Conversation(HERE, {}, TURNS).question


def test_prompt_and_reference_divide_a_conversation():
    row = Conversation(HERE, {}, TURNS)
    assert row.prompt == TURNS[:2]
    assert row.reference == "a"


def test_a_system_prompt_is_shared_only_where_every_row_has_it():
    rows = [Conversation(HERE, {}, TURNS), Preference(HERE, {}, TURNS[:2], "c", "r"), Unpaired(HERE, {}, TURNS[:2], "a", True)]
    assert shared_system(rows) == "s"
    assert shared_system([*rows, Conversation(HERE, {}, TURNS[1:])]) == ""
    assert shared_system([*rows, Conversation(HERE, {}, (Message("system", "t"), *TURNS[1:]))]) == ""
    assert shared_system([*rows, Text(HERE, {}, "q")]) == ""
    assert shared_system([]) == ""


def test_kinds_with_the_same_words_differ():
    assert Text(HERE, {}, "q").hash != Conversation(HERE, {}, TURNS).hash
    assert Preference(HERE, {}, TURNS[:2], "a", "b").hash != Preference(HERE, {}, TURNS[:2], "b", "a").hash


def test_place_names_file_and_line():
    assert str(HERE) == "x.jsonl, line 3"
    assert str(Place(Path("/a/x.json"), 3, 2)) == "x.json, line 3, element 2"


def test_refused_row_says_where_why_and_what_to_do():
    error = RowError(HERE, "no answer.", mend="Add it.")
    assert (str(error), error.place, error.why, error.mend) == ("x.jsonl, line 3: no answer.", HERE, "no answer.", "Add it.")


def test_format_is_no_part_of_identity():
    assert Text(HERE, {}, "q", format="text") == Text(HERE, {}, "q")
    assert Text(HERE, {}, "q", format="text").hash == Text(HERE, {}, "q").hash


def test_label_and_tools_are_part_of_what_is_taught():
    good, bad = (Unpaired(HERE, {}, TURNS[:2], "a", label) for label in (True, False))
    assert good.hash != bad.hash
    assert good.question == bad.question == Conversation(HERE, {}, TURNS).question
    pair = Preference(HERE, {}, TURNS[:2], "a", "b")
    assert pair.hash != Preference(HERE, {}, TURNS[:2], "a", "b", ({"name": "f"},)).hash
    assert "tools" not in pair.content


def test_a_turn_keeps_what_templates_want():
    assert Message("tool", "x", {"name": "f"}).as_dict() == {"role": "tool", "content": "x", "name": "f"}
