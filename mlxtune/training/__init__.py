"""Training: exact batches, a loop of our own, checkpoints that are whole, in a worker that outlives the terminal."""
