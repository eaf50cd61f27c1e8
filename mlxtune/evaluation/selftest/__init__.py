"""Self-test of the scorers and of judge reports."""
