"""Actions: what a screen or the app can do, each declared once with its keys, words, and condition.

Bindings, footers, the palette, the help page, the settings file's IDs, and the table of keys in ``docs/commands.md`` follow from the
declarations. To add an action to a room, add a line to its ``ACTIONS`` and a method ``action_NAME``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from textual.actions import parse
from textual.binding import Binding
from textual.content import Content

from mlxtune.tui import keys
from mlxtune.tui.notices import Notice
from mlxtune.tui.render.text import key_line

if TYPE_CHECKING:
    from textual.dom import DOMNode as _Mixin

    from mlxtune.tui.app import MlxtuneApp
else:  # styles follow only the first of a class's bases that is a node
    _Mixin = object

Condition = str | Callable[[Any], object]  # the path of an attribute of the screen, which may be missing, or a function of it


@dataclass(frozen=True)
class Action:
    """Something that a screen can do. Conditions and words that depend on the screen's state are functions of the screen."""

    name: str  # of the method, without action_; with arguments, as in vote('a'), if several actions share it
    key: str = ""  # Textual's names of its keys, separated by commas; the first one is shown
    label: str | Callable[[Any], str] = ""  # a word for the footer and the palette; without one, it is in neither
    help: str = ""  # a phrase for the help page and the palette, if the label does not say it
    when: Condition = lambda _screen: True  # whether it is possible
    why: str | Callable[[Any], Notice | str] = ""  # why it is not possible, which its key then shows
    id: str = ""  # of the binding, after the screen's name; by default, from the action's name
    late: Condition = lambda _screen: False  # whether it is listed after the others
    needs_accelerator: bool = False  # impossible while a worker runs
    bound: bool = True  # whether the screen binds the key; otherwise, a widget does
    priority: bool = False  # whether the key also acts over dialogs and text fields
    command: str = ""  # the command that does the same, without mlxtune: fields such as {recipe}, and words in capitals to replace

    @cached_property
    def call(self) -> tuple[str, tuple[Any, ...]]:
        """The method's name and its arguments."""
        return parse(self.name)[1:]

    @property
    def about(self) -> str:
        """What the action does, for the help page."""
        return self.help or (self.label if isinstance(self.label, str) else "")

    def binding_id(self, group: str) -> str:
        return f"{group}.{self.id or self.name.replace('_', '-')}"

    def words(self, screen: object) -> str:
        return self.label if isinstance(self.label, str) else self.label(screen)


@dataclass(frozen=True)
class ShownAction:
    """An action as drawn: the name of its key, its label, and what a click runs, which has a namespace."""

    key: str
    label: str
    click: str
    name: str = ""
    help: str = ""


class HasActions(_Mixin):
    """A screen, or the app, with declared actions."""

    app: MlxtuneApp

    ACTIONS: ClassVar[Sequence[Action]] = ()  # the most frequently used first
    GROUP: ClassVar[str] = ""  # the beginning of the IDs of its keys
    NAMESPACE: ClassVar[str] = "screen"  # of its actions, which a click in another screen's widget needs

    def __init_subclass__(cls, **kwargs: Any) -> None:
        if "ACTIONS" in vars(cls):
            cls.BINDINGS = [
                Binding(action.key, action.name, action.about, id=action.binding_id(cls.GROUP), priority=action.priority)
                for action in cls.ACTIONS
                if action.key and action.bound
            ]
        super().__init_subclass__(**kwargs)

    @cached_property
    def user_keys(self) -> dict[str, str]:
        """The keys to show, by action, for bindings that the user's settings change."""
        changes = self.app.key_changes
        return keys.shown_keys(changes, {"app": type(self.app), "screen": type(self)}) if changes else {}

    def shown_actions(self) -> list[ShownAction]:
        """Return the actions that are possible now and have a label, in the order of the footer."""
        possible = [action for action in self.ACTIONS if self.is_possible(action) and action.words(self)]
        return [self.show_action(action) for action in sorted(possible, key=lambda action: self.holds(action.late))]

    def key_row(self) -> Content:
        return key_line(*((one.key, one.label, one.click) for one in self.shown_actions()))

    def show_action(self, action: Action | str) -> ShownAction:
        """Return an action, or the one named ``action``, as drawn."""
        if isinstance(action, str):
            action = next(one for one in self.ACTIONS if one.name == action)
        click = action.name if "." in action.name else f"{self.NAMESPACE}.{action.name}"
        key = self.user_keys.get(click) or keys.display_key(action.key.split(",")[0])
        return ShownAction(key, action.words(self), click, action.name, action.help)

    def is_possible(self, action: Action) -> bool:
        return self.holds(action.when) and bool(self.check_action(*action.call))

    def holds(self, condition: Condition) -> bool:
        if not isinstance(condition, str):
            return bool(condition(self))
        value: object = self
        for name in condition.split("."):
            value = value and getattr(value, name)
        return bool(value)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Return whether an action is possible now. Those that are not declared always are."""
        declared = [one for one in self.ACTIONS if one.call == (action, parameters)]
        return not declared or any(self.holds(one.when) for one in declared)

    def refusal(self, name: str) -> Notice | None:
        """Return why an action is impossible now, or ``None`` if its key has another one, here or in the app, that is possible."""
        impossible = next((action for action in self.ACTIONS if action.name == name), None)
        if impossible is None or (self is self.app and not impossible.why):
            return None
        if impossible.needs_accelerator and (in_use := self.app.runs.in_use):
            return in_use
        names = set(impossible.key.split(","))
        nodes: list[HasActions] = [self, self.app] if self is not self.app else [self]
        others = [(node, other) for node in nodes for other in node.ACTIONS if names & set(other.key.split(","))]  # with that key
        if any(node.is_possible(action) for node, action in others):
            return None
        if impossible.why:
            why = impossible.why if isinstance(impossible.why, str) else impossible.why(self)
            return Notice("note", why) if isinstance(why, str) else why
        return Notice("note", f"Not possible now: {', '.join(action.words(node) for node, action in others if node is self)}.")
