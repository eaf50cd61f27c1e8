"""GSM8K (Cobbe et al. 2021, arXiv:2110.14168): solutions step by step. The last line is ``#### RESULT``, and the contract requires it."""

from __future__ import annotations

import re
from collections.abc import Mapping

from sources import Row, chat, lines, with_validation


def convert(files: Mapping[str, bytes], rows: int, held_out: int) -> dict[str, list[Row]]:
    """Return the problems with solutions without calculator annotations."""
    train, test = (
        [
            chat(row["question"], re.sub(r"<<.*?>>", "", row["answer"]))
            for row in lines(files[f"grade_school_math/data/{name}.jsonl"])
        ]
        for name in ("train", "test")
    )
    return with_validation(train, test, rows, held_out)
