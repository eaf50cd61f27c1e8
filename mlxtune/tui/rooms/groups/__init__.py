"""The Groups room."""
