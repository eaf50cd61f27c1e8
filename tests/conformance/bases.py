"""Bases that people fine-tune, by their chat template: its file, its control tokens, and the vocabulary that is closest to its own."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from downloads import OLLAMA_UTILS, TRL, Package
from tiny_model import write_tokenizer

from mlxtune.recipe.schema import SHIPPED_TEMPLATES

TEMPLATES = os.environ.get("MLXTUNE_TEMPLATES", "")  # a folder with the templates that are in no package

CHATML = ("<|im_start|>", "<|im_end|>")
HERMES = (
    "<tool_call>",
    "</tool_call>",
    "<tool_response>",
    "</tool_response>",
    "<think>",
    "</think>",
)  # not special in Qwen's vocabulary
LLAMA3 = (
    "<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|eom_id|>", "<|python_tag|>",
)  # fmt: skip
GEMMA3 = ("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>", "<start_of_image>")
GEMMA4 = (
    "<bos>", "<eos>", "<|turn>", "<turn|>", "<|channel>", "<channel|>", "<|think|>", "<|tool>", "<tool|>", "<|tool_call>",
    "<tool_call|>", "<|tool_response>", "<tool_response|>", '<|"|>', "<|image|>", "<|audio|>", "<|video|>",
)  # fmt: skip
HARMONY = (
    "<|startoftext|>", "<|endoftext|>", "<|return|>", "<|constrain|>", "<|channel|>", "<|start|>", "<|end|>", "<|message|>", "<|call|>",
)  # fmt: skip
MISTRAL = (
    "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_CALLS]", "[TOOL_RESULTS]",
    "[/TOOL_RESULTS]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[ARGS]", "[CALL_ID]", "[THINK]", "[/THINK]", "[IMG]",
)  # fmt: skip
PHI = ("<|endoftext|>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>", "<|tool|>", "<|/tool|>")
GLM4 = ("[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>", "<|endoftext|>")
COHERE = (
    "<|END_OF_TURN_TOKEN|>", "<|START_OF_TURN_TOKEN|>", "<|SYSTEM_TOKEN|>", "<|USER_TOKEN|>", "<|CHATBOT_TOKEN|>",
    "<|START_RESPONSE|>", "<|END_RESPONSE|>",
)  # fmt: skip
COMMAND = (
    "<|START_THINKING|>",
    "<|END_THINKING|>",
    "<|START_ACTION|>",
    "<|END_ACTION|>",
    "<|START_TOOL_RESULT|>",
    "<|END_TOOL_RESULT|>",
)
APERTUS = (
    "<|assistant_end|>",
    *(f"<|{role}_{end}|>" for role in ("system", "developer", "user") for end in ("start", "end")),
    "<|assistant_start|>",
)
APRIEL = (
    "<|end|>",
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
    "<|tool|>",
    "<|begin_system|>",
    "<|begin_user|>",
    "<|begin_assistant|>",
    "<|begin_tool|>",
)
CHATML_TEMPLATE = (
    "{{bos_token}}{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
EXAONE = ("[|endofturn|]", "[|system|]", "[|user|]", "[|assistant|]")
DEEPSEEK = ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>")
LFM2 = (
    "<|startoftext|>", "<|endoftext|>", *CHATML, "<|tool_list_start|>", "<|tool_list_end|>", "<|tool_call_start|>",
    "<|tool_call_end|>", "<|tool_response_start|>", "<|tool_response_end|>",
)  # fmt: skip


@dataclass(frozen=True)
class Base:
    """A base model's chat format.

    ``template`` is a file of ``package``, or without one, of the folder in ``MLXTUNE_TEMPLATES``. ``stops`` are the tokens that
    end generation in the model's config, the first of them the tokenizer's ``eos_token``. ``specials`` are its control tokens and
    ``plain`` tokens of its own that are not control tokens. ``vocabulary`` names the closest real vocabulary. ``tools`` and
    ``thinking`` say whether the template can render tool calls and thoughts. ``default`` is the Jinja template of conversations
    without tools, if ``template`` is only that of conversations with tools.
    """

    name: str
    template: str
    vocabulary: str
    stops: tuple[str, ...]
    specials: tuple[str, ...]
    plain: tuple[str, ...] = ()
    bos: str = ""
    tools: bool = True
    thinking: bool = False
    package: Package | None = TRL
    twin: bool = False  # has marks of the trained text: in a ``_training`` template of TRL's, or in its own
    default: str = ""


qwen = partial(
    Base, vocabulary="qwen3", stops=("<|im_end|>", "<|endoftext|>"), specials=(*CHATML, "<|endoftext|>"), plain=HERMES, twin=True
)
gemma_4 = partial(
    Base, vocabulary="gemma3", stops=("<turn|>", "<eos>", "<|tool_response>"), specials=GEMMA4, bos="<bos>", thinking=True
)
gemma = partial(Base, vocabulary="gemma3", stops=("<end_of_turn>", "<eos>"), specials=GEMMA3, bos="<bos>", tools=False, twin=True)
llama = partial(
    Base, vocabulary="llama3_1", stops=("<|eot_id|>", "<|end_of_text|>", "<|eom_id|>"), specials=LLAMA3, bos="<|begin_of_text|>"
)
mistral = partial(Base, stops=("</s>",), specials=MISTRAL, bos="<s>", package=None)
phi = partial(Base, vocabulary="gptoss", stops=("<|endoftext|>", "<|end|>"), specials=PHI, tools=False)
cohere = partial(Base, vocabulary="llama3_1", stops=COHERE[:1], specials=COHERE, bos="<BOS_TOKEN>", tools=False, twin=True)
chatml = partial(Base, vocabulary="llama3_1", stops=("<|im_end|>",), specials=CHATML, plain=HERMES, package=None)
gguf = partial(Base, vocabulary="llama3_1", package=OLLAMA_UTILS, tools=False)
phi_4 = partial(gguf, stops=("<|im_end|>",), specials=(*CHATML, "<|im_sep|>", "<|endoftext|>"))
elsewhere = partial(Base, vocabulary="llama3_1", package=None, tools=False)
lfm2 = partial(Base, vocabulary="llama3_1", stops=("<|im_end|>",), specials=LFM2, bos="<|startoftext|>")
nemotron_3 = partial(
    Base, vocabulary="llama3_1", stops=("<|im_end|>",), specials=CHATML, plain=HERMES, bos="<s>", thinking=True, twin=True
)

BASES = (
    qwen("Qwen3.5-4B", "qwen3_5_think", thinking=True),
    qwen("Qwen3.5-2B", "qwen3_5_nothink", thinking=True),
    qwen("Qwen3.6", "qwen3_6", thinking=True),
    qwen("Qwen3.8", "qwen3_8", thinking=True),
    qwen("Qwen3", "qwen3", thinking=True),
    qwen("Qwen3-2507", "qwen3_instruct_2507"),
    qwen("Qwen2.5", "qwen2_5"),
    gemma_4("Gemma 4 E2B", "gemma4_v5"),
    gemma_4("Gemma 4 31B", "google-gemma-4-31B-it", thinking=False, package=None),  # renders thoughts before calls only
    gemma("Gemma 3", "gemma3"),
    llama("Llama 3.1", "llama3_1"),
    llama("Llama 3.2", "llama3_2"),
    Base(
        "gpt-oss", "gptoss", "gptoss", ("<|return|>", "<|endoftext|>", "<|call|>"), HARMONY, bos="<|startoftext|>", thinking=True, twin=True,
    ),
    mistral("Ministral 3", "ministral-3-instruct", "gptoss"),
    mistral("Mistral v3", "mistral-v3", "mistral"),
    phi("Phi-4-mini", "phi4-mini-3.8b", package=OLLAMA_UTILS),
    phi_4("Phi-4", "phi-4", package=None),
    Base("SmolLM3", "smollm3", "llama3_1", ("<|im_end|>",), CHATML, HERMES, tools=False, thinking=True, package=None, twin=True),
    Base(
        "Granite 4", "granite4-350m", "llama3_1", ("<|end_of_text|>",),
        ("<|start_of_role|>", "<|end_of_role|>", "<|end_of_text|>"), HERMES[:4], package=OLLAMA_UTILS,
    ),
    lfm2("LFM2.5", "lfm2_2_5_v2", plain=HERMES[4:], thinking=True, twin=True),
)  # fmt: skip
SHIPPED = (
    Base("chatml-tools (shipped)", "chatml-tools", "llama3_1", ("<|im_end|>",), CHATML, HERMES[:4]),
    phi("phi-tools (shipped)", "phi-tools", tools=True),
    gemma("gemma-tools (shipped)", "gemma-tools", tools=True, twin=False),
)
OTHERS = (
    *SHIPPED,
    phi_4("Phi-4 (first revision)", "phi4-14b"),
    gguf("EXAONE 3.5", "exaone3.5-7.8b", stops=EXAONE[:1], specials=EXAONE),
    gguf("EXAONE Deep", "exaone-deep-32b", stops=EXAONE[:1], specials=EXAONE, plain=("<thought>", "</thought>")),
    gguf("OLMo 2", "olmo2-7b", stops=("<|endoftext|>",), specials=("<|endoftext|>",), bos="<|endoftext|>"),
    gguf("Mistral Small 3", "mistral-small-24b", stops=("</s>",), specials=MISTRAL, bos="<s>"),
    gemma("Gemma 2", "gemma"),
    gemma_4("Gemma 4 (first revision)", "gemma4_v2", thinking=False),
    llama("Llama 3", "llama3", tools=False, twin=True),
    phi("Phi-3", "phi3", vocabulary="mistral", twin=True),
    phi("Phi-3.5", "phi3_5", vocabulary="mistral", twin=True),
    lfm2("LFM2", "lfm2", tools=False, twin=True),
    lfm2("LFM2 (later revision)", "lfm2_v2", twin=True),
    qwen("Qwen3-VL, text only", "qwen3_vl"),
    nemotron_3("Nemotron 3 Nano", "nemotron_3_nano"),
    nemotron_3("Nemotron 3 Super", "nemotron_3_super"),
    nemotron_3("Nemotron 3.5 Lightning", "nemotron_3_5_lightning"),
    Base("GLM-4.5", "glm4moe", "qwen3", ("<|endoftext|>", "<|user|>", "<|observation|>"), GLM4, HERMES, thinking=True, twin=True),
    Base(
        "DeepSeek R1 distilled", "deepseek_r1_distill", "llama3_1", ("<｜end▁of▁sentence｜>",), DEEPSEEK, HERMES[4:],
        bos="<｜begin▁of▁sentence｜>", tools=False, thinking=True, twin=True,
    ),
    cohere("Aya Expanse", "cohere", specials=COHERE[:5]),
    cohere("Tiny Aya", "cohere2"),
    Base(
        "Muse Glimmer", "muse_glimmer", "gptoss", ("<|eot|>",), ("<|start|>", "<|message|>", "<|eom|>", "<|eot|>"), thinking=True,
        twin=True,
    ),
    mistral("Mistral Nemo", "mistralai-Mistral-Nemo-Instruct-2407", "gptoss"),
    mistral("Mistral Small 3.1", "Mistral-Small-3.1-24B-Instruct-2503", "gptoss", tools=False),
    mistral("Mistral Small 3.2", "Mistral-Small-3.2-24B-Instruct-2506", "gptoss"),
    mistral("Ministral 3 Reasoning", "mistralai-Ministral-3-14B-Reasoning-2512", "gptoss", thinking=True),
    chatml("OLMo 3 Think", "olmo_thinker", stops=("<|im_end|>", "<|endoftext|>"), plain=HERMES[4:], tools=False, thinking=True),
    chatml("Bielik 3", "Bielik-11B-v3.0-Instruct", bos="<s>", thinking=True),
    chatml("Hermes 3", "NousResearch-Hermes-3-Llama-3.1-8B-tool_use", bos="<|begin_of_text|>", default=CHATML_TEMPLATE),
    cohere(
        "Command R7B", "CohereForAI-c4ai-command-r7b-12-2024-tool_use", specials=(*COHERE, *COMMAND), tools=True, package=None, twin=False,
    ),
    elsewhere("Apertus", "Apertus-8B-Instruct", stops=APERTUS[:1], specials=APERTUS, bos="<s>"),
    elsewhere("Apriel 1.5", "unsloth-Apriel-1.5", stops=("<|end|>",), specials=APRIEL, bos="<s>", tools=True),
    elsewhere("Apriel 1.6 Thinker", "Apriel-1.6-15b-Thinker-fixed", stops=("<|end|>",), specials=APRIEL, bos="<s>"),
    elsewhere("DeepSeek R1 distilled (Llama)", "deepseek-ai-DeepSeek-R1-Distill-Llama-8B", stops=("<｜end▁of▁sentence｜>",),
              specials=DEEPSEEK, plain=HERMES[4:], bos="<｜begin▁of▁sentence｜>"),
    elsewhere("GLM-4.6", "GLM-4.6", stops=("<|endoftext|>", "<|user|>", "<|observation|>"), specials=GLM4, plain=HERMES),
    elsewhere("GLM-4.7-Flash", "GLM-4.7-Flash", stops=("<|endoftext|>", "<|user|>", "<|observation|>"), specials=GLM4, plain=HERMES),
)  # fmt: skip


def template_file(base: Base) -> Path:
    """Return the file with the base's template: shipped, of a package, or in the folder that ``MLXTUNE_TEMPLATES`` names."""
    if base.template in SHIPPED_TEMPLATES:
        return SHIPPED_TEMPLATES[base.template]
    return (base.package.folder() if base.package else Path(TEMPLATES)) / f"{base.template}.jinja"


