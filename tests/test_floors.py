"""The house of ARCHITECTURE.md: a room imports only from floors below its own."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "dicomplan"

FLOORS = {
    "": 0,  # dicomplan/__init__.py: version and disclaimer
    "errors": 0,
    "events": 0,
    "kernel_cache": 0,
    "geometry": 1,
    "patient": 2,
    "machine": 2,
    "metrics": 3,
    "beams": 3,
    "plan": 4,
    "dose": 5,
    "optimization": 6,
    "sequencing": 7,
    "planning": 8,
    "evaluation": 8,
    "commissioning": 8,
    "dicom": 9,
    "images": 9,
    "report": 9,
    "phantoms": 10,
    "workflow": 11,
    "jobs": 12,
    "network": 12,
    "web": 12,
    "cli": 13,
    "__main__": 14,
}

# (module, imported module): the reason. Empty, and best kept so.
EXCEPTIONS: dict[tuple[str, str], str] = {}


def imported_modules(source: str, module: str, *, is_package: bool = False) -> set[str]:
    """Absolute names of what a module of dicomplan imports of dicomplan, wherever in the file it does so."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = module.split(".")
                parts = parts[: len(parts) - node.level + is_package]
                base = ".".join([*parts, base] if base else parts)
            # "from dicomplan import dose" names a room in the alias, "from dicomplan.dose import x" in the base.
            found |= {f"{base}.{alias.name}" if base == "dicomplan" else base for alias in node.names}
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name in ("import_module", "__import__"):
                found.add(str(node.args[0].value))
    return {name for name in found if name == "dicomplan" or name.startswith("dicomplan.")}


def room_of(module: str) -> str:
    """``dicomplan.dose.volume`` -> ``dose``; names that are no room are those of ``dicomplan/__init__.py``."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and not (parts[1].isupper() or parts[1] == "__version__") else ""


def violations(module: str, imports: set[str]) -> list[str]:
    """One sentence for each import that goes up or sideways."""
    here = room_of(module)
    found = []
    for target in sorted(imports):
        there = room_of(target)
        if here == there or (module, target) in EXCEPTIONS:
            continue
        if there not in FLOORS or here not in FLOORS:
            found.append(f"{module} imports {target}: {there if there not in FLOORS else here} is on no floor")
        elif FLOORS[there] >= FLOORS[here] and FLOORS[here] > 0:
            found.append(f"{module} (floor {FLOORS[here]}) imports {target} (floor {FLOORS[there]})")
        elif FLOORS[here] == 0 and FLOORS[there] > 0:
            found.append(f"{module} (floor 0) imports {target} (floor {FLOORS[there]})")
    return found


def modules() -> list[tuple[str, Path]]:
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        found.append((".".join(parts[:-1] if parts[-1] == "__init__" else parts), path))
    return found


def test_every_import_goes_down() -> None:
    found = []
    for module, path in modules():
        imports = imported_modules(path.read_text(), module, is_package=path.name == "__init__.py")
        found += violations(module, imports)
    assert not found, "\n".join(found)


def test_every_room_has_a_floor() -> None:
    rooms = {room_of(module) for module, _ in modules()}
    assert rooms <= set(FLOORS), f"rooms on no floor: {sorted(rooms - set(FLOORS))}"
    assert {"geometry", "dose", "dicom", "cli"} <= rooms


def test_rooms_start_without_imports() -> None:
    """A room's ``__init__.py`` imports nothing: importing one module never drags in another."""
    for path in sorted(PACKAGE.rglob("__init__.py")):
        imports = [
            node
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Import | ast.ImportFrom) and getattr(node, "module", "") != "__future__"
        ]
        assert not imports, f"{path.relative_to(PACKAGE.parent)} line {imports[0].lineno}"


def test_exceptions_are_still_needed() -> None:
    by_name = dict(modules())
    for (module, target), reason in EXCEPTIONS.items():
        assert reason
        assert target in imported_modules(by_name[module].read_text(), module), f"{module} no longer imports {target}"


@pytest.mark.parametrize(
    ("module", "source", "wrong"),
    [
        ("dicomplan.geometry.x", "from dicomplan.patient.case import CTVolume", True),  # upward
        ("dicomplan.patient.x", "import dicomplan.machine.model", True),  # sideways
        ("dicomplan.optimization.x", "def f():\n    from dicomplan import dicom", True),  # upward, hidden and by alias
        ("dicomplan.dose.x", "from ..workflow import plan", True),  # upward, relative
        ("dicomplan.dose.x", "import importlib\nimportlib.import_module('dicomplan.cli.main')", True),
        ("dicomplan.errors", "from dicomplan.geometry.grid import VoxelGrid", True),
        ("dicomplan.dose.x", "from dicomplan.attic.y import z", True),  # no such floor
        ("dicomplan.dose.x", "from dicomplan.geometry.grid import VoxelGrid\nfrom .volume import DoseVolume", False),
        ("dicomplan.dicom.x", "from dicomplan import __version__, DISCLAIMER\nimport numpy", False),
        ("dicomplan.events", "from dicomplan.errors import CancelledError", False),
    ],
)
def test_the_rule_itself(module: str, source: str, wrong: bool) -> None:
    assert bool(violations(module, imported_modules(source, module))) == wrong
