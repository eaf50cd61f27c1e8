"""Search: train a recipe with different hyperparameters, and find the best ones on validation rows."""
