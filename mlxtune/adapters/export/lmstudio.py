"""Write a model where LM Studio looks for it, with a preset for its system prompt and sampling. Imports no mlx.

Models are in ``models/PUBLISHER/MODEL/FILE.gguf`` (https://lmstudio.ai/docs/app/advanced/import-model), and presets in
``config-presets/NAME.preset.json`` (https://lmstudio.ai/docs/app/presets). LM Studio renders prompts with the template in the GGUF file.
"""

from pathlib import Path
from typing import Any

from mlxtune.core.errors import InputError
from mlxtune.core.files import read_json, write_json

PUBLISHER = "mlxtune"
PRESETS = "config-presets"


def lmstudio_home() -> Path:
    """Return LM Studio's folder: the path in ``~/.lmstudio-home-pointer``, or ``~/.lmstudio``."""
    pointer = Path.home() / ".lmstudio-home-pointer"
    try:
        named = Path(pointer.read_text(encoding="utf-8").strip())
    except (OSError, UnicodeDecodeError):
        named = Path()
    return named if named.is_absolute() else Path.home() / ".lmstudio"


def model_folder(name: str) -> Path:
    return lmstudio_home() / "models" / PUBLISHER / name


def has_other_preset(name: str, system: str) -> bool:
    """Return whether there is a preset ``name`` that differs from the one that :func:`write_preset` would write."""
    file = _preset_file(name)
    try:
        return file.exists() and read_json(file) != _preset(name, system)
    except InputError:
        return True


def write_preset(name: str, system: str) -> Path:
    """Write the preset ``name``: greedy sampling, as in an evaluation, and the ``system`` prompt if there is one. Return its file."""
    file = _preset_file(name)
    write_json(file, _preset(name, system))
    return file


def _preset_file(name: str) -> Path:
    return lmstudio_home() / PRESETS / f"{name}.preset.json"


def _preset(name: str, system: str) -> dict[str, Any]:
    fields: list[dict[str, Any]] = [
        {"key": "llm.prediction.temperature", "value": 0},
        {"key": "llm.prediction.repeatPenalty", "value": {"checked": False, "value": 1}},
    ]
    if system:
        fields.insert(0, {"key": "llm.prediction.systemPrompt", "value": system})
    return {"identifier": f"@local:{name}", "name": name, "changed": False, "operation": {"fields": fields}, "load": {"fields": []}}
