"""The terminal app. It starts workers, then reads and displays their event logs. It never imports MLX."""

import os

# A key press may take two frames, and Textual waits between them. Textual reads this variable on import.
os.environ.setdefault("TEXTUAL_FPS", "240")
