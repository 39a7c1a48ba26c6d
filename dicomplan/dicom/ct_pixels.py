"""Stored pixel values of CT slices to Hounsfield units."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import UID

from dicomplan.dicom import attributes as at
from dicomplan.dicom.ct_geometry import SeriesGeometry
from dicomplan.errors import InputError
from dicomplan.events import Finding, Progress, ProgressCallback, ignore_progress
from dicomplan.patient.case import CTVolume

AIR_HU = -1000.0
"""What a padded pixel (outside of the scanner's field of view) is read as."""
PADDING_BELOW_HU = -900.0
"""Padding values above this could be tissue: such pixels are left as they are, with a warning."""


@dataclass
class _Padding:
    replaced: int = 0
    kept: int = 0


def stored_pixels(dataset: Dataset, *, file: str) -> NDArray[np.generic]:
    """Stored values of all frames, ``(frames, rows, columns)`` integers, sign and unused bits put right.

    Compressed transfer syntaxes are decoded by pydicom if it has a decoder. Raises InputError naming the tag for
    missing or short pixel data, more than one sample per pixel, other than 8, 16 or 32 bits, or a transfer syntax
    that cannot be decoded here.
    """
    meta = getattr(dataset, "file_meta", None)
    syntax = UID(str(meta.get("TransferSyntaxUID", ""))) if meta is not None else UID("")
    if dataset.get("PixelData") is None:
        raise InputError("is missing", file=file, tag=at.tag_name("PixelData"))
    rows, columns = at.whole(dataset, "Rows", file=file), at.whole(dataset, "Columns", file=file)
    frames = int(at.optional_number(dataset, "NumberOfFrames", file=file) or 1)
    samples = int(at.optional_number(dataset, "SamplesPerPixel", file=file) or 1)
    bits = at.whole(dataset, "BitsAllocated", file=file)
    stored_bits = int(at.optional_number(dataset, "BitsStored", file=file) or bits)
    signed = at.whole(dataset, "PixelRepresentation", file=file) == 1
    if samples != 1:
        raise InputError(f"found {samples}, expected 1", file=file, tag=at.tag_name("SamplesPerPixel"))
    if bits not in (8, 16, 32) or not 0 < stored_bits <= bits:
        raise InputError(
            f"found {stored_bits} of {bits} bits, expected 8, 16 or 32 allocated",
            file=file,
            tag=at.tag_name("BitsAllocated"),
        )
    shape = (frames, rows, columns)
    if syntax and syntax.is_transfer_syntax and syntax.is_compressed and not syntax.is_deflated:
        return _decoded(dataset, syntax, shape, file)
    little = not (syntax and syntax.is_transfer_syntax and not syntax.is_little_endian)
    content = dataset.PixelData
    needed = frames * rows * columns * bits // 8
    if len(content) < needed:
        raise InputError(
            f"found {len(content)} bytes, expected {needed}: the file is cut short",
            file=file,
            tag=at.tag_name("PixelData"),
        )
    kind = np.dtype(f"{'<' if little else '>'}{'i' if signed else 'u'}{bits // 8}")
    pixels = np.frombuffer(content, dtype=kind, count=frames * rows * columns).reshape(shape)
    pixels = pixels.astype(kind.newbyteorder("="))
    if stored_bits < bits:
        # Old scanners keep overlays in the unused bits; the shift up and down also spreads the sign.
        pixels = (pixels << (bits - stored_bits)) >> (bits - stored_bits)
    return pixels


def _decoded(dataset: Dataset, syntax: UID, shape: tuple[int, int, int], file: str) -> NDArray[np.generic]:
    try:
        decoded: NDArray[np.generic] = dataset.pixel_array
        return decoded.reshape(shape)
    except Exception as error:  # each decoder plugin has errors of its own
        raise InputError(
            f"the pixels are compressed as {syntax.name} ({syntax}) and cannot be decoded here",
            file=file,
            tag=at.tag_name("TransferSyntaxUID"),
            hint="store the images uncompressed, or install pylibjpeg with its decoders",
        ) from error


def read_volume(
    geometry: SeriesGeometry, progress: ProgressCallback = ignore_progress
) -> tuple[CTVolume, tuple[Finding, ...]]:
    """CT numbers in HU, float32 ``(z, y, x)`` sorted along the normal, by each slice's own rescale slope and intercept.

    Padded pixels below -900 HU become air. Raises InputError for missing rescale attributes and unreadable pixels.
    """
    hu = np.empty(geometry.grid.shape, dtype=np.float32)
    padding = _Padding()
    for index, item in enumerate(geometry.objects):
        if index % 20 == 0:
            progress(
                Progress("read", f"CT slice {index + 1} of {len(geometry.objects)}", index / len(geometry.objects))
            )
        _read_slice(item.load(), item.file, hu[index], padding)
    findings = []
    kind = at.text(geometry.objects[0].header, "RescaleType")
    if kind not in ("", "HU"):
        findings.append(Finding("warning", f"the CT values are '{kind}', expected HU", tag=at.tag_name("RescaleType")))
    if padding.replaced:
        findings.append(Finding("info", f"{padding.replaced} padded CT pixels are read as air"))
    if padding.kept:
        message = (
            f"{padding.kept} CT pixels have the padding value, which lies in the range of tissue: left as they are"
        )
        findings.append(Finding("warning", message, tag=at.tag_name("PixelPaddingValue")))
    return CTVolume(geometry.grid, hu), tuple(findings)


def _read_slice(dataset: Dataset, file: str, target: NDArray[np.float32], padding: _Padding) -> None:
    pixels = stored_pixels(dataset, file=file)
    if pixels.shape != (1, *target.shape):
        raise InputError(
            f"found {pixels.shape[0]} frames, expected 1 (enhanced CT is not supported)",
            file=file,
            tag=at.tag_name("NumberOfFrames"),
        )
    slope = at.number(dataset, "RescaleSlope", file=file)
    intercept = at.number(dataset, "RescaleIntercept", file=file)
    if slope == 0:
        raise InputError("found 0, expected another number", file=file, tag=at.tag_name("RescaleSlope"))
    plane = pixels[0].astype(np.float64)
    target[...] = plane * slope + intercept
    value = at.optional_number(dataset, "PixelPaddingValue", file=file)
    if value is None:
        return
    limit = at.optional_number(dataset, "PixelPaddingRangeLimit", file=file)
    limit = value if limit is None else limit
    padded = (plane >= min(value, limit)) & (plane <= max(value, limit))
    count = int(np.count_nonzero(padded))
    if count and max(value * slope, limit * slope) + intercept <= PADDING_BELOW_HU:
        target[padded] = AIR_HU
        padding.replaced += count
    elif count:
        padding.kept += count
