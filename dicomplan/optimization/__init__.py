"""Floor 6: objectives with gradients, and the solver; sees an operator and voxel sets, never beams or DICOM."""
