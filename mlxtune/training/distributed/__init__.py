"""Data-parallel training over several processes or machines."""
