"""Recipes: typed TOML files with everything needed to reproduce a run."""

from mlxtune.recipe.load import dump, load, parse, read_template
from mlxtune.recipe.schema import (
    AUTO,
    AdapterSection,
    DataSection,
    Disclaimer,
    Endpoint,
    EvaluationSection,
    Length,
    MethodSection,
    ModelSection,
    Phrase,
    Recipe,
    SearchSection,
    TrainingSection,
)  # fmt: skip

__all__ = [
    "AUTO", "AdapterSection", "DataSection", "Disclaimer", "Endpoint", "EvaluationSection", "Length", "MethodSection", "ModelSection",
    "Phrase", "Recipe", "SearchSection", "TrainingSection", "dump", "load", "parse", "read_template",
]  # fmt: skip
