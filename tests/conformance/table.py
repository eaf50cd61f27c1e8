"""The table of verdicts: every row shape with every base's chat template, on a byte tokenizer or on a real vocabulary."""

import tempfile
from functools import cache
from pathlib import Path

from bases import BASES, OTHERS, TEMPLATES, Base, template_file, write_base
from downloads import VOCABULARIES
from mlx_lm.tokenizer_utils import TokenizerWrapper
from row_shapes import SHAPES, THINKING
from verdict import Verdict, judge

from mlxtune.models.resolve import ModelFolder
from mlxtune.models.template import ChatTemplate, TemplateSettings, load_template

DATE = "2026-11-26"
# One for each real vocabulary. The others differ in their templates only, and are exhaustive cases.
REPRESENTATIVE = ("Qwen3.5-4B", "Gemma 4 E2B", "Llama 3.2", "gpt-oss", "Phi-3")
AVAILABLE = tuple(base for base in (*BASES, *OTHERS) if base.package or (TEMPLATES and template_file(base).is_file()))
UNTRAINABLE = {
    "GLM-4.5": "no token ends an assistant turn",
    "OLMo 3 Think": "the prompt always opens a thought, so every row needs reasoning",
    "EXAONE Deep": "the prompt always opens a thought, which the template then drops",
    "DeepSeek R1 distilled": "the prompt always opens a thought, which the template then drops",
    "DeepSeek R1 distilled (Llama)": "the prompt always opens a thought, which the template then drops",
    "GLM-4.6": "no token ends an assistant turn",
    "GLM-4.7-Flash": "no token ends an assistant turn",
    "Apertus": "no token ends an assistant turn",
    "Apriel 1.6 Thinker": "no token ends an assistant turn",
}
_scratch = tempfile.TemporaryDirectory()


@cache
def _tokenizer(base: Base, real: bool) -> tuple[ModelFolder, TokenizerWrapper]:
    vocabulary = VOCABULARIES[base.vocabulary].folder() if real else None
    folder = write_base(base, vocabulary, Path(_scratch.name) / f"{base.name}-{real}")
    source = ModelFolder(base.name, folder, {}, "")
    return source, load_template(source, TemplateSettings()).tokenizer


def template_tokenizer(base: Base) -> TokenizerWrapper:
    """Return a tokenizer with the chat template of ``base`` and every byte as a token."""
    return _tokenizer(base, False)[1]


@cache
def open_chat(base: Base, thinking: str, *, real: bool = False, replaced_by: Base | None = None) -> ChatTemplate:
    """Return the chat template of ``base``, or the one that replaces it, in the thinking mode ``thinking``."""
    source, tokenizer = _tokenizer(base, real)
    text = template_file(replaced_by).read_text() if replaced_by else ""
    return load_template(source, TemplateSettings(thinking=thinking, date=DATE, source=text), tokenizer)


@cache
def verdict_of(base: Base, shape: str, *, real: bool = False, thinking: str = "") -> Verdict:
    """Return the verdict for one cell. Thoughts are trained in the shapes that have them, unless ``thinking`` says otherwise."""
    thinking = thinking or ("keep" if shape in THINKING else "off")
    return judge(open_chat(base, thinking, real=real), shape, base.specials, thoughts=thinking != "off")


def verdicts(base: Base, *, real: bool = False) -> dict[str, Verdict]:
    return {shape: verdict_of(base, shape, real=real) for shape in SHAPES}
