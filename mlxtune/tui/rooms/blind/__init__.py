"""The Blind room."""
