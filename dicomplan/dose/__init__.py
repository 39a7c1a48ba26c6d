"""Floor 5: from fluence or control points to dose."""
