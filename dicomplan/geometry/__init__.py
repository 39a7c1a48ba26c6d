"""Floor 1: voxel grids, IEC 61217 frames, exact polygon coverage, distances, resampling."""
