"""Describe this machine, and estimate what a recipe costs on it."""
