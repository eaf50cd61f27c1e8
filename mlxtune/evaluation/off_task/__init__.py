"""Off-task prompts that detect forgetting."""
