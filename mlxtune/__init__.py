"""mlxtune: fine-tune a local model on one Mac, and prove that it helped."""

__version__ = "0.1.0"
