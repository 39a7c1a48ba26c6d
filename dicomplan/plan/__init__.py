"""Floor 4: prescription, constraints, goals and objectives as values, and the template that states them."""
