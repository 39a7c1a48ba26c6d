"""Floor 12: results handed over to other systems: DICOM C-STORE and STOW-RS."""
