"""Entry point for `python -P -m mlxtune`, which is equivalent to `mlxtune`."""

from mlxtune.cli.start import main

main()
