"""The tokenizer process: requests, restart after a kill, and close."""

import json
import signal
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from waiting import wait_until

from mlxtune.core.errors import MachineError, ModelError, TooLongError
from mlxtune.data.rows import Conversation, Location, Message
from mlxtune.planning.masks import MaskProcess
from mlxtune.recipe import load

pytestmark = pytest.mark.slow

ROW = Conversation(Location(Path("d.jsonl"), 1), {}, (Message("user", "Hi"), Message("assistant", "Yes?")))


def test_masks_of_several_rows_and_restart_after_a_kill(workspace: Path) -> None:
    recipe = load(workspace / "recipes" / "tiny.toml")
    masks = MaskProcess(recipe)
    first = masks.mask(ROW)
    assert [turn.trained for turn in first.turns] == [0, len("Yes?<")]
    assert first.turns[1].pieces("Yes?") == list("Yes?")
    assert masks._child is not None
    process = masks._child.process
    assert masks.mask(replace(ROW, messages=(*ROW.messages[:1], Message("assistant", "No")))).trained == 3
    process.send_signal(signal.SIGSTOP)  # it cannot answer before it is killed
    with ThreadPoolExecutor() as pool:
        request = pool.submit(masks.mask, ROW)
        wait_until(lambda: masks._child is not None and masks._child._listeners)
        process.kill()
        with pytest.raises(MachineError, match="The tokenizer process was killed"):
            request.result()
    assert masks.mask(ROW) == first
    masks.close()
    assert process.poll() is not None
    with pytest.raises(MachineError):
        masks.mask(ROW)


@pytest.mark.exhaustive
def test_model_and_row_errors_are_raised_in_the_parent(workspace: Path) -> None:
    recipe = load(workspace / "recipes" / "tiny.toml")
    masks = MaskProcess(replace(recipe, model=replace(recipe.model, base="./missing")))
    with pytest.raises(ModelError, match="There is no model named"):
        masks.mask(ROW)
    masks.close()
    settings = workspace / "tiny" / "tokenizer_config.json"
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "chat_template": "{{ raise_exception('no') }}"}))
    masks = MaskProcess(recipe)
    with pytest.raises(Exception, match="rejects this conversation") as caught:
        masks.mask(ROW)
    assert not isinstance(caught.value, TooLongError)
    masks.close()
