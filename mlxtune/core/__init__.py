"""The floor of the house: errors, files, journals, hashes, terminal-safe text. Imports nothing of ours."""
