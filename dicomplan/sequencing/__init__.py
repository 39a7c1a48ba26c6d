"""Floor 7: from fluence to deliverable apertures."""
