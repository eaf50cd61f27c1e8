"""A source checked with all that its recipe knows: its contract, its model's true lengths, its split.

    python -m mlxtune.evaluation.examine < request.json

A request is ``{"recipe": FILE}``, or ``{"source": PATH, "format": …, "map": {…}}``; with ``"fetch": false`` no model is. The answer is JSON lines on stdout: ``{"doing",
"share"}`` as it goes, and then ``{"checked": …}`` as :class:`mlxtune.data.checks.checked.Checked` reads it, or ``{"error", "mend",
"kind"}``. :class:`Examination` asks, so that an app stays quick and a check that runs out of memory takes nothing with it.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlxtune.core import errors
from mlxtune.core.errors import InputError, MachineError, MlxtuneError
from mlxtune.core.text import one_line
from mlxtune.data import membership
from mlxtune.data.source import read_source
from mlxtune.data.split import split
from mlxtune.recipe import DataSection, Recipe, load

if TYPE_CHECKING:  # checks load numpy, which others need not wait for
    from mlxtune.data.checks import Report, Scorer, Tokens
    from mlxtune.data.checks.checked import Checked
    from mlxtune.data.rows import Row

MODULE = "mlxtune.evaluation.examine"
Progress = Callable[[str, float], None]


def examine(
    path: Path, data: DataSection, recipe: Recipe | None, progress: Progress = lambda what, share: None, *, fetch: bool = True
) -> Report:
    """Check the source at ``path``, read as ``data`` says, by all that ``recipe`` asks for. Raises ``InputError``.

    The recipe's model is fetched for its tokenizer, unless ``fetch`` is false.
    """
    from mlxtune.data.checks import check

    skipped: dict[str, str] = {}
    shown = one_line(path.name, 40)
    judge = scorer(recipe, skipped)
    tokens = _tokens(recipe, skipped, progress, fetch)
    share = _share(recipe, path, data, skipped)
    return check(
        path, data.format, data.map, scorer=judge, share=share, tokens=tokens, max_tokens=data.max_tokens, skipped=skipped,
        progress=lambda done: progress(f"checking {shown}", done),
    )  # fmt: skip


def scorer(recipe: Recipe | None, skipped: dict[str, str]) -> Scorer | None:
    """What the recipe's contract says of one answer; without one, ``skipped`` says why. Raises ``InputError`` as ``Contract.of`` does."""
    from mlxtune.evaluation.contract import Contract
    from mlxtune.evaluation.scorers import Answer

    if recipe is None or not recipe.contract:
        skipped["contract"] = "there is no recipe" if recipe is None else "the recipe has none"
        return None
    contract = Contract.of(recipe)

    def failed(answer: str) -> dict[str, str]:
        scores = contract.score(Answer(answer, reference=answer))
        return {metric: scores[metric].why for metric in contract.asked - {"contract"} if not scores[metric].holds}

    return failed


def _tokens(recipe: Recipe | None, skipped: dict[str, str], progress: Progress, fetch: bool) -> list[Tokens | None] | None:
    """The true length of every record, as the recipe's model counts; without its tokenizer, nothing."""
    if recipe is None:
        skipped["tokens"] = "there is no recipe, so no tokenizer and no window"
        return None
    from mlxtune.models.resolve import resolve
    from mlxtune.planning import ask

    try:
        resolve(recipe.model.base, near=recipe.folder, progress=progress, fetch=fetch)
        progress("counting tokens", 0.0)
        return ask.tokens(recipe)
    except (InputError, MachineError) as error:
        skipped["tokens"] = error.message
        return None


def _share(recipe: Recipe | None, path: Path, data: DataSection, skipped: dict[str, str]) -> Callable[[Row], str] | None:
    """Which share a row of a file was put into, where a recipe or an earlier split says so."""
    if path.is_dir():
        return None
    if recipe is None and not membership.load(path).splits:
        skipped["split"] = "there is no recipe, no split and no folder with train and test"
        return None
    try:
        shares = split(read_source(path, data.format, data.map), data)
    except MlxtuneError as error:
        skipped["split"] = f"the rows cannot be divided: {one_line(error.message, 100)}"
        return None
    known = {row.hash: name for name in membership.SHARES for row in getattr(shares, name)}
    return lambda row: known.get(row.hash, "")


# In a process of its own


class Examination:
    """A check at work in a process of its own. One thread follows it; any may stop it."""

    def __init__(self, request: dict[str, Any]) -> None:
        self._said = tempfile.TemporaryFile("w+")  # noqa: SIM115 - lives as long as this object
        self._process = subprocess.Popen(
            [sys.executable, "-m", MODULE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._said, text=True,
            start_new_session=True,
        )  # fmt: skip
        with contextlib.suppress(BrokenPipeError):  # it has died, and follow() says so
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps(request))
            self._process.stdin.close()

    def follow(self, progress: Progress) -> Checked | None:
        """What was found; ``None`` when it was stopped. Raises what the check raised, ``MachineError`` when its process died."""
        from mlxtune.data.checks.checked import Checked

        assert self._process.stdout is not None
        for told in (json.loads(line) for line in self._process.stdout if line.endswith("\n")):
            if "doing" in told:
                progress(told["doing"], told["share"])
            elif "checked" in told:
                return Checked.read(told["checked"])
            else:
                raise getattr(errors, told["kind"], MlxtuneError)(told["error"], mend=told["mend"])
        if (code := self._process.wait()) == -signal.SIGTERM:
            return None
        self._said.seek(0)
        said = self._said.read().strip().splitlines()
        why = one_line(said[-1], 200) if said else f"it ended with {code}, as it does when memory runs out"
        raise MachineError(f"The process that checks the rows died: {why}.", mend="Check them again.")

    def stop(self) -> None:
        """End it, and what it has started."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGTERM)
        self._process.wait()


def main() -> int:
    """Entry point: answers the request on stdin."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints is no answer

    def tell(**said: Any) -> None:
        print(json.dumps(said), file=out, flush=True)

    try:
        request = json.load(sys.stdin)
        recipe = load(Path(request["recipe"]), []) if "recipe" in request else None
        if recipe is not None:
            path, data = recipe.source, recipe.data
        else:
            path = Path(request["source"])
            data = DataSection(request["source"], request.get("format", "auto"), request.get("map", {}))
            if recorded := membership.load(path).splits:
                data = replace(data, **vars(list(recorded)[-1]))
        from mlxtune.data.checks.checked import Checked

        report = examine(path, data, recipe, lambda what, share: tell(doing=what, share=share), fetch=request.get("fetch", True))
        tell(checked=Checked.of(report).write())
    except MlxtuneError as error:
        tell(error=error.message, mend=error.mend, kind=type(error).__name__)
    return 0


if __name__ == "__main__":
    sys.exit(main())
