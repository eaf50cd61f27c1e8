"""Random access to the records of a source: its bytes and an index of byte offsets."""
