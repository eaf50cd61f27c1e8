"""Replace a module inside a model."""

from collections.abc import Callable
from typing import Any


class ModuleProxy:
    """Replaces a module of a model. Forwards attribute access and type checks to it, which some architectures rely on."""

    def __init__(self, module: Any) -> None:
        self.module = module

    def __getattr__(self, name: str) -> Any:
        return getattr(self.module, name)

    @property  # type: ignore[misc]  # a type check asks for this attribute
    def __class__(self) -> Any:
        return type(self.module)


class HookedModule(ModuleProxy):
    """A module with ``call`` in place of its own computation."""

    def __init__(self, module: Any, call: Callable[..., Any]) -> None:
        super().__init__(module)
        self.call = call

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.call(*args, **kwargs)
