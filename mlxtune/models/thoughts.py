"""Separate the reasoning in a model's output from the answer that follows it, while the output is generated."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from mlxtune.models.detokenizer import Decode, StreamingDetokenizer, partial_length

THOUGHTS = {  # the text that starts a thought, with the text that ends it
    "<think>": "</think>",  # Qwen3, SmolLM3, DeepSeek, GLM, Nemotron 3, Granite 3, Phi-4-mini-reasoning and others
    "[THINK]": "[/THINK]",  # Mistral
    "<|channel>thought": "<channel|>",  # Gemma 4
    "<|channel|>analysis<|message|>": "<|end|>",  # gpt-oss
    "to=self<|message|>": "<|eom|>",  # Muse
    "<seed:think>": "</seed:think>",
    "<longcat_think>": "</longcat_think>",
    "<thought>": "</thought>",  # EXAONE Deep
    "<|START_THINKING|>": "<|END_THINKING|>",  # Command A
}
# Text around thoughts and answers in gpt-oss, Muse, and Command R7B, and whether the answer begins after it.
_HEADERS = {
    "<|start|>assistant": False, "<|channel|>final<|message|>": True, "to=user<|message|>": True, "<|START_RESPONSE|>": True,
}  # fmt: skip
MARKERS = (*THOUGHTS, *_HEADERS)
_MAX_SPACES = 8  # before a marker; after more, the text is shown as it comes
COPIES = 2  # repetitions of a passage after its first occurrence that make an answer a loop
LEAST = 32  # minimum number of repeated tokens
MAX_PERIOD = 96  # length of the longest passage that is recognized, in tokens
PROMPT_TAIL = 32  # tokens of a prompt that may open a thought

Ending = Literal["", "stop", "length", "loop", "thinking", "thinking_loop"]


class ThoughtSplitter:
    """Divides text that arrives in pieces into thoughts, which come first, and the answer.

    A thought starts at the beginning of the output, or in the prompt, if ``prompt`` ends with a marker. Markers are recognized as
    text, whatever their tokens; mlx-lm's ``TextStateMachine`` would also find them in the middle of an answer.
    """

    def __init__(self, prompt: str = "") -> None:
        opened = next((start for start in THOUGHTS if prompt.rstrip().endswith(start)), "")
        self._end = THOUGHTS[opened] if opened else ""  # end marker of the current thought
        self._pending = ""  # whitespace, or the beginning of a marker
        self._thought = bool(opened)  # whether there was one
        self.answering = False

    @property
    def thinking(self) -> bool:
        """Whether the text so far ends inside a thinking block."""
        return bool(self._end)

    @property
    def unconstrained(self) -> bool:
        """Whether the next token belongs to a thought or a marker, so that a grammar of the answer does not apply to it."""
        return self.thinking or (not self.answering and self._pending.lstrip().startswith("<"))

    def add(self, text: str) -> tuple[str, str]:
        """Append ``text``. Return the pieces of thought and of answer that are now known."""
        self._pending += text
        thought = ""
        while not self.answering:
            if self._end:
                before, end, after = self._pending.partition(self._end)
                partial = 0 if end else partial_length(before, self._end)
                thought += before[: len(before) - partial]
                self._pending = after if end else before[len(before) - partial :]
                if not end:
                    return thought, ""
                self._end = ""
            elif not self._read_marker():
                return thought, ""
        answer, self._pending = self._pending, ""
        return thought, answer

    def end(self) -> tuple[str, str]:
        """Return the pieces that remain after the last text."""
        rest, self._pending = self._pending, ""
        return (rest, "") if self._end else ("", rest.lstrip() if self._thought else rest)

    def _read_marker(self) -> bool:
        """Determine what follows a thought or starts the output. Return ``False`` if more text is needed."""
        text = self._pending.lstrip()
        marker = next((marker for marker in MARKERS if text.startswith(marker)), "")
        spaces = len(self._pending) - len(text)
        if not marker and spaces <= _MAX_SPACES and any(other.startswith(text) for other in MARKERS):
            return False
        if marker:
            self._pending = text[len(marker) :]
            self._end = THOUGHTS.get(marker, "")
            self._thought = True
            self.answering = _HEADERS.get(marker, False)
        else:
            self._pending = text if self._thought else self._pending
            self.answering = True
        return True


def split_thought(text: str, prompt: str = "") -> tuple[str, str]:
    """Return the reasoning in the output ``text``, and the answer after it. ``prompt`` may open a thought."""
    splitter = ThoughtSplitter(prompt)
    thought, answer = (first + last for first, last in zip(splitter.add(text), splitter.end(), strict=True))
    return thought.strip(), answer


@dataclass(frozen=True)
class GeneratedAnswer:
    """An answer of ``tokens`` tokens, why it ended, and the reasoning before it, which has ``thought_tokens`` tokens.

    ``ended`` is ``stop`` (a stop token, which is not in the text), ``length``, ``loop`` (see :class:`LoopDetector`),
    ``thinking``: the limit was reached in a thought, or ``thinking_loop``: the thought was a loop.
    """

    text: str
    ended: str
    thought: str = ""
    thought_tokens: int = 0
    tokens: int = 0


@dataclass(frozen=True)
class LoopRule:
    """When an output that repeats itself ends: after ``least`` repeated tokens, unless ``allows`` says that its answer may do so."""

    least: int = LEAST
    allows: Callable[[str], bool] = lambda answer: False


class AnswerBuilder:
    """Collects the tokens of one answer and counts them: at most ``max_tokens``, after at most ``thinking_tokens`` of thought.

    If ``thinking_tokens`` is 0, thoughts have no separate limit and count as part of the answer. With ``loops``, an answer
    that repeats itself ends before its limit.
    """

    def __init__(
        self, decode: Decode, prompt: Sequence[int], max_tokens: int, thinking_tokens: int = 0, *, loops: LoopRule | None = None
    ) -> None:
        self._decode, self.max_tokens, self.thinking_tokens = decode, max_tokens, thinking_tokens
        self._prompt = decode(prompt[-PROMPT_TAIL:])
        self.splitter = ThoughtSplitter(self._prompt)
        self._detokenizer = StreamingDetokenizer(decode)
        self._rule, self._loops = loops, LoopDetector(loops.least) if loops else None
        self._tokens: list[int] = []
        self._thought_tokens = 0

    @property
    def count(self) -> int:
        return len(self._tokens)

    @property
    def most_tokens(self) -> int:
        """The maximum number of tokens: by then, :meth:`add` has ended the answer."""
        if not self.thinking_tokens:
            return self.max_tokens
        return self.max_tokens + self.thinking_tokens + max(map(len, MARKERS))  # a marker is in neither limit until it is complete

    @property
    def may_continue(self) -> bool:
        """Whether the answer can have more than one further token."""
        return self.count + 1 < self.most_tokens

    def add(self, token: int) -> Ending:
        """Append ``token``. Return why the answer has to end after it, or ``""``."""
        self._tokens.append(token)
        is_loop = self._loops is not None and self._loops.add(token)
        if not self.splitter.answering:
            was_thinking = self.splitter.thinking
            self.splitter.add(self._detokenizer.add(token))
            if was_thinking or self.splitter.thinking:
                self._thought_tokens = len(self._tokens)
        if self.splitter.thinking:
            at_limit = self._thought_tokens >= (self.thinking_tokens or self.max_tokens)
            return "thinking" if at_limit else "thinking_loop" if is_loop else ""
        if self.thinking_tokens and self.splitter.unconstrained:  # perhaps in the middle of a marker
            return ""
        counted = len(self._tokens) - (self._thought_tokens if self.thinking_tokens else 0)
        if counted >= self.max_tokens:
            return "length"
        is_loop = is_loop and not (self._rule and self._rule.allows(split_thought(self._decode(self._tokens), self._prompt)[1]))
        return "loop" if is_loop else ""

    def finish(self, ended: Ending) -> GeneratedAnswer:
        thought, answer = split_thought(self._decode(self._tokens), self._prompt)
        tokens = len(self._tokens) - self._thought_tokens
        return GeneratedAnswer(answer, ended, thought, self._thought_tokens if thought else 0, tokens)


class LoopDetector:
    """Determines after each token whether the output ends in a passage that has repeated often enough to be a loop.

    Greedy decoding cannot leave a loop by chance, and each time a model copies a passage, it becomes more likely to copy it again (Xu
    et al. 2022, arXiv:2206.02369). Only exact repetition counts: a list with increasing numbers continues. An answer that repeats
    itself less exactly continues to its limit; evaluations still count it as a loop (``evaluation.answers.is_loop``).
    """

    def __init__(self, least: int = LEAST) -> None:
        self._least = least
        self._tokens: list[int] = []
        self._matches: list[int] = []  # by period − 1: tokens at the end that equal those one period earlier

    def add(self, token: int) -> bool:
        """Append ``token``. Return whether the output is a loop."""
        earlier = self._tokens[: -MAX_PERIOD - 1 : -1]  # the last token first
        self._tokens.append(token)
        counts = self._matches + [0] * (len(earlier) - len(self._matches))
        self._matches = [count + 1 if other == token else 0 for count, other in zip(counts, earlier, strict=True)]
        return any(count >= max(self._least, COPIES * period) for period, count in enumerate(self._matches, 1))
