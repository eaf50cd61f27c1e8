"""Data: rows of the user's file, which is never modified, and how they are divided."""
