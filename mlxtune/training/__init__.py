"""Training: batches, the training loop, and atomic checkpoints, in a worker that keeps running when the terminal closes."""
