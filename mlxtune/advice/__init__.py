"""Should this be fine-tuned at all? Rules as data, evidence from the workspace, and the verdict they give."""
