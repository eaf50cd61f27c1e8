"""Blind A/B votes between two arms."""
