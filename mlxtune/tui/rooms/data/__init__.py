"""The Data room."""
