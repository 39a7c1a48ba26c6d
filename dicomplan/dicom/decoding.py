"""Compressed pixel data: which decoders are needed, what they give, and whether detail was lost."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import UID, JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLSNearLossless

from dicomplan.dicom import attributes as at
from dicomplan.errors import InputError, UsageError

EXTRA = "compressed"
"""Name of the optional part that brings the decoders (GDCM: BSD; pyjpegls: MIT; pylibjpeg-openjpeg: MIT and BSD)."""

_ALWAYS_LOSSY = (JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLSNearLossless)


def decoded_pixels(dataset: Dataset, syntax: UID, shape: tuple[int, int, int], *, file: str) -> NDArray[np.generic]:
    """Stored values ``(frames, rows, columns)`` of a compressed transfer syntax.

    Raises UsageError if no decoder for it is installed, InputError if pydicom knows none or the data are damaged.
    """
    tag = at.tag_name("TransferSyntaxUID")
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        raise InputError(f"the pixels are stored as {syntax.name}, which cannot be read", file=file, tag=tag) from None
    if not decoder.is_available:
        raise UsageError(
            f"the pixels are compressed as {syntax.name}, and the optional part '{EXTRA}' is not installed",
            file=file,
            tag=tag,
            hint=f"pip install 'dicomplan[{EXTRA}]'",
        )
    try:
        decoded, _ = decoder.as_array(dataset, raw=True)
        return np.asarray(decoded).reshape(shape)
    except Exception as error:  # each decoder has errors of its own
        raise InputError(
            f"the pixels are compressed as {syntax.name} and cannot be decoded ({type(error).__name__})",
            file=file,
            tag=tag,
        ) from error


def is_lossy(dataset: Dataset, *, file: str) -> bool:
    """Whether the pixels were ever compressed with loss: LossyImageCompression says so, or the transfer syntax implies it."""
    with at.naming(file):
        if at.text(dataset, "LossyImageCompression") == "01":
            return True
        meta = getattr(dataset, "file_meta", None)
        return meta is not None and at.text(meta, "TransferSyntaxUID") in _ALWAYS_LOSSY
