"""Settings: what is right is taken, what is wrong is a sentence, and a theme that is kept leaves the rest of the file alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlxtune.core import settings
from mlxtune.core.errors import InputError


@pytest.fixture(autouse=True)
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MLXTUNE_HOME", str(tmp_path))
    return tmp_path / "settings.toml"


def test_no_file_is_no_settings() -> None:
    assert settings.load() == settings.Settings()


def test_a_theme_and_keys_are_read_with_and_without_quotes_around_the_id(file: Path) -> None:
    file.write_text('theme = "paper"\n[keys]\n"train.zoom" = "x"\nhome.new = "ctrl+n,f2"\n')
    assert settings.load() == settings.Settings("paper", {"train.zoom": "x", "home.new": "ctrl+n,f2"})


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("theme = ", "settings.toml cannot be read:"),
        ("themes = 1", "unknown key themes. Did you mean theme?"),
        ("theme = 3", "theme must be a name in quotes."),
        ("keys = 3", "keys must be a table, [keys]."),
        ('[keys]\n"train.zoom" = 3', "keys.train.zoom must be a key in quotes."),
        ('[keys]\n"train.zoom" = " "', "keys.train.zoom must be a key in quotes."),
        ('"\\u001b[2J" = 1', "unknown key ␛[2J."),
    ],
)
def test_what_is_wrong_is_one_sentence_and_the_rest_holds(file: Path, text: str, sentence: str) -> None:
    file.write_text(text + "\n")
    found = settings.load()
    assert len(found.complaints) == 1
    assert sentence in found.complaints[0]
    assert (found.theme, dict(found.keys)) == ("", {})


def test_bytes_that_are_no_text_are_a_sentence(file: Path) -> None:
    file.write_bytes(b"\xff\xfe\x00")
    assert "cannot be read" in settings.load().complaints[0]


def test_keeping_a_theme_leaves_comments_and_keys(file: Path) -> None:
    file.write_text('# mine\ntheme = "ink"\n\n[keys]\n"train.zoom" = "x"  # closer\n')
    settings.keep_theme("paper")
    assert file.read_text() == '# mine\ntheme = "paper"\n\n[keys]\n"train.zoom" = "x"  # closer\n'


def test_keeping_a_theme_makes_the_file_or_says_why_not(file: Path) -> None:
    settings.keep_theme("ansi")
    assert settings.load().theme == "ansi"
    file.write_text("theme = [")
    with pytest.raises(InputError, match="cannot be read"):
        settings.keep_theme("ink")
    assert file.read_text() == "theme = ["
