"""Evaluation: what the base and the tuned model answer to rows that never trained, scored, with a verdict one can defend."""
