"""Floor 9: images for other programs: NIfTI, NRRD and NPZ, and masks back to contours."""
