"""The Adapters room."""
