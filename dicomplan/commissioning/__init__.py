"""Floor 8: a machine file fitted to measurements: readers, the model in water, the fit, residuals and their report."""
