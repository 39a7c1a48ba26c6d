"""Floor 8: the judgement of a dose: scorecard, indices, hot spots."""
