"""Shared foundations: errors, files, journals, hashes, and terminal-safe text. Imports no other mlxtune package."""
