"""A worker's side for setup and training in this process."""

from typing import Any


class Listener:
    """Record events and request a stop after ``stop_at`` steps."""

    def __init__(self, stop_at: int = 0) -> None:
        self.events: list[dict[str, Any]] = []
        self.stop_at = stop_at

    @property
    def stopping(self) -> bool:
        return bool(self.stop_at) and len(self.of("step")) >= self.stop_at

    def emit(self, type: str, **fields: Any) -> None:
        self.events.append({"type": type, **fields})

    def warn(self, code: str, **values: Any) -> None:
        self.emit("warning", code=code, values=values)

    def of(self, type: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["type"] == type]
