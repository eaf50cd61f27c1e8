"""The streaming detokenizer."""

from hypothesis import example, given
from hypothesis import strategies as st

from mlxtune.models.detokenizer import StreamingDetokenizer


def decode(tokens) -> str:
    """A tokenizer with one byte per token."""
    return bytes(tokens).decode("utf-8", "replace")


@given(st.text(max_size=40))
@example("a\ufffdb")
def test_pieces_join_to_the_text_without_half_characters(text: str) -> None:
    words = StreamingDetokenizer(decode)
    pieces = [words.add(byte) for byte in text.encode()] + [words.end()]
    assert "".join(pieces) == text
    assert not any("\ufffd" in piece for piece in pieces) or "\ufffd" in text


@given(st.text("abc", max_size=30), st.lists(st.text("abc", min_size=1, max_size=4), max_size=3))
def test_stop_strings_and_what_follows_are_hidden(text: str, stops: list[str]) -> None:
    words, shown = StreamingDetokenizer(decode, stops), ""
    for byte in text.encode():
        shown += words.add(byte)
        if words.stopped:
            break
        assert not any(stop in shown for stop in stops)
    else:
        shown += words.end()
    ends = [text.find(stop) + len(stop) for stop in stops if stop in text]
    if ends:
        visible = text[: min(ends)]
        assert words.stopped
        assert shown == visible[: min(visible.find(stop) for stop in stops if stop in visible)]
    else:
        assert shown == text


def test_an_incomplete_character_is_emitted_at_the_end() -> None:
    words = StreamingDetokenizer(decode)
    assert words.add(0xC3) == ""
    assert words.end() == "\ufffd"
