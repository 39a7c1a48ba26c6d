"""From the bytes of one DICOM object to its dataset, whole: cut files, bombs and bottomless sequences are refused."""

from __future__ import annotations

import zlib
from collections.abc import Container, Iterator
from typing import BinaryIO

import pydicom
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.tag import BaseTag
from pydicom.uid import DeflatedExplicitVRLittleEndian

from dicomplan.errors import InputError

MAX_INFLATED_BYTES = 512 * 1024**2
"""Greatest size of one object of the deflated transfer syntax, inflated."""
MAX_SEQUENCE_DEPTH = 32
"""Greatest depth of nested sequences; the deepest of DICOM's own RT objects has eight."""

_UNDEFINED_LENGTH = 0xFFFFFFFF
_ELEMENT_HEADER_BYTES = 8
# The file meta information of real files ends within a few hundred bytes.
_META_BYTES = 16 * 1024
_PIECE_BYTES = 4 * 1024**2
_META_GROUP_LENGTH = b"\x02\x00\x00\x00UL\x04\x00"


def parse(
    stream: BinaryIO, file: str, *, pixels: bool, size: int | None = None, known: Dataset | None = None
) -> Dataset:
    """The dataset in ``stream``. ``size``: its length in bytes, where all of it is read. Raises InputError naming ``file``.

    The depth of elements that ``known``, read from the same bytes before, has is not looked at again: that takes most of
    the time.
    """
    _check_deflated(stream, file)
    try:
        dataset = pydicom.dcmread(stream, force=True, stop_before_pixels=not pixels)
        whole = _is_whole(dataset, size)
        deep = _is_deeper(dataset, MAX_SEQUENCE_DEPTH, () if known is None else known.keys())
    except RecursionError as error:
        raise InputError("its sequences are nested too deep", file=file) from error
    except Exception as error:  # pydicom raises what its parser stumbles over
        raise InputError(f"the DICOM file is damaged or cut short ({type(error).__name__})", file=file) from error
    if not whole:
        raise InputError("the DICOM file is cut short", file=file)
    if deep:
        raise InputError(f"its sequences are nested deeper than {MAX_SEQUENCE_DEPTH}", file=file)
    return dataset


def _check_deflated(stream: BinaryIO, file: str) -> None:
    """Refuse an object of the deflated transfer syntax that inflates beyond reason, before pydicom inflates it."""
    head = stream.read(_META_BYTES)
    stream.seek(0)
    meta = head[132:]
    stated = meta.startswith(_META_GROUP_LENGTH)
    length = int.from_bytes(meta[8:12], "little") if stated else 0
    if stated and length > _META_BYTES // 2:
        raise InputError(f"the file meta information has {length} bytes", file=file)
    if DeflatedExplicitVRLittleEndian.encode() not in meta:
        return
    if not stated:
        raise InputError("a deflated object without the length of its file meta information", file=file)
    stream.seek(144 + length)
    inflated = _inflated_bytes(stream.read(), MAX_INFLATED_BYTES)
    stream.seek(0)
    if inflated > MAX_INFLATED_BYTES:
        raise InputError(f"the object inflates to more than {MAX_INFLATED_BYTES // 1024**2} MiB", file=file)


def _inflated_bytes(packed: bytes, most: int) -> int:
    """Size that a raw deflate stream inflates to, counted piece by piece until it is beyond ``most``; 0 if damaged."""
    inflater, count = zlib.decompressobj(-zlib.MAX_WBITS), 0
    try:
        while packed and not inflater.eof and count <= most:
            count += len(inflater.decompress(packed, _PIECE_BYTES))
            packed = inflater.unconsumed_tail
    except zlib.error:
        return 0
    return count


def _is_whole(dataset: Dataset, size: int | None) -> bool:
    """Whether all values have their stated length (pydicom takes what is left of a cut file without a word).

    ``size``: length of the file if it was read to the end; fewer bytes after the last value than a tag and its length
    take are the start of an element that was cut off.
    """
    last: RawDataElement | None = None
    for tag in sorted(dataset.keys()):
        element = dataset.get_item(tag)
        if not isinstance(element, RawDataElement) or element.length == _UNDEFINED_LENGTH:
            last = None
            continue
        if len(element.value or b"") != element.length:
            return False
        last = element
    deflated = meta_text(dataset, "TransferSyntaxUID") == DeflatedExplicitVRLittleEndian
    if size is None or last is None or deflated:
        return True
    return not 0 < size - (last.value_tell + last.length) < _ELEMENT_HEADER_BYTES


def _is_deeper(dataset: Dataset, depth: int, known: Container[BaseTag] = ()) -> bool:
    """Whether sequences are nested deeper than ``depth``; reads all of them but those of the ``known`` tags."""
    layer = list(_nested(dataset, known))
    for _ in range(depth):
        if not layer:
            return False
        layer = [item for part in layer for item in _nested(part)]
    return bool(layer)


def _nested(dataset: Dataset, known: Container[BaseTag] = ()) -> Iterator[Dataset]:
    for tag in list(dataset.keys()):
        if tag in known:
            continue
        element = dataset.get_item(tag)
        if element.VR is None or (element.VR == "UN" and isinstance(element, RawDataElement)):
            try:
                sequence = dictionary_VR(tag) == "SQ"
            except KeyError:
                continue
        else:
            sequence = element.VR == "SQ"
        if sequence:
            value = dataset[tag].value
            if isinstance(value, DicomSequence):
                yield from value


def meta_text(dataset: Dataset, keyword: str) -> str:
    """An attribute of the file meta information as text; empty when absent or unreadable."""
    meta = getattr(dataset, "file_meta", None)
    return "" if meta is None else text_or_empty(meta, keyword)


def text_or_empty(dataset: Dataset, keyword: str) -> str:
    """An attribute as text without surrounding blanks; empty when absent or unreadable."""
    try:
        return str(dataset.get(keyword) or "").strip()
    except Exception:  # pydicom raises what its conversion stumbles over; unreadable counts as absent
        return ""
