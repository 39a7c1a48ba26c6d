"""Floor 3: goals as text, DVH, and every dose metric as one function."""
