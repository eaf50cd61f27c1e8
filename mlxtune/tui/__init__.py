"""The terminal app: it starts workers, reads their journals, and draws what they say. It never imports MLX."""

import os

# What a key changes may need two pictures, and Textual waits a frame between them. It reads this when it is first imported.
os.environ.setdefault("TEXTUAL_FPS", "240")
