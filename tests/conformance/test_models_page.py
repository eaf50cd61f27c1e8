"""The page about models is what its generator writes."""

from __future__ import annotations

import importlib.util
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_page_is_current() -> None:
    spec = importlib.util.spec_from_file_location("models_page", ROOT / "tools" / "models.py")
    generator = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generator)
    page = (ROOT / "docs" / "models.md").read_text()
    assert generator.rendered(page) == page, "run: python tools/models.py"
