"""Floor 2: the patient as plain values: CT, densities, structures, margins and Boolean algebra."""
