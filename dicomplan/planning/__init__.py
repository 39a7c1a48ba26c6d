"""Floor 8: every loop that needs dose and optimiser together."""
