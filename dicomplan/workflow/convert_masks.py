"""Masks of other programs to an RTSTRUCT on a study's CT."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dicomplan import __version__
from dicomplan.dicom.files import pydicom_silenced
from dicomplan.dicom.identity import Identity
from dicomplan.dicom.read import source_of
from dicomplan.dicom.write_structures import new_structure_set
from dicomplan.errors import InputError, UsageError
from dicomplan.events import Cancel, Finding, Progress, ProgressCallback, ignore_progress
from dicomplan.geometry.grid import VoxelGrid
from dicomplan.images.alignment import in_voxel_order, voxel_order
from dicomplan.images.outlines import INSIDE, mask_contours
from dicomplan.images.volumes import READ_SUFFIXES, read_grid, read_volume, volume_suffix
from dicomplan.patient.case import Structure
from dicomplan.patient.names import guess_tg263
from dicomplan.workflow.convert import INDEX, ConvertOutcome, write_index
from dicomplan.workflow.documents import finding_documents, sorted_findings
from dicomplan.workflow.output import OutputFolder
from dicomplan.workflow.study_request import StudyRequest, chosen_ct

STRUCTURE_SET = "RTSTRUCT.dcm"
"""Name of the structure set in the output folder."""
_ROUNDING = 1e-3  # values of fractional masks may leave 0..1 by this
_MAX_INDEX_BYTES = 16 * 1024**2
_NUMBERED = re.compile(r"(\d{1,9})_(.+)", re.DOTALL)
_TARGET = re.compile(r"(PTV|CTV|GTV)(?![a-z])", re.IGNORECASE)
# Well apart on grey: ten colours of equal rank, then again.
_COLORS = (
    (230, 25, 75),
    (60, 180, 75),
    (0, 130, 200),
    (255, 225, 25),
    (245, 130, 48),
    (145, 30, 180),
    (70, 240, 240),
    (240, 50, 230),
    (210, 245, 60),
    (170, 110, 40),
)


@dataclass(frozen=True)
class _MaskFile:
    """A mask file and what is known of its ROI: ``number`` None where nothing states one."""

    path: Path
    name: str
    number: int | None
    roi_type: str
    color_rgb: tuple[int, int, int] | None


@pydicom_silenced()
def run_from_masks(
    request: StudyRequest,
    masks: Path,
    output: Path,
    *,
    overwrite: bool = False,
    created: datetime | None = None,
    progress: ProgressCallback = ignore_progress,
    cancel: Cancel | None = None,
) -> ConvertOutcome:
    """Write ``RTSTRUCT.dcm`` and ``index.json``: the masks in the folder ``masks`` as ROIs on the study's CT.

    Masks (``.nii``, ``.nii.gz``, ``.nrrd``, ``.npz`` of ``convert``) have the CT's voxels, in any order of axes, and values
    from 0 to 1. Voxels covered at least by half by the contours written are exactly those whose value is at least 0.5;
    binary masks keep their pixel edges. Names, numbers, types and colours come from the ``index.json`` of ``convert``
    beside or above the files, else from file names: ``<number>_<name>`` or ``<name>``; then the types of targets (PTV, CTV, GTV),
    of the body and of organs that TG-263 knows follow from the names. ``masks`` may be an output folder of ``convert``.
    The study's own structure sets are not used. ``created``: creation time of the object (None: now).
    Raises UsageError for places and choices, InputError for a mask with another geometry, with other values or of
    which two have one number, and for a CT that is no regular grid.
    """
    cancel = cancel or Cancel()
    if not masks.is_dir():
        raise UsageError("is no folder with masks", file=masks)
    destination = OutputFolder(output, overwrite=overwrite, inputs=(*request.study, masks))
    files = _mask_files(masks)
    scan = request.sound_scan(progress)
    chosen = chosen_ct(scan, request, with_structures=False)
    if chosen.geometry is None:
        raise InputError("no CT series found: masks need the CT that they were drawn on", tag="Modality (0008,0060)")
    grid = chosen.geometry.grid
    findings = [*scan.findings, *chosen.findings]
    structures: list[Structure] = []
    facts: list[dict[str, Any]] = []
    digests: list[str] = []
    for index, (file, number) in enumerate(zip(files, _numbers(files), strict=True)):
        progress(Progress("read", f"mask {index + 1} of {len(files)}", index / len(files)))
        cancel.check()
        fraction = _fraction(file.path, grid)
        digests.append(hashlib.sha256(fraction.tobytes()).hexdigest())
        color = file.color_rgb or _COLORS[index % len(_COLORS)]
        structure = Structure(file.name, number, file.roi_type, mask_contours(fraction, grid), color)
        structures.append(structure)
        if not structure.contours:
            findings.append(Finding("warning", f"the mask of ROI '{file.name}' is empty: a ROI without contours"))
        facts.append(
            {
                "name": file.name,
                "number": number,
                "roi_type": file.roi_type,
                "color_rgb": list(color),
                "contours": len(structure.contours),
                "voxels": int(np.count_nonzero(fraction >= INSIDE)),
                "volume_cc": round(float(fraction.sum(dtype=np.float64)) * grid.voxel_volume_cc, 6),
            }
        )
    source = source_of(chosen.geometry, None)
    entropy = json.dumps([[item.sha256 for item in source.inputs], facts, digests, __version__])
    with destination as folder:
        progress(Progress("write", "structure set"))
        written = new_structure_set(
            folder / STRUCTURE_SET,
            source,
            structures,
            Identity(entropy, created or datetime.now(UTC).replace(tzinfo=None, microsecond=0)),
            label="from masks",
            series_description="structures from masks",
        )
        ordered = sorted_findings([*findings, *written.findings])
        entry = {"file": STRUCTURE_SET, "kind": "structure_set", "sop_instance_uid": written.sop_instance_uid}
        document = {
            "schema": 1,
            "dicomplan": __version__,
            "files": [{**entry, "structures": facts}],
            "findings": finding_documents(ordered, files=False),
        }
        write_index(folder, document)
    return ConvertOutcome(destination.target, document, ordered)


def _fraction(path: Path, ct_grid: VoxelGrid) -> NDArray[np.float32]:
    """Values 0..1 of a mask on the CT's grid. Raises InputError for another geometry or other values."""
    order = voxel_order(read_grid(path), ct_grid, file=path)
    values = read_volume(path)
    low, high = float(values.min()), float(values.max())
    if not (low >= -_ROUNDING and high <= 1 + _ROUNDING):
        raise InputError(
            f"found values from {low:g} to {high:g}, expected 0 (outside) to 1 (inside)",
            file=path,
            hint="one file for each structure; label maps are not read",
        )
    fraction: NDArray[np.float32] = np.clip(in_voxel_order(values, order).astype(np.float32), 0.0, 1.0)
    return fraction


