"""dicomplan: DICOM-RT treatment planning for research. Not a medical device, not for clinical use."""

__version__ = "0.1.0"

DISCLAIMER = "Research software, not a medical device. Not for clinical use."
"""The sentence that stands wherever a user could mistake dicomplan for a medical device."""

__all__ = ["DISCLAIMER", "__version__"]
