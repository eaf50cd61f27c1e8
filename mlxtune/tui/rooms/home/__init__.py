"""The Home room."""
