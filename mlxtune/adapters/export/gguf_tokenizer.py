"""Write a tokenizer into a GGUF file, exactly as llama.cpp must read it to tokenize as in training, or refuse it.

llama.cpp has two kinds of byte-pair tokenizers: one over bytes, which first splits text with one of the regular expressions that it knows
by name, and SentencePiece's, which merges the pair with the highest score. Source: https://github.com/ggml-org/llama.cpp (``src/llama-vocab.cpp``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gguf import GGUFWriter, TokenType
from mlx_lm.utils import load_tokenizer

from mlxtune.adapters.export.gguf_architectures import not_as_gguf
from mlxtune.core.files import read_json
from mlxtune.models.resolve import ModelFolder

_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_CASES = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+%s|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*%s|\p{{N}}%s| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_ENDINGS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
_MARKS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_SPLITS = {  # (regular expression in tokenizer.json, whether whole words are looked up first) -> llama.cpp's name
    (_WORDS % "{1,3}", True): "llama-bpe",
    (_WORDS % "{1,3}", False): "dbrx",
    (_WORDS % "", False): "qwen2",
    (_MARKS, False): "qwen35",
    (_CASES % (_ENDINGS, _ENDINGS, "{1,3}"), False): "gpt-4o",
    (_CASES % (_ENDINGS, _ENDINGS, "{1,3}"), True): "gpt-4o",  # looking words up changes nothing: merges can produce every token
    (_CASES % ("", "", ""), True): "tekken",
}
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
_SPACE = "▁"
_PHI3 = re.compile(r"phi-?3", re.IGNORECASE)  # llama.cpp strips space after control tokens only in models with such names
_PHI3_KEEPS = ("<unk>", "<s>", "<|endoftext|>")  # but not after these
_LAST = -1e6  # score of a token that no merge produces; lower than any merge's score


def write_tokenizer(writer: GGUFWriter, source: ModelFolder, rows: int, template: str, *, raw_merges: bool) -> None:
    """Write the tokenizer of ``source`` with ``rows`` tokens, its stop tokens, and the chat template ``template``.

    ``raw_merges`` stores the merges of a SentencePiece tokenizer instead of scores, as llama.cpp requires for Gemma 4. Raise ``ModelError``
    if llama.cpp would tokenize text differently.
    """
    tokenizer = read_tokenizer(source)
    split = tokenizer.split
    tokens = tokenizer.tokens(rows)
    writer.add_tokenizer_model("gpt2" if split else "gemma4" if raw_merges else "llama")
    writer.add_token_list([text for text, _ in tokens])
    writer.add_token_types([type for _, type in tokens])
    writer.add_tokenizer_pre(split or "default")
    if split or raw_merges:
        writer.add_token_merges([" ".join(merge) for merge in tokenizer.merges])
    if not split:
        writer.add_token_scores(tokenizer.scores([text for text, _ in tokens]))
        writer.add_add_space_prefix(tokenizer.adds_space)
    loaded: Any = load_tokenizer(source.folder, eos_token_ids=source.eos_token_ids)
    empty = loaded.encode("")
    writer.add_add_bos_token(bool(empty) and empty[0] == loaded.bos_token_id)
    writer.add_add_eos_token(len(empty) > 1 and empty[-1] == loaded.eos_token_id)
    for kind in ("bos_token_id", "unk_token_id", "pad_token_id"):
        if (id := getattr(loaded, kind)) is not None:
            getattr(writer, f"add_{kind}")(id)
    first = loaded.eos_token_id
    stops = [first, *sorted(set(loaded.eos_token_ids) - {first})]
    for id, add in zip(stops, (writer.add_eos_token_id, writer.add_eot_token_id, writer.add_eom_token_id), strict=False):
        add(id)
    if template:
        writer.add_chat_template(template)


def read_tokenizer(source: ModelFolder) -> GgufTokenizer:
    """Read ``tokenizer.json``. Raise ``ModelError`` if there is none."""
    file = source.folder / "tokenizer.json"
    if not file.is_file():
        raise not_as_gguf("it has no tokenizer.json")
    return GgufTokenizer(read_json(file), source.name.rpartition("/")[2])


@dataclass(frozen=True)
class GgufTokenizer:
    """The contents of ``tokenizer.json`` of the model ``name``, as llama.cpp needs them."""

    json: Mapping[str, Any]
    name: str

    @property
    def name_in_file(self) -> str:
        """The model's name, changed if needed: llama.cpp strips space after control tokens based on the name."""
        if not self.strips_as_phi3:
            return _PHI3.sub("Phi 3", self.name)
        return self.name if _PHI3.search(self.name) else f"phi-3 {self.name}"

    @property
    def split(self) -> str:
        """llama.cpp's name for the pre-tokenizer, or ``""`` for SentencePiece. Raises ``ModelError`` if llama.cpp has neither."""
        model = self.json.get("model", {})
        if model.get("type") != "BPE":
            raise not_as_gguf("its tokenizer is not a byte-pair tokenizer")
        if not model.get("merges"):
            raise not_as_gguf("its tokenizer has no merges, which llama.cpp requires")
        if model.get("byte_fallback"):
            self._check_sentencepiece()
            return ""
        whole = bool(model.get("ignore_merges"))
        match (self.json.get("normalizer") or {}).get("type"), _parts(self.json, "pre_tokenizer", "pretokenizers"):
            case None, [
                {"type": "Digits", "individual_digits": True},
                {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True},
            ] if not whole:
                return "smollm"
            case None, [{"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}] if not whole:
                return "gpt-2"
            case (
                (None | "NFC"),
                [
                    {"type": "Split", "pattern": {"Regex": pattern}, "invert": False},
                    {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False},
                ],
            ) if name := _SPLITS.get((pattern, whole)):
                return name
        raise not_as_gguf("llama.cpp would split text differently than its tokenizer does")

    def _check_sentencepiece(self) -> None:
        for part in (*_parts(self.json, "normalizer", "normalizers"), *_parts(self.json, "pre_tokenizer", "pretokenizers")):
            match part:
                case {"type": "Prepend"} | {"type": "Metaspace", "split": False}:
                    pass
                case {"type": "Replace" | "Split", "pattern": {"String": " "}}:  # a normalizer leaves no space to split at
                    pass
                case _:
                    raise not_as_gguf("its tokenizer is not SentencePiece's")

    @property
    def merges(self) -> list[tuple[str, str]]:
        """The pairs that are merged, in this order."""
        merges = (merge.split(" ", 1) if isinstance(merge, str) else merge for merge in self.json["model"]["merges"])
        return [(left, right) for left, right in merges]

    @property
    def adds_space(self) -> bool:
        """Whether a space is added before text, also after control tokens."""
        return any(part["type"] == "Prepend" for part in _parts(self.json, "normalizer", "normalizers"))

    @property
    def strips_as_phi3(self) -> bool:
        """Whether whitespace is stripped after some control tokens, and llama.cpp can load the tokens as Phi-3's."""
        added = self.json.get("added_tokens", [])
        known = {*self.json["model"]["vocab"], *(token["content"] for token in added)}
        return known.issuperset((*_PHI3_KEEPS, "</s>")) and any(token.get("rstrip") for token in added)

    @property
    def stripped_differently(self) -> list[str]:
        """The added tokens next to which llama.cpp strips whitespace and the tokenizer does not, or the reverse."""
        phi3 = self.strips_as_phi3
        return [
            token["content"]
            for token in self.json.get("added_tokens", [])
            if token.get("lstrip") or bool(token.get("rstrip")) != (phi3 and token["content"] not in _PHI3_KEEPS)
        ]

    def tokens(self, rows: int) -> list[tuple[str, TokenType]]:
        """Return ``rows`` tokens with their types. Ids that the tokenizer does not use are marked as unused."""
        model = self.json["model"]
        fallback = bool(model.get("byte_fallback"))
        by_id = {
            id: (text, TokenType.BYTE if fallback and _BYTE.fullmatch(text) else TokenType.NORMAL)
            for text, id in model["vocab"].items()
        }
        for token in self.json.get("added_tokens", []):
            text = token["content"]
            if not (fallback and text.strip(_SPACE) == ""):  # runs of spaces are merged like any others
                by_id[token["id"]] = (text, TokenType.CONTROL if token["special"] else TokenType.USER_DEFINED)
        if fallback and (unknown := model.get("unk_token")) is not None:
            by_id[model["vocab"][unknown]] = (unknown, TokenType.UNKNOWN)
        if max(by_id) >= rows:
            raise not_as_gguf(f"its tokenizer has {max(by_id) + 1:,} tokens but its embedding has only {rows:,}")
        return [by_id.get(id, (f"[PAD{id}]", TokenType.UNUSED)) for id in range(rows)]

    def scores(self, tokens: list[str]) -> list[float]:
        """Return a score for each token, so that merging the pair with the highest one gives the order of the merges."""
        ranks: dict[str, int] = {}
        for rank, (left, right) in enumerate(self.merges):
            ranks.setdefault(left + right, rank)
        return [float(-ranks[token]) if token in ranks else _LAST for token in tokens]


def _parts(json: Mapping[str, Any], key: str, inner: str) -> list[Mapping[str, Any]]:
    step = json.get(key)
    return list(step.get(inner, [step])) if step else []
