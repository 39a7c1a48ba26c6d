"""Floor 13: the command line, one file per command."""
