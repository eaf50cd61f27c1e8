"""Schema conformance: the output satisfies a JSON Schema (draft 2020-12 unless it specifies another; formats are checked)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jsonschema_rs

from mlxtune.core.errors import InputError
from mlxtune.core.files import read_json
from mlxtune.core.text import one_line
from mlxtune.evaluation.scorers import PASS, ModelAnswer, Score, Scorer
from mlxtune.evaluation.scorers.json_parser import InvalidJSON, parse_json

# Patterns run on fancy-regex. Regular patterns take linear time; look-around and backreferences are limited to this many
# backtracking steps, which take a few tenths of a second on an output of 10,000 characters.
_BACKTRACKS = 100_000


class SchemaValidator:
    """A compiled JSON Schema, made from ``document``."""

    def __init__(self, schema: Any, documents: Mapping[str, Any] | None = None) -> None:
        """Compile ``schema``. ``documents`` maps addresses to schemas that it may refer to; nothing is ever fetched or opened.

        Raises ``InputError`` for an invalid schema or an unknown reference.
        """

        def retrieve(address: str) -> Any:
            if address in (documents or {}):
                return documents[address]  # type: ignore[index]
            raise ValueError(f"{address} is not fetched: a schema must be self-contained")

        self.document = schema
        try:
            self._validator = jsonschema_rs.validator_for(
                schema,
                retriever=retrieve,
                validate_formats=True,
                pattern_options=jsonschema_rs.FancyRegexOptions(backtrack_limit=_BACKTRACKS),
            )
        except (ValueError, jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError) as error:
            raise InputError(f"The schema is invalid: {one_line(str(error), 200)}") from error

    @classmethod
    def read(cls, path: Path) -> SchemaValidator:
        """Load the schema in ``path``. Raises ``InputError``."""
        return cls(read_json(path))

    def score(self, answer: ModelAnswer) -> Score:
        """Score whether the raw output is JSON that satisfies the schema. A failure reports the first failing path and keyword.

        The class of failure does not distinguish positions in an array: ``/items/*/price type``.
        """
        try:
            value = parse_json(answer.output)
        except InvalidJSON:
            return Score(False, "not_json", "the output is not JSON")
        return self.score_value(value)

    def first_error(self, value: Any) -> jsonschema_rs.ValidationError | None:
        """Return a JSON value's first validation error. Raises ``ValueError`` for a value that the validator cannot represent."""
        return next(self._validator.iter_errors(value), None)

    def score_value(self, value: Any) -> Score:
        """Score a JSON value as :meth:`score` scores an output."""
        try:
            error = self.first_error(value)
        except ValueError as failure:  # such as a lone surrogate
            return Score(False, "not_checkable", one_line(str(failure), 120))
        if error is None:
            return PASS
        exact = "/" + "/".join(map(str, error.instance_path))
        path = "/" + "/".join("*" if isinstance(step, int) else step for step in error.instance_path)
        return Score(False, one_line(f"{path} {error.kind.name}", 80), one_line(f"{exact}: {error.message}", 160))


SCORER = Scorer("schema", "fits the schema", lambda contract: contract.schema.score if contract.schema else None)
