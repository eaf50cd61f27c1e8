from pathlib import Path

import pytest

import mlxtune
from mlxtune.cli.output import out

ROOT = Path(__file__).parent.parent.parent


def test_the_pages_are_listed_with_their_titles(cli):
    result = cli("docs")
    assert "mac              On a Mac\n" in result.out
    assert len(result.out.splitlines()) == len(list(ROOT.glob("docs/*.md")))
    assert result.err.strip() == "Read a page: mlxtune docs PAGE"


@pytest.mark.parametrize("page", ["mac", "Mac", "docs/mac.md"])
def test_a_piped_page_is_its_markdown(cli, page):
    assert cli("docs", page).out == (ROOT / "docs" / "mac.md").read_text(encoding="utf-8")


def test_a_terminal_shows_a_page_formatted_in_a_pager(cli, monkeypatch):
    pages: list[str] = []
    monkeypatch.setattr("pydoc.pager", pages.append)
    monkeypatch.setattr(type(out), "is_terminal", True)
    assert cli("docs", "mac").code == 0
    assert "## Quantized bases" not in pages[0]
    assert "Quantized bases" in pages[0]
    assert "\x1b[" in pages[0]


def test_an_installed_package_contains_the_pages(cli, tmp_path, monkeypatch):
    (tmp_path / "mlxtune" / "docs").mkdir(parents=True)
    (tmp_path / "mlxtune" / "docs" / "page.md").write_text("<!-- Generated. -->\n\n# A page\n")
    monkeypatch.setattr(mlxtune, "__file__", str(tmp_path / "mlxtune" / "__init__.py"))
    assert cli("docs").out == "page  A page\n"
