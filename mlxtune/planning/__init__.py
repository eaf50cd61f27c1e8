"""Planning: what this machine is, and what a recipe will cost on it."""
