"""The rooms, and what opens over them."""
