"""Import recipes from the configuration files of other trainers."""
