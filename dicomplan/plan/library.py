"""The shipped templates, and templates from files."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from dicomplan.errors import TemplateError, UsageError
from dicomplan.plan.parse import parse_template
from dicomplan.plan.template import PlanTemplate
from dicomplan.plan.yaml_nodes import near_name

_SUFFIXES = (".yaml", ".yml")
_LARGEST_BYTES = 1_000_000  # a template is a page of text; anything like that is another file


def template_names() -> tuple[str, ...]:
    """Names of the shipped templates, sorted."""
    folder = files("dicomplan.plan").joinpath("templates")
    return tuple(sorted(item.name.removesuffix(".yaml") for item in folder.iterdir() if item.name.endswith(".yaml")))


def template_text(name: str) -> str:
    """YAML text of a shipped template. Raises UsageError for an unknown name, with the known ones."""
    if name not in template_names():
        near = near_name(name, template_names())
        hint = f"did you mean '{near}'?" if near else f"shipped: {', '.join(template_names())}"
        raise UsageError(f"no template is called '{name}'", hint=hint)
    return files("dicomplan.plan").joinpath("templates", f"{name}.yaml").read_text(encoding="utf-8")


def load_template(name_or_path: str | Path) -> PlanTemplate:
    """The template of a shipped name, or of a file.

    A shipped name wins over a file of the same name without a suffix. Raises UsageError if there is neither, or the
    file cannot be read, and TemplateError with all problems if it is no valid template.
    """
    if isinstance(name_or_path, str) and name_or_path in template_names():
        return parse_template(template_text(name_or_path), file=f"{name_or_path}.yaml")
    path = Path(name_or_path)
    if not path.exists():
        if path.suffix in _SUFFIXES or len(path.parts) > 1:
            raise UsageError("there is no such template file", file=path, hint="see dicomplan templates list")
        near = near_name(str(name_or_path), template_names())
        hint = f"did you mean '{near}'?" if near else f"shipped: {', '.join(template_names())}"
        raise UsageError(f"'{name_or_path}' is neither a shipped template nor a file", hint=hint)
    return parse_template(_read(path), file=path)


def _read(path: Path) -> str:
    try:
        if path.is_dir():
            raise UsageError("a folder is no template", file=path)
        with path.open("rb") as stream:
            data = stream.read(_LARGEST_BYTES + 1)
    except OSError as error:
        raise UsageError(f"the template cannot be read: {error.strerror or error}", file=path) from None
    if len(data) > _LARGEST_BYTES:
        raise TemplateError("the file is too large for a template", file=path)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise TemplateError("the template is not UTF-8 text", file=path, line=line) from None
