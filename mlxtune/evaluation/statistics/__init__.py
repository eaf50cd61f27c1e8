"""Intervals, tests, power, and agreement."""
