"""Runs: their folders, events, status, and detached worker processes."""
