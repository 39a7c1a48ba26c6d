"""What is usually asked of organs in conventional fractionation, by TG-263 name: the table that drafts are made from.

Numbers as we know them from the sources, for research: a person decides. QUANTEC: Marks et al., Int J Radiat Oncol Biol Phys 76
(2010) S10, and the organ papers of that supplement. EPTN: Lambrecht et al., Radiother Oncol 128 (2018) 26. OpenKBP: Babier et
al., Med Phys 48 (2021) 5549. RTOG 0415, 0615, 0617, 1016: the trials' protocols.
"""

from __future__ import annotations

SOURCES = "QUANTEC, EPTN, RTOG, OpenKBP"
"""The sources of the table, in short."""

_PAIRED = ("L", "R")

# hard limits, goals
_SINGLE: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "SpinalCord": (("D0.03cc <= 45 Gy",), ()),  # QUANTEC: 50 Gy at 0.2 % risk, less its usual margin
    "SpinalCanal": ((), ("D0.03cc <= 45 Gy",)),
    "Brainstem": (("D0.03cc <= 54 Gy",), ()),  # QUANTEC
    "OpticChiasm": (("D0.03cc <= 55 Gy",), ()),  # QUANTEC
    "Brain": ((), ("D0.03cc <= 60 Gy",)),  # QUANTEC
    "Pituitary": ((), ("Dmean <= 45 Gy",)),  # EPTN
    "Larynx": ((), ("Dmean <= 44 Gy",)),  # QUANTEC, oedema
    "Esophagus": ((), ("Dmean <= 34 Gy",)),  # QUANTEC
    "Cavity_Oral": ((), ("Dmean <= 40 Gy",)),  # RTOG 0615
    "Bone_Mandible": ((), ("D0.1cc <= 73.5 Gy",)),  # OpenKBP
    "Lungs": ((), ("V20Gy <= 30 %", "Dmean <= 20 Gy")),  # QUANTEC, RTOG 0617
    "Heart": ((), ("V25Gy <= 10 %",)),  # QUANTEC
    "Liver": ((), ("Dmean <= 30 Gy",)),  # QUANTEC
    "Bag_Bowel": ((), ("V45Gy <= 195 cc",)),  # QUANTEC
    "Rectum": ((), ("V50Gy <= 50 %", "V60Gy <= 35 %", "V65Gy <= 25 %", "V70Gy <= 20 %", "V75Gy <= 15 %")),  # QUANTEC
    "Bladder": ((), ("V65Gy <= 50 %", "V70Gy <= 35 %", "V75Gy <= 25 %", "V80Gy <= 15 %")),  # QUANTEC, RTOG 0415
    "PenileBulb": ((), ("Dmean <= 52.5 Gy",)),  # RTOG 0415
}
_OF_PAIRS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "OpticNrv": (("D0.03cc <= 55 Gy",), ()),  # QUANTEC
    "BrachialPlex": (("D0.03cc <= 66 Gy",), ()),  # RTOG 0617
    "Parotid": ((), ("Dmean <= 26 Gy",)),  # OpenKBP; QUANTEC: 25 Gy
    "Glnd_Submand": ((), ("Dmean <= 39 Gy",)),  # RTOG 1016
    "Glnd_Lacrimal": ((), ("Dmean <= 25 Gy",)),  # EPTN
    "Cochlea": ((), ("Dmean <= 45 Gy",)),  # QUANTEC
    "Eye": ((), ("D0.03cc <= 45 Gy",)),  # EPTN, retina
    "Lens": ((), ("D0.03cc <= 10 Gy",)),  # EPTN
    "Hippocampus": ((), ("D40% <= 7.3 Gy",)),  # EPTN
    "Lung": ((), ("V20Gy <= 30 %",)),  # drafts ask it of both together
    "Kidney": ((), ("Dmean <= 18 Gy",)),  # QUANTEC
    "Femur_Head": ((), ("V50Gy <= 5 %",)),  # RTOG consensus, Lawton et al., IJROBP 74 (2009) 383
}


def usual_goals(name: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Texts of the hard limits and of the goals that are usual for an organ of a TG-263 name; two empty tuples if none are."""
    if name in _SINGLE:
        return _SINGLE[name]
    stem, _, side = name.rpartition("_")
    return _OF_PAIRS.get(stem, ((), ())) if side in _PAIRED else ((), ())
