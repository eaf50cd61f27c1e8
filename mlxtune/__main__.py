"""`python -m mlxtune` is `mlxtune`."""

from mlxtune.cli.main import main

main()
