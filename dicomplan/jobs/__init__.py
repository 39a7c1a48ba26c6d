"""Floor 12: the folder service: studies go in, plans come out, each exactly once."""
