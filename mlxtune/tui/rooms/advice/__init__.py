"""The Advice room."""
