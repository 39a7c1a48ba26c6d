"""Floor 9: the HTML report and ``plan.json``."""
