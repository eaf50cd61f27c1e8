"""`python -m mlxtune` is `mlxtune`."""

from mlxtune.cli.start import main

main()
