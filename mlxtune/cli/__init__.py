"""The command line: arguments in, one call into the core, a table or JSON out."""
