"""Floor 2: the linac as plain values, and the machine files that are shipped."""
