"""Does the output's JSON value satisfy a JSON Schema (draft 2020-12 unless it names another, formats on)?"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jsonschema_rs

from mlxtune.core.errors import InputError
from mlxtune.core.files import read_json
from mlxtune.core.text import one_line
from mlxtune.evaluation.scorers import HOLDS, Answer, Score
from mlxtune.evaluation.scorers.json_text import Refused, parse

# Patterns run on fancy-regex: linear time for all that a finite automaton can match, and for look-around and back-references
# this many steps back, then a verdict: tenths of a second on an output of ten thousand characters.
_BACKTRACKS = 100_000


class Schema:
    """A compiled schema."""

    def __init__(self, schema: Any, documents: Mapping[str, Any] | None = None) -> None:
        """``documents`` are the other schemas that it may refer to, by address: nothing is ever fetched or opened.

        Raises ``InputError`` when ``schema`` is not a valid schema or refers to what is not there.
        """

        def known(address: str) -> Any:
            if address in (documents or {}):
                return documents[address]  # type: ignore[index]
            raise ValueError(f"{address} was not fetched: a schema must be whole in itself")

        try:
            self._validator = jsonschema_rs.validator_for(
                schema,
                retriever=known,
                validate_formats=True,
                pattern_options=jsonschema_rs.FancyRegexOptions(backtrack_limit=_BACKTRACKS),
            )
        except (ValueError, jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError) as error:
            raise InputError(f"The schema cannot be used: {one_line(str(error), 200)}") from error

    @classmethod
    def read(cls, path: Path) -> Schema:
        """The schema in ``path``. Raises ``InputError``."""
        return cls(read_json(path))

    def score(self, answer: Answer) -> Score:
        """Whether the output, raw, is JSON that satisfies the schema; otherwise the first failing path and keyword.

        The class counts every place in an array as one: ``/items/*/price type``.
        """
        try:
            value = parse(answer.output)
        except Refused:
            return Score(False, "not JSON", "the output is not JSON")
        return self.judge(value)

    def first(self, value: Any) -> jsonschema_rs.ValidationError | None:
        """The first thing by which a JSON value fails, if it does. Raises ``ValueError`` for one that no validator can hold."""
        return next(self._validator.iter_errors(value), None)

    def judge(self, value: Any) -> Score:
        """Like :meth:`score`, for a JSON value."""
        try:
            error = self.first(value)
        except ValueError as failure:  # a value no validator can hold, such as a lone surrogate
            return Score(False, "not checkable", one_line(str(failure), 120))
        if error is None:
            return HOLDS
        exact = "/" + "/".join(map(str, error.instance_path))
        path = "/" + "/".join("*" if isinstance(step, int) else step for step in error.instance_path)
        return Score(False, one_line(f"{path} {error.kind.name}", 80), one_line(f"{exact}: {error.message}", 160))
