"""Evaluation: score the answers of the base and the tuned model to held-out rows, and decide which is better."""
