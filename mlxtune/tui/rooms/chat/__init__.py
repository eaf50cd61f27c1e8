"""The Chat room."""
