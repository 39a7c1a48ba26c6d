"""Floor 11: one file per job, the stages in order; sets thread counts."""
