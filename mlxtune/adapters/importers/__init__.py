"""Check and import adapters in mlx-lm or PEFT format."""
