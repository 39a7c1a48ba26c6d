"""Stored pixel values of CT slices to Hounsfield units."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import UID

from dicomplan.dicom import attributes as at
from dicomplan.dicom.byte_sources import MAX_OBJECT_BYTES, ByteSource
from dicomplan.dicom.ct_geometry import SeriesGeometry
from dicomplan.dicom.decoding import decoded_pixels, is_lossy
from dicomplan.dicom.files import DicomObject
from dicomplan.errors import InputError
from dicomplan.events import Finding, Progress, ProgressCallback, ignore_progress
from dicomplan.patient.case import CTVolume

AIR_HU = -1000.0
"""What a padded pixel (outside of the scanner's field of view) is read as."""
PADDING_BELOW_HU = -900.0
"""Padding values above this could be tissue: such pixels are left as they are, with a warning."""
MAX_RESCALE = 1e6
"""Greatest rescale slope and intercept that are believed: a million HU for each stored step."""


@dataclass
class _Padding:
    replaced: int = 0
    kept: int = 0


def stored_pixels(dataset: Dataset, *, file: str) -> NDArray[np.generic]:
    """Stored values of all frames, ``(frames, rows, columns)`` integers, sign and unused bits put right.

    Raises InputError naming the tag for missing, damaged or short pixel data, more than one sample per pixel, and other
    than 8, 16 or 32 bits; UsageError, naming the extra, for a compressed transfer syntax whose decoder is not installed.
    """
    with at.naming(file):
        meta = getattr(dataset, "file_meta", None)
        syntax = UID("" if meta is None else at.text(meta, "TransferSyntaxUID"))
        content = at.value(dataset, "PixelData")
    rows, columns, frames, samples = (
        at.optional_whole(dataset, keyword, default, file=file)
        for keyword, default in (("Rows", 0), ("Columns", 0), ("NumberOfFrames", 1), ("SamplesPerPixel", 1))
    )
    bits = at.whole(dataset, "BitsAllocated", file=file)
    stored_bits = at.optional_whole(dataset, "BitsStored", bits, file=file)
    signed = at.whole(dataset, "PixelRepresentation", file=file) == 1
    for keyword, count in (("Rows", rows), ("Columns", columns), ("NumberOfFrames", frames)):
        if count < 1:
            raise InputError(f"found {count}, expected a positive number", file=file, tag=at.tag_name(keyword))
    if samples != 1:
        raise InputError(f"found {samples}, expected 1", file=file, tag=at.tag_name("SamplesPerPixel"))
    if bits not in (8, 16, 32) or not 0 < stored_bits <= bits:
        raise InputError(
            f"found {stored_bits} of {bits} bits, expected 8, 16 or 32 allocated",
            file=file,
            tag=at.tag_name("BitsAllocated"),
        )
    if not isinstance(content, bytes) or not content:
        raise InputError("is missing", file=file, tag=at.tag_name("PixelData"))
    shape = (frames, rows, columns)
    needed = frames * rows * columns * bits // 8
    if needed > MAX_OBJECT_BYTES:
        raise InputError(
            f"found {frames} frames of {rows} x {columns}, {needed / 1e9:.1f} GB: more than is read",
            file=file,
            tag=at.tag_name("Rows"),
        )
    if syntax and syntax.is_transfer_syntax and syntax.is_compressed and not syntax.is_deflated:
        return decoded_pixels(dataset, syntax, shape, file=file)
    little = not (syntax and syntax.is_transfer_syntax and not syntax.is_little_endian)
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


def read_volume(
    geometry: SeriesGeometry, progress: ProgressCallback = ignore_progress
) -> tuple[CTVolume, tuple[Finding, ...]]:
    """CT numbers in HU, float32 ``(z, y, x)`` sorted along the normal, by each slice's own rescale slope and intercept.

    Files are read and decoded side by side; the result does not depend on their order. Padded pixels below -900 HU become
    air; planes without a slice are the mean of their neighbours. Raises InputError for missing rescale attributes and
    unreadable pixels, UsageError for a missing decoder.
    """
    hu = np.empty(geometry.grid.shape, dtype=np.float32)
    files: dict[ByteSource, list[tuple[int, DicomObject]]] = {}
    for plane, item in enumerate(geometry.objects):
        if item is not None:
            files.setdefault(item.source, []).append((plane, item))
    padding = _Padding()
    lossy = 0
    groups = list(files.values())
    # A few threads hide the latency of a network drive; decoding releases the interpreter.
    with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
        waiting = [pool.submit(_read_file, group, hu) for group in groups]
        try:
            for index, task in enumerate(waiting):
                if index % 20 == 0:
                    progress(Progress("read", f"CT file {index + 1} of {len(groups)}", index / len(groups)))
                counts, is_lossy = task.result()
                padding.replaced += counts.replaced
                padding.kept += counts.kept
                lossy += is_lossy
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    for plane, item in enumerate(geometry.objects):
        if item is None:
            hu[plane] = 0.5 * (hu[plane - 1] + hu[plane + 1])
    findings = []
    first = geometry.read_objects[0]
    with at.naming(first.file):
        kind = at.text(first.header, "RescaleType")
    if kind not in ("", "HU"):
        findings.append(Finding("warning", f"the CT values are '{kind}', expected HU", tag=at.tag_name("RescaleType")))
    if lossy:
        message = f"{lossy} CT files were compressed with loss: their CT numbers are not those of the scanner"
        findings.append(Finding("warning", message, tag=at.tag_name("LossyImageCompression")))
    if padding.replaced:
        findings.append(Finding("info", f"{padding.replaced} padded CT pixels are read as air"))
    if padding.kept:
        message = (
            f"{padding.kept} CT pixels have the padding value, which lies in the range of tissue: left as they are"
        )
        findings.append(Finding("warning", message, tag=at.tag_name("PixelPaddingValue")))
    return CTVolume(geometry.grid, hu), tuple(findings)


def _read_file(planes: Sequence[tuple[int, DicomObject]], hu: NDArray[np.float32]) -> tuple[_Padding, bool]:
    """Fill the planes of one file; its padded pixels, and whether it was compressed with loss."""
    first = planes[0][1]
    dataset = first.load()
    pixels = stored_pixels(dataset, file=first.file)
    frames = pixels.shape[0]
    if pixels.shape[1:] != hu.shape[1:] or (first.frame is None and frames != 1):
        raise InputError(
            f"found {frames} frames of {pixels.shape[1]} x {pixels.shape[2]}, expected 1 of {hu.shape[1]} x {hu.shape[2]}",
            file=first.file,
            tag=at.tag_name("NumberOfFrames"),
        )
    padding = _Padding()
    for plane, item in planes:
        frame = item.frame or 0
        if frame >= frames:
            raise InputError(f"found {frames} frames", file=item.file, tag=at.tag_name("NumberOfFrames"))
        _rescale(item, pixels[frame], hu[plane], padding)
    return padding, is_lossy(dataset, file=first.file)


def _rescale(item: DicomObject, pixels: NDArray[np.generic], target: NDArray[np.float32], padding: _Padding) -> None:
    header, file = item.header, item.file
    slope = at.number(header, "RescaleSlope", file=file)
    intercept = at.number(header, "RescaleIntercept", file=file)
    if slope == 0 or abs(slope) > MAX_RESCALE or abs(intercept) > MAX_RESCALE:
        raise InputError(
            f"found slope {slope:g} and intercept {intercept:g}, expected numbers up to {MAX_RESCALE:g}, slope not 0",
            file=file,
            tag=at.tag_name("RescaleSlope"),
        )
    plane = pixels.astype(np.float64)
    target[...] = plane * slope + intercept
    value = at.optional_number(header, "PixelPaddingValue", file=file)
    if value is None:
        return
    limit = at.optional_number(header, "PixelPaddingRangeLimit", file=file)
    limit = value if limit is None else limit
    padded = (plane >= min(value, limit)) & (plane <= max(value, limit))
    count = int(np.count_nonzero(padded))
    if count and max(value * slope, limit * slope) + intercept <= PADDING_BELOW_HU:
        target[padded] = AIR_HU
        padding.replaced += count
    elif count:
        padding.kept += count
