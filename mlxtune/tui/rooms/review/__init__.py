"""The Review room."""
