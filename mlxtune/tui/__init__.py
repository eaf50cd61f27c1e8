"""The terminal app: it starts workers, reads their journals, and draws what they say. It never imports MLX."""
