"""Copy a base's tokenizer together with the chat template that was trained. Imports no mlx."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from mlxtune.core.files import read_json, write_json, write_text
from mlxtune.models.resolve import ModelFolder
from mlxtune.runs.launch import TEMPLATE_FILE

TOKENIZER = ("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt", "*.model")


def copy_tokenizer(
    source: ModelFolder, folder: Path, template: str, patterns: Sequence[str] = TOKENIZER, *, without: Sequence[str] = ()
) -> list[str]:
    """Copy the files of ``source`` that match ``patterns`` into ``folder``, with ``template`` as chat template if it is not empty.

    Transformers and mlx-lm read ``chat_template.jinja``, and older programs ``tokenizer_config.json``. Return the names of the files.
    """
    names = {file.name for pattern in patterns for file in source.folder.glob(pattern) if file.is_file()} - {*without}
    if template:
        names -= {"chat_template.json", TEMPLATE_FILE}
    for name in names:
        shutil.copyfile(source.folder / name, folder / name)
    if not template:
        return sorted(names)
    write_text(folder / TEMPLATE_FILE, template)
    config = folder / "tokenizer_config.json"
    if config.is_file():  # without the name of a renderer in Python, which mlx-lm would prefer
        settings = {key: value for key, value in read_json(config).items() if key != "chat_template_type"}
        write_json(config, settings | {"chat_template": template})
    return sorted({*names, TEMPLATE_FILE})
