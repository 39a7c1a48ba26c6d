"""Floor 3: beam arrangements, beam's-eye view, apertures, control points, machine limits."""
