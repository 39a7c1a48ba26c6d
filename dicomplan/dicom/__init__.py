"""Floor 9: the only room that knows pydicom and rt-utils."""
