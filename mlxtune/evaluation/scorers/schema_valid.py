"""Does the output's JSON value satisfy a JSON Schema (draft 2020-12, formats on)?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema_rs

from mlxtune.core.errors import InputError
from mlxtune.core.files import read_json
from mlxtune.core.text import one_line
from mlxtune.evaluation.scorers import HOLDS, Score
from mlxtune.evaluation.scorers.json_valid import parse


def _refuse(uri: str) -> Any:
    raise ValueError(f"{uri} was not fetched: a schema must be whole in itself")


class Schema:
    """A compiled schema."""

    def __init__(self, schema: Any) -> None:
        """Raises ``InputError`` when ``schema`` is not a valid schema or refers to another file or address."""
        try:
            self._validator = jsonschema_rs.validator_for(schema, retriever=_refuse, validate_formats=True)
        except (ValueError, jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError) as error:
            raise InputError(f"The schema cannot be used: {one_line(str(error), 200)}") from error

    @classmethod
    def read(cls, path: Path) -> Schema:
        """The schema in ``path``. Raises ``InputError``."""
        return cls(read_json(path))

    def score(self, output: str) -> Score:
        """Whether ``output`` parses and satisfies the schema; the first failing path and keyword otherwise."""
        try:
            value = parse(output)
        except ValueError:
            return Score(False, "not JSON", "the output is not JSON")
        try:
            error = next(self._validator.iter_errors(value), None)
        except ValueError as failure:  # a value no validator can hold, such as a lone surrogate
            return Score(False, "not checkable", one_line(str(failure), 120))
        if error is None:
            return HOLDS
        path = "/" + "/".join(map(str, error.instance_path))
        return Score(False, path, one_line(error.message, 160))
