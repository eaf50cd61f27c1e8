"""A workspace as a whole: one index of what is in it, and control of its runs."""
