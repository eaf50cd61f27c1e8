"""mlxtune: fine-tune a local model on one Mac, and prove that it helped. The Python API is in ``mlxtune.api``."""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"
__all__ = ["check_data", "evaluate", "generate", "load_adapter", "load_recipe", "load_report", "train"]


def __getattr__(name: str) -> Any:
    """Import the API only when it is used, because every worker imports this package. ``__init__.pyi`` has the types."""
    if name in __all__:
        return getattr(import_module("mlxtune.api"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
