"""Identifiers and times of written objects: functions of the inputs and of one creation time, never of a clock."""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from dicomplan import __version__

_NAMESPACE = uuid.UUID("6f0d7f0e-3f0e-5c1b-9a52-6a2f1d3c9b70")
MANUFACTURER = "dicomplan"
"""Manufacturer (0008,0070) and model of every object that dicomplan writes."""


def uid_from_entropy(*parts: str) -> str:
    """A UID under ``2.25.`` from a version 5 UUID of ``parts`` (DICOM PS3.5 B.2); the same parts give the same UID."""
    return f"2.25.{uuid.uuid5(_NAMESPACE, json.dumps(parts)).int}"


IMPLEMENTATION_CLASS_UID = uid_from_entropy("implementation class")
"""Implementation Class UID (0002,0012) of dicomplan."""
IMPLEMENTATION_VERSION_NAME = f"DICOMPLAN_{__version__}"[:16]
"""Implementation Version Name (0002,0013), at most 16 characters."""


@dataclass(frozen=True)
class Identity:
    """What identifies one run: ``entropy`` (any text) and the creation time of its objects."""

    entropy: str
    created: datetime

    def uid(self, role: str) -> str:
        """The UID of one role (``RTPLAN``, ``RTDOSE series``...); same entropy, time and role give the same UID."""
        return uid_from_entropy(self.entropy, self.created.isoformat(), role)

    @property
    def date(self) -> str:
        """Creation date as DICOM DA, ``YYYYMMDD``."""
        return self.created.strftime("%Y%m%d")

    @property
    def time(self) -> str:
        """Creation time as DICOM TM, ``HHMMSS``."""
        return self.created.strftime("%H%M%S")


def identity_of(
    input_hashes: Sequence[str], template_text: str, machine_text: str, created: datetime, version: str = __version__
) -> Identity:
    """The identity of a plan: its inputs' hashes (in any order), template and machine text, version and creation time."""
    return Identity(json.dumps([sorted(input_hashes), template_text, machine_text, version]), created)