def write_base(base: Base, vocabulary: Path | None, folder: Path) -> Path:
    """Write the tokenizer of ``base`` with its template to ``folder``; without ``vocabulary``, every byte is a token.

    The ids of its stop tokens are in ``generation_config.json``.
    """
    text = template_file(base).read_text()
    names = dict.fromkeys((*base.stops, *base.specials, *([base.bos] if base.bos else [])))
    if vocabulary is None:
        write_tokenizer(folder, template=text, stop=base.stops[0], specials=tuple(names), plain=base.plain)
        tokenizer = json.loads((folder / "tokenizer.json").read_text())
    else:
        folder.mkdir(parents=True, exist_ok=True)
        tokenizer = json.loads((vocabulary / "tokenizer.json").read_text())
        _add_tokens(tokenizer, names, base.plain)
        (folder / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False))
    templates = [{"name": "default", "template": base.default}, {"name": "tool_use", "template": text}] if base.default else text
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": base.stops[0], "chat_template": templates}
    settings |= {"bos_token": base.bos} if base.bos else {}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, ensure_ascii=False))
    ids = {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [ids[stop] for stop in base.stops]}))
    return folder


def _add_tokens(tokenizer: dict, names: dict[str, None], plain: tuple[str, ...]) -> None:
    """Add the tokens that the vocabulary lacks; its own control tokens that the base does not have become plain ones."""
    known = {token["content"]: token for token in tokenizer["added_tokens"]}
    size = max([*tokenizer["model"]["vocab"].values(), *(token["id"] for token in tokenizer["added_tokens"])]) + 1
    for name in (*names, *plain):
        if name in known:
            known[name]["special"] = name in names
            continue
        flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": name in names}
        tokenizer["added_tokens"].append({"id": size, "content": name, **flags})
        size += 1
