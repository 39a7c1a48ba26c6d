"""Structure names: which spellings are the same, and which AAPM TG-263 name a spelling stands for."""

from __future__ import annotations

import re

_SEPARATORS = re.compile(r"[\s_\-]+")

# Words for an organ, without laterality, as normalised text -> TG-263 primary name (AAPM TG-263 report, 2018,
# nomenclature worksheet). Organs that come in pairs carry a side in TG-263 only if the name states one.
_SINGLE = {
    "SpinalCord": ("spinalcord", "cord", "myelon", "medulla", "spinalchord", "medullaspinalis"),
    "SpinalCanal": ("spinalcanal", "canal", "spinalkanal"),
    "Brainstem": ("brainstem", "stem", "hirnstamm", "trunkencephalic", "bstem"),
    "Brain": ("brain", "gehirn", "cerebrum", "wholebrain"),
    "Larynx": ("larynx", "kehlkopf"),
    "Glottis": ("glottis", "larynxglottic", "glotticlarynx"),
    "Larynx_SG": ("larynxsg", "larynxsupraglottic", "supraglottis", "supraglotticlarynx"),
    "Esophagus": ("esophagus", "oesophagus", "oesoph", "esoph", "speiseroehre"),
    "Bone_Mandible": ("mandible", "bonemandible", "unterkiefer", "jaw"),
    "Cavity_Oral": ("oralcavity", "cavityoral", "mouth", "mundhoehle"),
    "Lips": ("lips", "lip"),
    "Pharynx": ("pharynx",),
    "Thyroid": ("thyroid", "glndthyroid", "thyroidgland"),
    "Trachea": ("trachea",),
    "Pituitary": ("pituitary", "hypophysis", "hypophyse"),
    "OpticChiasm": ("chiasm", "opticchiasm", "chiasma"),
    "Heart": ("heart", "herz"),
    "Liver": ("liver", "leber"),
    "Stomach": ("stomach",),
    "Bladder": ("bladder", "urinarybladder", "blase", "harnblase"),
    "Rectum": ("rectum", "rektum"),
    "Prostate": ("prostate", "prostata"),
    "PenileBulb": ("penilebulb", "bulbpenis"),
    "Bowel": ("bowel",),
    "Bag_Bowel": ("bowelbag", "bagbowel"),
    "Bowel_Small": ("bowelsmall", "smallbowel"),
    "SeminalVes": ("seminalvesicles", "seminalves", "seminalvesicle"),
    "BODY": ("body", "external", "outline", "patient", "patientoutline", "aussenkontur"),
}
_PAIRED = {
    "Parotid": ("parotid", "parotis", "glndparotid", "parotidgland"),
    "Glnd_Submand": ("submandibular", "submand", "glndsubmand", "submandibulargland", "smg"),
    "Glnd_Lacrimal": ("lacrimal", "glndlacrimal", "lacrimalgland"),
    "Cochlea": ("cochlea",),
    "Eye": ("eye", "globe", "auge", "eyeball"),
    "Lens": ("lens", "linse"),
    "OpticNrv": ("opticnerve", "opticnrv", "nervopt", "optnerve", "sehnerv"),
    "Lung": ("lung", "lunge"),
    "Kidney": ("kidney", "niere"),
    "Femur_Head": ("femoralhead", "femurhead", "headfemur", "femhead"),
    "BrachialPlex": ("brachialplexus", "brachialplex", "plexus"),
    "Breast": ("breast", "mamma"),
    "Hippocampus": ("hippocampus",),
    "Lobe_Temporal": ("temporallobe", "lobetemporal"),
}
_SIDES = {
    "l": "L",
    "lt": "L",
    "left": "L",
    "li": "L",
    "links": "L",
    "r": "R",
    "rt": "R",
    "right": "R",
    "re": "R",
    "rechts": "R",
}
_BOTH = {"lungs": "Lungs", "kidneys": "Kidneys", "eyes": "Eyes", "parotids": "Parotids", "breasts": "Breasts"}
_TARGET = re.compile(r"^(ptv|ctv|gtv|itv)(?:(high|mid|low|boost|evaluation|eval)?)(\d+(?:\.\d+)?)?(gy|cgy)?$")
_LEVELS = {"high": "High", "mid": "Mid", "low": "Low"}


def normalise(name: str) -> str:
    """The name without case, blanks, ``_`` and ``-``: two names are the same if these texts are equal."""
    return _SEPARATORS.sub("", name).casefold()


def _words(name: str) -> list[str]:
    """Lower-case words of a name, split at separators, dots, brackets and where a small letter meets a capital."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    return [word for word in re.split(r"[\s_\-.,()\[\]/]+", spaced.casefold()) if word]


def _organ(text: str, table: dict[str, tuple[str, ...]]) -> str | None:
    return next((organ for organ, spellings in table.items() if text in spellings), None)


def _target(name: str) -> str | None:
    """PTV70, ptv 63, PTV_7000, PTV 56.0 Gy -> TG-263 target names with the dose in cGy (TG-263 rule for targets)."""
    match = _TARGET.match(normalise(name))
    if not match:
        return None
    kind, level, number, unit = match.groups()
    if level in ("boost", "eval", "evaluation"):
        return None
    if number is None:
        return None if unit else kind.upper() + (f"_{_LEVELS[level]}" if level else "")
    if level:
        return None
    dose = float(number)
    # the unit is seldom written: no course reaches 100 Gy by mistake for cGy, none is below 1 Gy, so 100 divides them
    centigray = dose if unit == "cgy" or (unit is None and dose >= 100) else 100.0 * dose
    if abs(centigray - round(centigray)) > 1e-6 or centigray < 1000:
        return None
    return f"{kind.upper()}_{round(centigray)}"


def guess_tg263(name: str) -> str | None:
    """The TG-263 name that a structure's name stands for, or None if it is not recognised.

    Laterality is never guessed: a paired organ whose name states no side, or both, gives None.
    ``RightParotid`` gives ``Parotid_R``, ``PTV70`` gives ``PTV_7000``, ``Mandible`` ``Bone_Mandible``.
    Source: AAPM TG-263 (Mayo et al., Int J Radiat Oncol Biol Phys 100, 2018) and spellings met in clinical files.
    """
    target = _target(name)
    if target:
        return target
    whole = normalise(name)
    if whole in _BOTH:
        return _BOTH[whole]
    single = _organ(whole, _SINGLE)
    if single:
        return single
    words = _words(name)
    sides = {_SIDES[word] for word in words if word in _SIDES}
    rest = "".join(word for word in words if word not in _SIDES)
    if not sides:
        for spelling, side in (("left", "L"), ("right", "R")):
            # words run together without capitals: leftparotid, parotidright
            if whole.startswith(spelling) or whole.endswith(spelling):
                sides.add(side)
                rest = whole.removeprefix(spelling).removesuffix(spelling)
    if len(sides) != 1:
        return None
    paired = _organ(rest, _PAIRED)
    return f"{paired}_{sides.pop()}" if paired else None
