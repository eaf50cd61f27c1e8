"""Advice on whether to fine-tune: the rules as data, evidence from the workspace, and the verdict."""
