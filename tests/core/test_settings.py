from pathlib import Path

import pytest

from mlxtune.core import settings
from mlxtune.core.errors import InputError


@pytest.fixture(autouse=True)
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MLXTUNE_HOME", str(tmp_path))
    return tmp_path / "settings.toml"


def test_defaults_without_a_file() -> None:
    assert settings.load() == settings.Settings()


def test_theme_and_keys_are_read_with_or_without_quotes(file: Path) -> None:
    file.write_text('theme = "paper"\n[keys]\n"train.zoom" = "x"\nhome.new = "ctrl+n,f2"\n')
    assert settings.load() == settings.Settings("paper", {"train.zoom": "x", "home.new": "ctrl+n,f2"})


def test_commands_are_read_as_words_with_fields(file: Path) -> None:
    file.write_text("[commands]\nf5 = \"code -n '{recipe}'\"\n")
    assert settings.load().commands == {"f5": ("code", "-n", "{recipe}")}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("commands = 3", "commands must be a table: [commands]."),
        ("[commands]\nf5 = 3", "commands.f5 must be a quoted command."),
        ('[commands]\nf5 = ""', "commands.f5 must be a quoted command."),
        ('[commands]\nf5 = "code \'x"', "commands.f5 must be a quoted command."),
        ('[commands]\nf5 = "code {recipes}"', "commands.f5: unknown field {recipes}. Did you mean recipe?"),
        ("theme = ", "settings.toml cannot be read:"),
        ("themes = 1", "unknown key themes. Did you mean theme?"),
        ("theme = 3", "theme must be a quoted name."),
        ("relax_gpu_watchdog = 1", "relax_gpu_watchdog must be true or false."),
        ("keys = 3", "keys must be a table: [keys]."),
        ('[keys]\n"train.zoom" = 3', "keys.train.zoom must be a quoted key."),
        ('[keys]\n"train.zoom" = " "', "keys.train.zoom must be a quoted key."),
        ('"\\u001b[2J" = 1', "unknown key ␛[2J."),
    ],
)
def test_invalid_settings_are_reported_in_one_sentence(file: Path, text: str, sentence: str) -> None:
    file.write_text(text + "\n")
    loaded = settings.load()
    assert len(loaded.errors) == 1
    assert sentence in loaded.errors[0]
    assert (loaded.theme, dict(loaded.keys)) == ("", {})


def test_a_binary_file_is_reported(file: Path) -> None:
    file.write_bytes(b"\xff\xfe\x00")
    assert "cannot be read" in settings.load().errors[0]


def test_saving_a_theme_keeps_comments_and_keys(file: Path) -> None:
    file.write_text('# mine\ntheme = "ink"\n\n[keys]\n"train.zoom" = "x"  # closer\n')
    settings.save_theme("paper")
    assert file.read_text() == '# mine\ntheme = "paper"\n\n[keys]\n"train.zoom" = "x"  # closer\n'


def test_saving_a_theme_creates_the_file_or_raises(file: Path) -> None:
    settings.save_theme("ansi")
    assert settings.load().theme == "ansi"
    file.write_text("theme = [")
    with pytest.raises(InputError, match="cannot be read"):
        settings.save_theme("ink")
    assert file.read_text() == "theme = ["
