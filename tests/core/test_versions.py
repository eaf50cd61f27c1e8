"""Versions of files."""

from pathlib import Path

import pytest

from mlxtune.core.errors import InputError
from mlxtune.core.files import require_version


@pytest.mark.parametrize("found", [2, 4, None, "3", True])
def test_another_version_is_refused_with_the_path(found: object):
    with pytest.raises(InputError, match=r"evals/a/report\.json was written by another version"):
        require_version(found, 3 if found is not True else 1, Path("evals/a/report.json"))
