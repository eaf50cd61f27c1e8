from typing import Any

import pytest

from mlxtune.runs.queue import Queue
from mlxtune.tui.rooms.train.pages import QueuePage
from mlxtune.tui.widgets import ChoiceDialog

from .driver import NARROW, picture_sizes
from .stage import Shop, shown

pytestmark = pytest.mark.slow


async def opened(room: Any) -> None:
    await room.press("Q", until=lambda: isinstance(room.screen, QueuePage) and room.text("#queue-banner"))


def fill(shop: Shop) -> Queue:
    queue = Queue(shop.folder)
    commands = (
        "train recipes/support-json.toml",
        "eval last",
        "search recipes/style.toml --budget 2h",
        "export gguf last",
        "eval last",
    )
    first, second, third, *_ = [queue.add(command.split()) for command in commands]
    queue.start(first)
    queue.end(first, failed=False, message="20261126-0138-support-json")
    queue.start(second)
    queue.end(second, failed=True, message="There is no run yet.")
    queue.start(third)
    queue.remove(5)
    return queue


def waiting(queue: Queue) -> list[str]:
    return [entry.text for entry in queue.entries() if entry.status == "waiting"]


async def test_commands_are_added_and_removed(shop, open_room):
    shop.recipe()
    queue = Queue(shop.folder)
    async with open_room("train", size=NARROW) as room:
        await opened(room)
        assert "n add a command" in room.text("#queue-banner")
        for key, keys, command in (("n", (), "train"), ("n", ("down",), "search"), ("n", ("down", "down"), "eval")):
            await room.press(key, until=lambda: isinstance(room.screen, ChoiceDialog))
            await room.press(*keys, "enter")
            await room.until(lambda name=command: waiting(queue) and waiting(queue)[-1] == f"{name} recipes/support-json.toml")
            await room.until(lambda name=command: isinstance(room.screen, QueuePage) and name in room.text("#queue-commands"))
        await room.press("x", until=lambda: len(waiting(queue)) == 2 and "train" not in room.text("#queue-commands"))
        await room.press("u", until=lambda: waiting(queue)[-1:] == ["train recipes/support-json.toml"])
        await room.press("x", until=lambda: len(waiting(queue)) == 2)
        await room.press("x", until=lambda: len(waiting(queue)) == 1)
        await room.press("x", until=lambda: not waiting(queue) and "The queue is empty." in room.text("#queue-banner"))


async def test_an_interrupted_queue_is_started_again(shop, open_room, monkeypatch):
    started: list[Queue] = []
    monkeypatch.setattr(Queue, "start_runner", lambda queue: started.append(queue))
    shop.recipe()
    queue = fill(shop)
    async with open_room("train", size=NARROW) as room:
        await opened(room)
        assert "not running   1 of 4 done, 1 failed" in room.text("#queue-banner")
        assert "r continue with 2 commands" in room.text("#queue-banner")
        assert "interrupted" in room.text("#queue-commands")
        await room.press("x")  # the first command has ended
        await room.until(lambda: "It was started." in shown(room.app))
        assert "train recipes/support-json.toml" in room.text("#queue-command")
        await room.press(
            "down", until=lambda: room.text("#queue-command").split("\n") == ["  mlxtune eval last", "  There is no run yet."]
        )
        await room.press("down", until=lambda: room.text("#queue-command").endswith("\n  interrupted"))
        await room.press("r", until=lambda: started)
    with queue.runner_lock():
        async with open_room("train", size=NARROW) as room:
            await opened(room)
            assert "● running   1 of 4 done" in room.text("#queue-banner")
            await room.press("r")
            assert len(waiting(queue)) == len(started) == 1


@picture_sizes
def test_pictures(shop, snap_compare, size):
    shop.recipe()
    fill(shop)
    assert snap_compare(shop.app(), terminal_size=size, press=["T", "Q"])
