"""The shipped machines, and machines from files."""

from __future__ import annotations

from collections.abc import Callable
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path, PurePath

from dicomplan.errors import MachineError, UsageError
from dicomplan.machine.model import MachineModel
from dicomplan.machine.parse import parse_machine
from dicomplan.machine.values import near_name

_SUFFIX = ".toml"
_LARGEST_BYTES = 1_000_000  # a machine file is a page of text, its tables are a few; anything larger is another file


def machine_names() -> tuple[str, ...]:
    """Names of the shipped machines, sorted."""
    return tuple(sorted(item.name.removesuffix(_SUFFIX) for item in _folder().iterdir() if item.name.endswith(_SUFFIX)))


def machine_text(name: str) -> str:
    """TOML text of a shipped machine file. Raises UsageError for an unknown name, with the known ones."""
    if name not in machine_names():
        raise UsageError(f"no machine is called '{name}'", hint=_hint(name))
    return _folder().joinpath(name + _SUFFIX).read_text(encoding="utf-8")


def load_machine(name_or_path: str | Path) -> MachineModel:
    """The machine of a shipped name, or of a machine file: a Path, or text that ends with .toml or holds a folder.

    CSV tables that the file names lie beside it; where none lies there, the shipped one of that name is taken. Raises
    MachineError with all problems; also for a name that is not shipped, and a file that is not there or cannot be read.
    """
    if not _is_path(name_or_path):
        name = str(name_or_path)
        if name not in machine_names():
            raise MachineError(f"no machine is called '{name}'", hint=_hint(name))
        return parse_machine(machine_text(name), file=name + _SUFFIX, read_table=_shipped_table)
    path = Path(name_or_path)
    return parse_machine(_read(path, "machine file"), file=path, read_table=_tables_beside(path))


def _is_path(name_or_path: str | Path) -> bool:
    if isinstance(name_or_path, PurePath):
        return True
    return name_or_path.endswith(_SUFFIX) or "/" in name_or_path or "\\" in name_or_path


def _hint(name: str) -> str:
    names = machine_names()
    near = near_name(name, names)
    return (f"did you mean '{near}'? " if near else "") + f"shipped: {', '.join(names)}"


def _folder() -> Traversable:
    return files("dicomplan.machine").joinpath("files")


def _shipped_table(name: str) -> str:
    table = _folder().joinpath(name)
    if not table.is_file():
        raise MachineError(f"there is no table '{name}' beside the machine file, nor among the shipped ones")
    return table.read_text(encoding="utf-8")


def _tables_beside(path: Path) -> Callable[[str], str]:
    def read_table(name: str) -> str:
        beside = path.parent / name
        return _read(beside, f"table '{name}'") if beside.exists() else _shipped_table(name)

    return read_table


def _read(path: Path, what: str) -> str:
    try:
        if path.is_dir():
            raise MachineError(f"the {what} is a folder", file=path)
        with path.open("rb") as stream:
            data = stream.read(_LARGEST_BYTES + 1)
    except FileNotFoundError:
        raise MachineError(f"there is no such {what}", file=path, hint=_hint(path.stem)) from None
    except (OSError, ValueError) as error:  # ValueError: a name with a NUL character
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise MachineError(f"the {what} cannot be read: {reason}", file=path) from None
    if len(data) > _LARGEST_BYTES:
        raise MachineError(f"the {what} is too large", file=path)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise MachineError(f"the {what} is not UTF-8 text", file=path, line=line) from None
