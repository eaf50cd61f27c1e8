"""Random access to the records of a source: memory-mapped files and an index of byte offsets."""
