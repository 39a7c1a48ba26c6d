"""What of a patient takes part in the dose, and what is said about it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dicomplan.errors import InputError
from dicomplan.events import Cancel, ignore_progress
from dicomplan.patient.case import Structure
from dicomplan.phantoms.water_box import water_box
from dicomplan.workflow.patient_model import couch_findings, patient_model

BLOCK = np.array([[-20.0, 65.0, 0.0], [20.0, 65.0, 0.0], [20.0, 75.0, 0.0], [-20.0, 75.0, 0.0]])


def roi(name: str, roi_type: str) -> Structure:
    return Structure(name, 9, roi_type, (BLOCK,))


@pytest.mark.parametrize(
    ("types", "warned"), [((), True), (("BOLUS",), True), (("SUPPORT",), False), (("BOLUS", "SUPPORT"), False)]
)
def test_only_a_couch_silences_the_couch_warning(types: tuple[str, ...], warned: bool) -> None:
    found = couch_findings([roi(one, one) for one in types])
    assert [one.severity for one in found] == (["warning"] if warned else [])


def test_air_outside_of_what_counts() -> None:
    """Outside of BODY all is air; a bolus there keeps the CT's density, and is named."""
    case = water_box(size_mm=120.0, target_radius_mm=20.0, noise_hu=0.0).case
    water = replace(case.ct, hu=np.zeros_like(case.ct.hu))  # also where the phantom has air
    alone = patient_model(replace(case, ct=water), ignore_progress, Cancel())
    with_bolus = replace(case, ct=water, structures=(*case.structures, roi("Flab", "BOLUS")))
    bolus = patient_model(with_bolus, ignore_progress, Cancel())
    z, y, x = np.rint(case.ct.grid.index_from_patient((2.0, 70.0, 0.0))).astype(int)
    assert alone.density.mass_g_cm3[z, y, x] == pytest.approx(0.0012, abs=1e-4)
    assert bolus.density.mass_g_cm3[z, y, x] == pytest.approx(1.0, abs=0.01)
    assert bolus.density.mass_g_cm3[0, 0, 0] == pytest.approx(0.0012, abs=1e-4)
    assert any("Flab (BOLUS)" in one.message for one in bolus.findings)


def test_two_outlines_are_refused() -> None:
    case = water_box(size_mm=120.0, target_radius_mm=20.0).case
    skin, hull = (replace(case.structures[0], name=name, number=n) for n, name in ((11, "Skin"), (12, "Hull")))
    with pytest.raises(InputError, match=r"Skin|Hull"):
        patient_model(replace(case, structures=(*case.structures[1:], skin, hull)), ignore_progress, Cancel())
