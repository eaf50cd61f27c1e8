"""Count the tokens of rows, as the checks see them."""

from mlxtune.core.errors import DataError, TemplateError
from mlxtune.data.checks.check_input import TokenCount
from mlxtune.data.rows import Conversation, Preference, Row, Unpaired, assistant_message
from mlxtune.models.template import ChatTemplate

_NO_LIMIT = 2**31 - 1  # tokens


def count_row_tokens(template: ChatTemplate, record: Row | DataError) -> TokenCount | None:
    """Return a row's tokens in training; ``None`` for an invalid record or a row without trained tokens.

    For a pair, the longer answer is counted. A template's error is part of the result.
    """
    try:
        if isinstance(record, DataError):
            return None
        if isinstance(record, Preference):
            pair = template.encode_pair(record, _NO_LIMIT)
            total = len(pair.prompt) + max(len(pair.chosen), len(pair.rejected))
            return TokenCount(total, len(pair.prompt), notes=tuple(sorted(pair.notes)))
        if isinstance(record, Unpaired):
            record = Conversation(record.location, record.meta, (*record.prompt, assistant_message(record.completion)))
        rows = template.encode(record, _NO_LIMIT)
        notes = sorted(frozenset().union(*(row.notes for row in rows)))
        return TokenCount(max(row.full_length for row in rows), min(int(row.trained.argmax()) for row in rows), notes=tuple(notes))
    except TemplateError as error:
        return TokenCount(0, 0, f"{error.problem[:1].upper()}{error.problem[1:]} {error.hint}")
    except DataError:  # no trained tokens
        return None
