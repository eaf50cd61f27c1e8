"""The registry of verbs. To add one, write its function in a file here and add a line."""

from mlxtune.data.transforms import metadata_verbs, row_verbs, text_verbs, turn_verbs
from mlxtune.data.transforms.transform import Verb

VERBS: dict[str, Verb] = {
    verb.name: verb
    for verb in (
        text_verbs.REPLACE,
        text_verbs.TRIM,
        text_verbs.NORMALIZE,
        turn_verbs.SYSTEM,
        turn_verbs.TURN,
        row_verbs.DROP,
        row_verbs.KEEP,
        row_verbs.SAMPLE,
        row_verbs.CAP,
        row_verbs.DEDUPE,
        metadata_verbs.TAG,
        metadata_verbs.UNTAG,
        metadata_verbs.SET,
        metadata_verbs.UNSET,
        metadata_verbs.RENAME,
        row_verbs.WHERE,
        metadata_verbs.MAP,
        row_verbs.MERGE,
    )
}
