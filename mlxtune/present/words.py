"""The words for codes, which are written once, in ``words.toml``."""

import tomllib
from importlib.resources import files
from typing import Any

CATALOG: dict[str, Any] = tomllib.loads(files("mlxtune.present").joinpath("words.toml").read_text("utf-8"))