def _mask_files(folder: Path) -> list[_MaskFile]:
    """The mask files of a folder, by number and name. Raises InputError if there are none."""
    place = folder / "masks" if (folder / "masks").is_dir() else folder
    known = _indexed(place)
    files = []
    for path in sorted(place.iterdir()):
        suffix = volume_suffix(path)
        if suffix is None or not path.is_file():
            continue
        stem = path.name[: -len(suffix)]
        match = _NUMBERED.fullmatch(stem)
        name = match[2] if match else stem
        number = int(match[1]) if match else None
        files.append(known.get(path.name) or _MaskFile(path, name, number, _type_of(name), None))
    if not files:
        raise InputError(f"no masks found: expected files with {', '.join(READ_SUFFIXES)}", file=place)
    return sorted(files, key=lambda file: (file.number is None, file.number or 0, file.path.name))


def _indexed(place: Path) -> dict[str, _MaskFile]:
    """File name to what the index of ``convert``, beside the files or above them, says of it; empty without index."""
    for path, prefix in ((place / INDEX, ""), (place.parent / INDEX, f"{place.name}/")):
        if not path.is_file() or path.stat().st_size > _MAX_INDEX_BYTES:
            continue
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            entries = document["files"] if document["schema"] == 1 else []
            masks = [entry for entry in entries if entry["kind"] == "mask"]
            return {
                name: _from_entry(place / name, entry)
                for entry in masks
                if "/" not in (name := str(entry["file"]).removeprefix(prefix))
            }
        except (OSError, ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
            raise InputError("is no index of `convert` that can be read", file=path) from error
    return {}


def _from_entry(path: Path, entry: Mapping[str, Any]) -> _MaskFile:
    red, green, blue = (min(255, max(0, int(part))) for part in entry["color_rgb"])
    name = "".join(c if c.isprintable() else " " for c in str(entry["name"])).strip()
    kind = re.sub(r"[^A-Z_]", "", str(entry["roi_type"]).upper())[:16]
    return _MaskFile(path, name or "ROI", int(entry["number"]), kind, (red, green, blue))


def _type_of(name: str) -> str:
    """RTROIInterpretedType (PS3.3 C.8.8.8) that a name states; empty where it states none."""
    target = _TARGET.match(name)
    if target:
        return target[1].upper()
    guess = guess_tg263(name)
    return "EXTERNAL" if guess == "BODY" else "ORGAN" if guess else ""


def _numbers(files: list[_MaskFile]) -> list[int]:
    """ROI numbers: those stated, else the next free ones. Raises InputError if two files state the same."""
    stated: dict[int, _MaskFile] = {}
    for file in files:
        if file.number is not None and stated.setdefault(file.number, file) is not file:
            raise InputError(
                f"has ROI number {file.number}, as {stated[file.number].path.name} has",
                file=file.path,
                hint="rename one",
            )
    following = max(stated, default=0)
    numbers = []
    for file in files:
        if file.number is None:
            following += 1
        numbers.append(following if file.number is None else file.number)
    return numbers
