"""Transforms: a small language to change many rows at once. ``pipeline`` parses and runs it, and lists its verbs."""
