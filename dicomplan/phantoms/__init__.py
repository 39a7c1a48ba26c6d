"""Floor 10: the synthetic patients that demo, doctor, tests and tools share."""
