"""Optimizers and learning-rate schedules. MLX has no 8-bit optimizer states; with LoRA's few parameters, they would save little."""

from __future__ import annotations

import math

import mlx.optimizers as optim

from mlxtune.recipe import AdapterSection, TrainingSection


def make(section: TrainingSection, adapter: AdapterSection) -> optim.Optimizer:
    """Return the recipe's optimizer; for LoRA+, one for A and one for B. Its learning rate is 0 until :func:`set_rate` is called.

    The optimizer is AdamW (Loshchilov and Hutter 2017, arXiv:1711.05101), Adafactor (Shazeer and Stern 2018, arXiv:1804.04235),
    Lion (Chen et al. 2023, arXiv:2302.06675) or Muon (Jordan et al. 2024).
    """
    if adapter.lora_plus == 1:
        return _single(section)
    return optim.MultiOptimizer([_single(section), _single(section)], [lambda name, _: name.endswith("lora_b")])


def set_rate(optimizer: optim.Optimizer, rate: float, adapter: AdapterSection) -> None:
    """Set the learning rate for the next update. With LoRA+, this is the rate for A; B's rate is ``lora_plus`` times higher."""
    if isinstance(optimizer, optim.MultiOptimizer):
        optimizer.optimizers[0].learning_rate = rate * adapter.lora_plus
        optimizer.optimizers[1].learning_rate = rate
    else:
        optimizer.learning_rate = rate


def learning_rate(section: TrainingSection, step: int, total: int) -> float:
    """Return the learning rate for optimizer step ``step`` (starting at 0) of ``total``.

    All schedules start with a linear warmup. After that, ``constant`` keeps the rate, ``linear`` and ``cosine`` (Loshchilov and
    Hutter 2016, arXiv:1608.03983) decay it to 0, and ``wsd`` (warmup, stable, decay; Hu et al. 2024, arXiv:2404.06395) keeps it and
    decays it linearly over the last ``decay`` fraction of the steps.
    """
    warmup = math.ceil(section.warmup * total)
    if step < warmup:
        return section.learning_rate * (step + 1) / (warmup + 1)
    progress = (step - warmup) / max(1, total - warmup)
    match section.schedule:
        case "constant":
            return section.learning_rate
        case "linear":
            return section.learning_rate * (1 - progress)
        case "cosine":
            return section.learning_rate * (1 + math.cos(math.pi * progress)) / 2
        case "wsd":
            decay_steps = max(1, math.ceil(section.decay * total))
            return section.learning_rate * min(1.0, (total - step) / decay_steps)


def _single(section: TrainingSection) -> optim.Optimizer:
    decay = section.weight_decay
    match section.optimizer:
        case "adamw":
            return optim.AdamW(learning_rate=0.0, weight_decay=decay, bias_correction=True)
        case "adafactor":
            return optim.Adafactor(learning_rate=0.0, weight_decay=decay, relative_step=False, scale_parameter=False)
        case "lion":
            return optim.Lion(learning_rate=0.0, weight_decay=decay)
        case "muon":
            return optim.Muon(learning_rate=0.0, weight_decay=decay)
