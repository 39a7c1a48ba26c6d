"""Stability and readiness: pure functions of listings, contents and a clock that is set by hand."""

from __future__ import annotations

import itertools
import os
import zipfile
from pathlib import Path

import pytest
from dicom_helpers import edit, write_tiny_study

from dicomplan.errors import InputError, UsageError
from dicomplan.jobs.contents import Content, SliceGeometry, StructureReferences, file_sha256, read_contents
from dicomplan.jobs.inbox import Inbox
from dicomplan.jobs.readiness import Decision, Present, Ready, Refused, Waiting, Waits, decide
from dicomplan.jobs.scan import Snapshot, Watched, is_skipped, take_snapshot

WAITS = Waits(quiet_s=20, structures_s=1000, give_up_s=100)


@pytest.mark.parametrize("name", [".x", "a.tmp", "a.PART", "a.partial", "a.filepart", "a.crdownload", "a~", "a.lock"])
def test_hidden_files_and_copies_under_way_are_skipped(name: str, tmp_path: Path) -> None:
    assert is_skipped(name)
    (tmp_path / name).write_text("x")
    (tmp_path / "kept.dcm").write_text("x")
    assert set(take_snapshot(tmp_path).files) == {"kept.dcm"}


def test_a_listing_has_subfolders_ready_files_and_empty_folders_but_no_links(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "empty").mkdir()
    (tmp_path / ".dicomplan" / "processed").mkdir(parents=True)
    (tmp_path / ".dicomplan" / "processed" / "old").write_text("x")
    (tmp_path / "a" / "b" / "1").write_text("x")
    (tmp_path / "a" / ".ready").write_text("")
    os.symlink(tmp_path / "a" / "b" / "1", tmp_path / "link")
    os.symlink(tmp_path / "a", tmp_path / "round")
    snapshot = take_snapshot(tmp_path)
    assert set(snapshot.files) == {"a/b/1"}
    assert snapshot.ready_folders == {"a"}
    assert snapshot.empty_folders == ("empty",)
    assert snapshot.trouble is None


