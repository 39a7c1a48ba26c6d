"""Which studies of the inbox can be planned now, which wait for what, and which never will: a pure function.

Files arrive in any order: what is decided here depends on what is there, on how long each has been quiet, and on
nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dicomplan.dicom.read_structures import COVER_TOLERANCE_MM
from dicomplan.jobs.contents import Content, SliceGeometry, StructureReferences

FloatArray = NDArray[np.float64]

_STEP_TOLERANCE_MM = 0.05
"""Distances of neighbouring slices may differ by this and still count as one; the reader decides with its own."""


@dataclass(frozen=True, slots=True, eq=False)
class Present:
    """An object that can be had: its content, where its file lies, the file's hash, and since when (monotonic s).

    ``fresh``: no job has had it as input yet. ``in_zip``: it may only be planned with what came in the same zip.
    ``hurried``: a ``.ready`` file says that its folder is complete.
    """

    content: Content
    path: str
    container_sha256: str
    since_s: float
    fresh: bool
    in_zip: bool = False
    hurried: bool = False


@dataclass(frozen=True)
class Waits:
    """How long, in s: ``quiet``: since the last change of a study; ``structures``: CT without RTSTRUCT; ``give_up``:
    RTSTRUCT without its images, and files that cannot be read."""

    quiet_s: float = 20.0
    structures_s: float = 7 * 86400.0
    give_up_s: float = 15 * 60.0


@dataclass(frozen=True, eq=False)
class Ready:
    """A study to be planned: structure set, CT slices, and objects of the study that only move with it."""

    structure_set: Present
    slices: tuple[Present, ...]
    others: tuple[Present, ...] = ()


@dataclass(frozen=True, eq=False)
class Refused:
    """Objects that will never be planned on, and why."""

    objects: tuple[Present, ...]
    reason: str


@dataclass(frozen=True, eq=False)
class Waiting:
    """Objects that wait, and for what."""

    objects: tuple[Present, ...]
    reason: str


Decision = Ready | Refused | Waiting
Choose = Callable[[Sequence[Present]], Sequence[Present]]
"""The structure sets among several that a rule means (all of them where it means none)."""


def decide(
    objects: Sequence[Present],
    now_s: float,
    waits: Waits,
    *,
    choose: Choose = lambda found: found,
    busy_folders: frozenset[str] = frozenset(),
) -> list[Decision]:
    """What is to happen with each structure set, and with what belongs to none.

    ``objects`` hold each SOP instance UID with each content at most once. ``busy_folders``: folders in which a file is
    still being written; a CT that the structure set does not list image by image waits for them.
    """
    clashing = _clashes(objects)
    decisions: list[Decision] = list(clashing)
    used: set[int] = {id(one) for clash in clashing for one in clash.objects}
    slices = _Slices([one for one in objects if one.content.kind == "CT" and id(one) not in used])
    sets = [one for one in objects if one.content.kind == "RTSTRUCT" and id(one) not in used]
    by_place: dict[str, list[Decision]] = {}
    for one in sets:
        decision = _of_set(one, slices, now_s, waits, busy_folders)
        place = decision.slices[0].content.series_uid if isinstance(decision, Ready) else ""
        used |= {id(item) for item in _objects(decision)}
        by_place.setdefault(place, []).append(decision)
    for place, found in by_place.items():
        decisions += _one_each(found, choose) if place else found
    companions: dict[tuple[str, str], list[Present]] = {}
    for one in objects:
        if id(one) not in used and one.content.kind not in ("CT", "RTSTRUCT"):
            companions.setdefault((one.content.study_uid, one.content.patient), []).append(one)
    decisions = [_with_others(one, companions) for one in decisions]
    for decision in decisions:
        used |= {id(item) for item in _objects(decision)}
    decisions += _left_over([one for one in objects if id(one) not in used and one.fresh], now_s, waits)
    return decisions


class _Slices:
    """CT slices by series, and the series of each image and frame of reference."""

    def __init__(self, slices: Sequence[Present]) -> None:
        self.by_series: dict[str, list[Present]] = {}
        self.of_image: dict[str, set[str]] = {}
        self.of_frame: dict[str, set[str]] = {}
        for item in slices:
            content = item.content
            self.by_series.setdefault(content.series_uid, []).append(item)
            self.of_image.setdefault(content.uid, set()).add(content.series_uid)
            self.of_frame.setdefault(content.frame_uid, set()).add(content.series_uid)

    def members(self, series: set[str], one: Present) -> list[Present]:
        """Slices of some series that may be planned with a structure set, each once."""
        found: dict[tuple[str, str], Present] = {}
        for uid in series:
            for item in self.by_series.get(uid, ()):
                if _may_join(one, item):
                    found.setdefault((item.content.uid, item.content.sha256), item)
        return list(found.values())


def _objects(decision: Decision) -> tuple[Present, ...]:
    if isinstance(decision, Ready):
        return (decision.structure_set, *decision.slices, *decision.others)
    return decision.objects


def _clashes(objects: Sequence[Present]) -> list[Refused]:
    """Objects of one SOP instance UID with different content: all new ones, or the new one if a job has the other."""
    groups: dict[str, list[Present]] = {}
    for one in objects:
        groups.setdefault(one.content.uid, []).append(one)
    found = []
    for uid, group in groups.items():
        fresh = tuple(one for one in group if one.fresh)
        if fresh and len({one.content.sha256 for one in group}) > 1:
            found.append(Refused(fresh, f"{len(group)} files have the SOP instance UID {uid} with different content"))
    return found


def _of_set(one: Present, slices: _Slices, now_s: float, waits: Waits, busy_folders: frozenset[str]) -> Decision:
    refers = one.content.structures
    assert refers is not None
    series = {uid for image in refers.images for uid in slices.of_image.get(image, ())}
    series = {uid for uid in series if slices.members({uid}, one)}
    if not series:
        series = {uid for uid in refers.series if slices.members({uid}, one)}
    if not series:
        series = {uid for frame in refers.frames for uid in slices.of_frame.get(frame, ())}
        covering = {uid for uid in series if _covers(slices.members({uid}, one), refers)}
        series = covering or series
    group = slices.members(series, one)
    members = (one, *group)
    fresh = tuple(item for item in members if item.fresh)
    if not fresh:
        return Waiting((), "")
    if any(item.content.patient != one.content.patient for item in group):
        refused = (one,) if one.fresh else fresh
        return Refused(refused, "the structure set is of another patient than the CT")
    there = {item.content.uid for item in group}
    missing = len(refers.images - there)
    complete = bool(refers.images) and not missing
    regular = _gap_free(group)
    newest = max(item.since_s for item in fresh)
    quiet = now_s - newest >= waits.quiet_s or all(item.hurried for item in fresh)
    late = now_s - newest >= waits.give_up_s
    if not refers.whole and not late:
        return Waiting(members, "the structure set may be cut short")
    if len(series) > 1:
        reason = f"{len(series)} CT series could be meant by the structure set"
        return Refused(fresh, reason) if late else Waiting(members, reason)
    # where some of the named images are there, the others are on their way: a part that covers the contours is not it
    covered = (late or missing == len(refers.images)) and _covers(group, refers)
    if not regular or not (complete or covered):
        reason = _lacking(missing, len(refers.images), bool(group), regular)
        if not late:
            return Waiting(members, reason)
        # as complete as it says it is: the reader's own reason stands in the refusal
        return Ready(one, tuple(group)) if complete else Refused(fresh, reason)
    if not quiet:
        return Waiting(members, "not quiet yet")
    if not complete and not late and {_folder(item.path) for item in members} & busy_folders:
        return Waiting(members, "files beside it are still being written")
    return Ready(one, tuple(group))


def _lacking(missing: int, of: int, any_slices: bool, regular: bool) -> str:
    if missing and of:
        return f"{missing} of the {of} images that the structure set refers to are missing"
    if not any_slices:
        return "the CT of the structure set is missing"
    return "the CT does not cover the contours" if regular else "slices of the CT are missing"


def _may_join(one: Present, item: Present) -> bool:
    """A zip holds one study: what came in it is planned with nothing else (unless a job had it already)."""
    if one.fresh and item.fresh and (one.in_zip or item.in_zip):
        return one.container_sha256 == item.container_sha256
    return True


def _normal(first: SliceGeometry) -> FloatArray:
    return np.cross(np.array(first.row_axis), np.array(first.column_axis))


def _gap_free(group: Sequence[Present]) -> bool:
    """Whether the slices stand at equal distances; true for images whose positions are not told slice by slice."""
    places = [item.content.slice for item in group]
    known = [place for place in places if place is not None]
    if not known or len(known) < len(places):
        return bool(places)
    along = np.sort(np.array([place.origin_mm for place in known]) @ _normal(known[0]))
    steps = np.diff(along)
    return len(steps) == 0 or bool(steps.max() - steps.min() <= _STEP_TOLERANCE_MM)


def _covers(group: Sequence[Present], refers: StructureReferences) -> bool:
    """Whether a series covers the box of all contours along its normal and in its planes."""
    known = [item.content.slice for item in group if item.content.slice is not None]
    if len(known) < 2 or len(known) < len(group) or refers.low_mm is None or refers.high_mm is None:
        return False
    first = known[0]
    axes = np.array([_normal(first), first.column_axis, first.row_axis])
    at_mm = np.array([place.origin_mm for place in known]) @ axes.T
    half = 0.5 * np.array([float(np.diff(np.sort(at_mm[:, 0])).min()), *first.spacing_mm])
    low, high = at_mm.min(axis=0) - half, at_mm.max(axis=0) - half
    high += np.array([2 * half[0], first.spacing_mm[0] * first.matrix[0], first.spacing_mm[1] * first.matrix[1]])
    corners = np.array([refers.low_mm, refers.high_mm]) @ axes.T
    inside_low = corners.min(axis=0) >= low - COVER_TOLERANCE_MM
    return bool(inside_low.all() and (corners.max(axis=0) <= high + COVER_TOLERANCE_MM).all())


def _one_each(found: Sequence[Decision], choose: Choose) -> list[Decision]:
    """Several structure sets for one CT: those that a job has had stay apart, new ones must be one."""
    ready = [one for one in found if isinstance(one, Ready)]
    old = [one for one in ready if not one.structure_set.fresh]
    new = [one for one in ready if one.structure_set.fresh]
    if len(new) > 1:
        chosen = {id(item) for item in choose([one.structure_set for one in new])}
        kept = [one for one in new if id(one.structure_set) in chosen]
        if len(kept) == 1:
            others = tuple(one.structure_set for one in new if one is not kept[0])
            return [*old, Ready(kept[0].structure_set, kept[0].slices, others)]
        uids = ", ".join(sorted(one.structure_set.content.uid for one in new))
        fresh = tuple(item for item in new[0].slices if item.fresh)
        reason = f"{len(new)} structure sets could be meant: {uids}"
        return [*old, Refused((*(one.structure_set for one in new), *fresh), reason)]
    return [*old, *new]


def _with_others(decision: Decision, companions: dict[tuple[str, str], list[Present]]) -> Decision:
    """Images and plans of the same study and patient that nothing is planned on move with the study."""
    if not isinstance(decision, Ready):
        return decision
    keys = {(one.content.study_uid, one.content.patient) for one in (decision.structure_set, *decision.slices)}
    others = tuple(one for key in sorted(keys) for one in companions.get(key, ()))
    return Ready(decision.structure_set, decision.slices, (*decision.others, *others))


def _left_over(rest: Sequence[Present], now_s: float, waits: Waits) -> list[Decision]:
    """CT without RTSTRUCT, and anything else that belongs to no structure set: by study."""
    groups: dict[tuple[str, str], list[Present]] = {}
    for one in rest:
        groups.setdefault((one.content.study_uid, one.content.series_uid), []).append(one)
    decisions: list[Decision] = []
    for group in groups.values():
        waited = now_s - max(one.since_s for one in group)
        if waited >= waits.structures_s:
            decisions.append(Refused(tuple(group), "no structure set came for these images"))
        else:
            decisions.append(Waiting(tuple(group), "waits for a structure set"))
    return decisions


def _folder(path: str) -> str:
    return path.rpartition("/")[0]
