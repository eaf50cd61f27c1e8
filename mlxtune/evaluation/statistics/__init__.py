"""Intervals, tests, power, bootstrap and agreement."""