def test_a_file_is_stable_after_two_equal_scans_n_seconds_apart(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("x")
    watched = Watched()
    watched.observe(take_snapshot(tmp_path), 0.0)
    assert watched.stable(20) == []  # one scan tells nothing, however long ago
    watched.observe(take_snapshot(tmp_path), 19.0)
    assert watched.stable(20) == []
    watched.observe(take_snapshot(tmp_path), 20.0)
    assert watched.stable(20) == ["a"]


@pytest.mark.parametrize("change", ["size", "time", "inode"])
def test_any_change_starts_the_wait_again(change: str, tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("x")
    watched = Watched()
    for now in (0.0, 19.0):
        watched.observe(take_snapshot(tmp_path), now)
    before = path.stat()
    if change == "size":
        path.write_text("xy")
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    elif change == "time":
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    else:
        (tmp_path / "b").write_text("x")
        os.utime(tmp_path / "b", ns=(before.st_atime_ns, before.st_mtime_ns))
        os.replace(tmp_path / "b", path)
    for now in (20.0, 39.0):
        watched.observe(take_snapshot(tmp_path), now)
        assert watched.stable(20) == []
    watched.observe(take_snapshot(tmp_path), 40.0)
    assert watched.stable(20) == ["a"]


def test_a_share_that_is_gone_removes_nothing(tmp_path: Path) -> None:
    inbox = tmp_path / "in"
    inbox.mkdir()
    (inbox / "a").write_text("x")
    watched = Watched()
    watched.observe(take_snapshot(inbox), 0.0)
    inbox.rename(tmp_path / "away")
    gone = take_snapshot(inbox)
    assert gone.trouble == "the inbox is not there"
    watched.observe(gone, 10.0)
    (tmp_path / "away").rename(inbox)
    watched.observe(take_snapshot(inbox), 20.0)
    assert watched.stable(20) == ["a"]  # seen since 0 s


def test_a_folder_that_could_not_be_listed_was_not_seen(tmp_path: Path) -> None:
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / "a").write_text("x")
    inbox = Inbox(tmp_path, 20.0)
    inbox.watched.observe(take_snapshot(tmp_path), 0.0)
    assert inbox.next_due_s(0.0) == 20.0
    inbox.watched.observe(Snapshot({}, unlisted=("f",)), 30.0)
    assert inbox.watched.stable(20) == []
    assert inbox.next_due_s(30.0) is None  # nothing to hurry for
    inbox.watched.observe(take_snapshot(tmp_path), 40.0)
    assert inbox.watched.stable(20) == ["f/a"]


def test_a_ready_file_skips_the_wait_of_its_folder_only(tmp_path: Path) -> None:
    for name in ("one/ct/1", "two/1", "1"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    (tmp_path / "one" / ".ready").write_text("")
    (tmp_path / ".ready").write_text("")  # the inbox is no study's folder
    watched = Watched()
    watched.observe(take_snapshot(tmp_path), 0.0)
    watched.observe(take_snapshot(tmp_path), 1.0)
    assert watched.stable(20) == ["one/ct/1"]


# Contents


def test_contents_of_a_study(tmp_path: Path) -> None:
    study = write_tiny_study(tmp_path / "s")
    found = {path.name: read_contents(path) for path in study.iterdir()}
    assert all(len(item.objects) == 1 and item.sha256 == file_sha256(study / name) for name, item in found.items())
    structures = found["RS.dcm"].objects[0].structures
    assert structures is not None
    slices = [item.objects[0] for name, item in found.items() if name != "RS.dcm"]
    assert structures.images == {one.uid for one in slices}
    assert structures.series == {one.series_uid for one in slices}
    assert structures.names == ("BODY", "PTV_7000", "SpinalCord")
    assert structures.low_mm == pytest.approx((-24, -24, -16.5))
    assert sorted(one.slice.origin_mm[2] for one in slices if one.slice) == [-16.5 + 3 * k for k in range(12)]


@pytest.mark.parametrize("kept", [0, 100, 200, 1000, -1, -500])
def test_an_incomplete_file_is_not_read(kept: int, tmp_path: Path) -> None:
    study = write_tiny_study(tmp_path / "s")
    for path in (study / "RS.dcm", next(path for path in study.iterdir() if path.name != "RS.dcm")):
        path.write_bytes(path.read_bytes()[:kept])
        with pytest.raises(InputError):
            read_contents(path)


def test_pixels_of_another_length_are_not_read(tmp_path: Path) -> None:
    study = write_tiny_study(tmp_path / "s")
    path = next(path for path in study.iterdir() if path.name != "RS.dcm")

    def shorten(dataset) -> None:
        dataset.PixelData = dataset.PixelData[:-64]

    edit(path, shorten)
    with pytest.raises(InputError, match="bytes of pixels, expected 2048"):
        read_contents(path)


def test_a_zip_is_one_file_of_many_objects(tmp_path: Path) -> None:
    study = write_tiny_study(tmp_path / "s")
    path = tmp_path / "s.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for item in study.iterdir():
            archive.write(item, f"inner/{item.name}")
    found = read_contents(path)
    assert found.is_zip
    assert len(found.objects) == 13
    assert found.sha256 == file_sha256(path)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises((InputError, UsageError)):
        read_contents(path)


# Readiness


def ct(index: int, *, series: str = "S", since: float = 0.0, fresh: bool = True, **changes: object) -> Present:
    place = SliceGeometry((-32.0, -32.0, 3.0 * index), (1, 0, 0), (0, 1, 0), (2.0, 2.0), (32, 32))
    values: dict[str, object] = {
        "uid": f"{series}.{index}",
        "sha256": f"h{series}{index}",
        "kind": "CT",
        "series_uid": series,
        "study_uid": "T",
        "frame_uid": "F",
        "patient": "P",
        "size": 1,
        "slice": place,
    }
    content = Content(**{**values, **changes})  # type: ignore[arg-type]
    return Present(content, f"d/{series}{index}", content.sha256, since, fresh)


def rs(
    name: str = "R",
    *,
    images: frozenset[str] = frozenset(),
    series: str = "S",
    since: float = 0.0,
    fresh: bool = True,
    patient: str = "P",
    high_mm: float = 20.0,
    hurried: bool = False,
    whole: bool = True,
) -> Present:
    refers = StructureReferences(
        images, frozenset({series}), frozenset({"F"}), (-9, -9, 2), (9, 9, high_mm), (), name, whole
    )
    content = Content(name, f"h{name}", "RTSTRUCT", f"RS{name}", "T", "F", patient, 1, None, refers)
    return Present(content, f"d/{name}", content.sha256, since, fresh, hurried=hurried)


ALL = frozenset(f"S.{i}" for i in range(10))
TEN = [ct(i) for i in range(10)]


def only(decisions: list[Decision]) -> Decision:
    (one,) = [item for item in decisions if not (isinstance(item, Waiting) and not item.objects)]
    return one


def test_a_complete_study_is_ready_in_any_order_once_it_is_quiet() -> None:
    for objects in ([*TEN, rs(images=ALL)], [rs(images=ALL), *reversed(TEN)]):
        early = only(decide(objects, 19.9, WAITS))
        assert isinstance(early, Waiting)
        ready = only(decide(objects, 20.0, WAITS))
        assert isinstance(ready, Ready)
        assert {one.content.uid for one in ready.slices} == ALL


def test_a_structure_set_that_may_be_cut_short_is_waited_for_then_left_to_the_reader() -> None:
    waiting = only(decide([*TEN, rs(images=ALL, whole=False)], 99.0, WAITS))
    assert isinstance(waiting, Waiting)
    assert waiting.reason == "the structure set may be cut short"
    assert isinstance(only(decide([*TEN, rs(images=ALL, whole=False)], 100.0, WAITS)), Ready)


def test_a_structure_set_cut_anywhere_is_unreadable_or_not_whole(tmp_path: Path) -> None:
    folder = write_tiny_study(tmp_path / "study")
    data = (folder / "RS.dcm").read_bytes()
    # between and within the headers of the elements at the top, where a cut file still reads as one
    places = [data.index(bytes.fromhex(tag)) for tag in ("06302000", "06303900", "06308000")]
    read = 0
    for place in places:
        for cut in range(place, place + 12):
            (tmp_path / "cut.dcm").write_bytes(data[:cut])
            try:
                (found,) = read_contents(tmp_path / "cut.dcm").objects
            except InputError:
                continue
            read += 1
            assert found.structures is not None
            assert not found.structures.whole
    assert read > 0
    (found,) = read_contents(folder / "RS.dcm").objects
    assert found.structures is not None
    assert found.structures.whole


def test_missing_images_are_waited_for_then_refused_by_number() -> None:
    objects = [*TEN[:7], rs(images=ALL, since=50.0, high_mm=28.0)]
    waiting = only(decide(objects, 149.0, WAITS))
    assert isinstance(waiting, Waiting)
    assert waiting.reason == "3 of the 10 images that the structure set refers to are missing"
    refused = only(decide(objects, 150.0, WAITS))
    assert isinstance(refused, Refused)
    assert refused.reason == waiting.reason
    assert len(refused.objects) == 8


def test_a_part_that_covers_the_contours_is_taken_only_when_the_rest_does_not_come() -> None:
    objects = [*TEN[:8], rs(images=ALL)]
    assert isinstance(only(decide(objects, 99.0, WAITS)), Waiting)
    assert isinstance(only(decide(objects, 100.0, WAITS)), Ready)


def test_a_hole_in_the_ct_is_waited_for_though_all_named_images_are_there() -> None:
    objects = [*TEN[:4], *TEN[5:], rs(images=ALL - {"S.4"})]
    assert isinstance(only(decide(objects, 99.0, WAITS)), Waiting)
    # then the reader refuses with its own reason
    assert isinstance(only(decide(objects, 100.0, WAITS)), Ready)


def test_without_named_images_a_gap_free_ct_that_covers_the_contours_is_enough() -> None:
    assert isinstance(only(decide([*TEN, rs(series="X")], 20.0, WAITS)), Ready)
    assert isinstance(only(decide([*TEN[:6], rs(series="X")], 20.0, WAITS)), Waiting)
    assert isinstance(only(decide([*TEN[:4], *TEN[5:], rs(series="X")], 20.0, WAITS)), Waiting)
    beside = [*TEN, rs(series="X", high_mm=29.0)]  # 0.5 mm beyond the last slab: covered
    assert isinstance(only(decide(beside, 20.0, WAITS)), Ready)
    beyond = [*TEN, rs(series="X", high_mm=29.1)]
    assert isinstance(only(decide(beyond, 20.0, WAITS)), Waiting)
    # a file that is still being written beside it may be one more slice
    busy = decide([*TEN, rs(series="X")], 20.0, WAITS, busy_folders=frozenset({"d"}))
    assert isinstance(only(busy), Waiting)


def test_a_ready_file_skips_the_wait_not_the_check() -> None:
    hurried = [Present(o.content, o.path, o.container_sha256, 0.0, True, hurried=True) for o in TEN]
    assert isinstance(only(decide([*hurried, rs(images=ALL, hurried=True)], 1.0, WAITS)), Ready)
    assert isinstance(only(decide([*hurried[1:], rs(images=ALL, hurried=True)], 1.0, WAITS)), Waiting)


def test_ct_waits_for_structures_then_is_refused() -> None:
    assert isinstance(only(decide(TEN, 999.0, WAITS)), Waiting)
    refused = only(decide(TEN, 1000.0, WAITS))
    assert isinstance(refused, Refused)
    assert refused.reason == "no structure set came for these images"


def test_two_new_structure_sets_are_refused_unless_a_rule_chooses() -> None:
    objects = [*TEN, rs("R1", images=ALL), rs("R2", images=ALL)]
    refused = only(decide(objects, 20.0, WAITS))
    assert isinstance(refused, Refused)
    assert refused.reason == "2 structure sets could be meant: R1, R2"
    assert len(refused.objects) == 12
    chosen = only(decide(objects, 20.0, WAITS, choose=lambda found: [f for f in found if f.content.uid == "R2"]))
    assert isinstance(chosen, Ready)
    assert chosen.structure_set.content.uid == "R2"
    assert [one.content.uid for one in chosen.others] == ["R1"]


def test_a_second_structure_set_after_the_first_was_planned_is_a_study_of_its_own() -> None:
    old = [ct(i, fresh=False) for i in range(10)]
    ready = only(decide([*old, rs("R1", images=ALL, fresh=False), rs("R2", images=ALL)], 20.0, WAITS))
    assert isinstance(ready, Ready)
    assert ready.structure_set.content.uid == "R2"


def test_what_was_planned_is_left_alone_and_a_late_slice_makes_it_ready_again() -> None:
    old = [ct(i, fresh=False) for i in range(10)]
    planned = [*old, rs(images=ALL, fresh=False)]
    assert not [d for d in decide(planned, 1e6, WAITS) if not isinstance(d, Waiting)]
    late = only(decide([*planned, ct(10, since=500.0)], 520.0, WAITS))
    assert isinstance(late, Ready)
    assert len(late.slices) == 11


def test_one_identifier_with_two_contents_is_refused() -> None:
    other = ct(3, sha256="other")
    decisions = decide([*TEN, other, rs(images=ALL)], 20.0, WAITS)
    refused = [d for d in decisions if isinstance(d, Refused)]
    assert [sorted(o.content.sha256 for o in d.objects) for d in refused] == [["hS3", "other"]]
    assert not [d for d in decisions if isinstance(d, Ready)]
    # against one that a job has, the new one alone is refused, and nothing is planned again
    old = [*(ct(i, fresh=False) for i in range(10)), rs(images=ALL, fresh=False)]
    refused = [d for d in decide([*old, other], 20.0, WAITS) if isinstance(d, Refused)]
    assert [[o.content.sha256 for o in d.objects] for d in refused] == [["other"]]


def test_another_patient_is_refused() -> None:
    refused = [d for d in decide([*TEN, rs(images=ALL, patient="Q")], 20.0, WAITS) if isinstance(d, Refused)]
    assert [d.reason for d in refused] == ["the structure set is of another patient than the CT"]


def test_two_studies_at_once_do_not_mix() -> None:
    second = [ct(i, series="Z") for i in range(10)]
    images = frozenset(f"Z.{i}" for i in range(10))
    found = decide([*TEN, *second, rs("R1", images=ALL), rs("R2", images=images, series="Z")], 20.0, WAITS)
    ready = {d.structure_set.content.uid: {o.content.uid for o in d.slices} for d in found if isinstance(d, Ready)}
    assert ready == {"R1": ALL, "R2": images}


def test_the_decision_does_not_depend_on_the_order() -> None:
    objects = [ct(0), ct(1), rs("R1", images=frozenset({"S.0", "S.1"}), high_mm=4.0), ct(1, sha256="other")]
    answers = set()
    for order in itertools.permutations(objects):
        found = decide(order, 20.0, WAITS)
        answers.add(tuple(sorted((type(d).__name__, getattr(d, "reason", "")) for d in found)))
    assert len(answers) == 1


def test_objects_of_other_modalities_move_with_their_study() -> None:
    plan = Present(Content("D", "hD", "RTDOSE", "SD", "T", "F", "P", 1), "d/D", "hD", 0.0, True)
    stranger = Present(Content("E", "hE", "RTDOSE", "SE", "T2", "F", "P", 1), "d/E", "hE", 0.0, True)
    decisions = decide([*TEN, plan, stranger, rs(images=ALL)], 20.0, WAITS)
    ready = next(d for d in decisions if isinstance(d, Ready))
    assert [o.content.uid for o in ready.others] == ["D"]
    assert [o.content.uid for d in decisions if isinstance(d, Waiting) for o in d.objects] == ["E"]
