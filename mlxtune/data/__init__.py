"""Read, check, review, split and export rows. The user's files are never modified."""
