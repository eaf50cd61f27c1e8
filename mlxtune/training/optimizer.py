"""The optimizer of a recipe. MLX offers no 8-bit states; for LoRA's few parameters they would save little."""

from __future__ import annotations

import mlx.optimizers as optim

from mlxtune.recipe import AdapterSection, TrainingSection


def make(section: TrainingSection, adapter: AdapterSection) -> optim.Optimizer:
    """AdamW (Loshchilov and Hutter 2017, arXiv:1711.05101), Adafactor (Shazeer and Stern 2018, arXiv:1804.04235), Lion (Chen et al.
    2023, arXiv:2302.06675) or Muon (Jordan et al. 2024), at rate 0 until ``set_rate``; two of them for LoRA+."""
    if adapter.lora_plus == 1:
        return _one(section)
    return optim.MultiOptimizer([_one(section), _one(section)], [lambda name, _: name.endswith("lora_b")])


def set_rate(optimizer: optim.Optimizer, rate: float, adapter: AdapterSection) -> None:
    """The learning rate of the next update; with LoRA+, of A, while B's is ``lora_plus`` times it."""
    if isinstance(optimizer, optim.MultiOptimizer):
        optimizer.optimizers[0].learning_rate = rate * adapter.lora_plus
        optimizer.optimizers[1].learning_rate = rate
    else:
        optimizer.learning_rate = rate


def _one(section: TrainingSection) -> optim.Optimizer:
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
