"""The widgets used in rooms."""
