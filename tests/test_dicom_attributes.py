"""Values of attributes: the short ways past pydicom's conversion give what the long ones give."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from dicomplan.dicom import attributes as at
from dicomplan.dicom.files import pydicom_silenced
from dicomplan.dicom.read_structures import contour_points
from dicomplan.errors import InputError


def raw(keyword: str, vr: str | None, value: bytes) -> Dataset:
    dataset = Dataset()
    tag = Tag(keyword)
    implicit = vr is None
    dataset._dict[tag] = RawDataElement(tag, vr, len(value), value, 0, implicit, True, True)
    return dataset


NUMBER = st.one_of(
    st.floats(-1e5, 1e5).map(repr),
    st.floats(-1e5, 1e5).map(lambda value: f"{value:.3f}"),
    st.floats(-1e5, 1e5).map(lambda value: f"{value:+.9e}"),
    st.integers(-(10**5), 10**5).map(str),
    st.sampled_from(
        ["-0", "+.5", "5.", "1e2", "1E+03", "-1.5e-7", "00012.50", "0.1234567890123456789", "1e-30", "-.0"]
    ),
)


@given(numbers=st.lists(NUMBER, min_size=1, max_size=8), blanks=st.lists(st.sampled_from(["", " ", "  "]), min_size=2))
def test_contour_points_are_the_printed_numbers_to_the_last_bit(numbers: list[str], blanks: list[str]) -> None:
    printed = [f"{blanks[index % len(blanks)]}{number}{blanks[-1]}" for index, number in enumerate(numbers * 3)]
    points = contour_points(raw("ContourData", "DS", "\\".join(printed).encode()), file="x")
    expected = np.array([float(text) for text in printed]).reshape(-1, 3)
    assert points.tobytes() == expected.tobytes()


@pytest.mark.parametrize(
    "text",
    [
        "1\\2",
        "1\\2\\",
        "\\1\\2",
        "1\\x\\2",
        "1\\2\\3 4",
        "1\\-\\2",
        "1\\.\\2",
        "1\\2\\1e",
        "1\\2\\nan",
        "1\\2\\inf",
        "1\\2\\1e400",
        "1,5\\2\\3",
        "1\\2\\--3",
        "1\\2\\3e5000000000000000000000",
    ],
)
def test_what_is_no_point_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        contour_points(raw("ContourData", "DS", text.encode()), file="x")


@given(
    keyword=st.sampled_from(["Modality", "SOPInstanceUID", "PatientPosition", "ROIName", "Manufacturer"]),
    explicit=st.booleans(),
    value=st.binary(max_size=12) | st.text("AZ_19. \\\0", max_size=16).map(str.encode),
)
@example(keyword="Modality", explicit=False, value=b" CT ")
@example(keyword="SOPInstanceUID", explicit=True, value=b"1.2.3\0")
@example(keyword="PatientPosition", explicit=True, value=b"HFS\\FFS")
def test_text_from_bytes_is_the_converted_text(keyword: str, explicit: bool, value: bytes) -> None:
    vrs = {"Modality": "CS", "SOPInstanceUID": "UI", "PatientPosition": "CS", "ROIName": "LO", "Manufacturer": "LO"}
    direct, converted = (raw(keyword, vrs[keyword] if explicit else None, value) for _ in range(2))
    with pydicom_silenced():
        element = converted[keyword]  # converts
        assert isinstance(element, DataElement)
        assert at.text(direct, keyword) == ("" if element.value is None else str(element.value).strip())
