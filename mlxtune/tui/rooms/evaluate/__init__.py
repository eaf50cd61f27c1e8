"""The Evaluate room."""
