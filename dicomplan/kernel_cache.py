"""The one place that decides where numba keeps compiled kernels and how its threads wait, and the decorator of all kernels.

numba decides at import where its cache lies and fails where neither package nor home can be written, so the
folder is set here, before numba is imported: ``$XDG_CACHE_HOME/dicomplan/<hash of all kernel files>``, else a
temporary folder with one log line. The hash makes a changed kernel file start from an empty cache.
"""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

_LOG = logging.getLogger(__name__)
_F = TypeVar("_F", bound=Callable[..., Any])


def kernel_files() -> list[Path]:
    """Every file of the package that holds numba kernels, sorted by path."""
    return sorted(Path(__file__).parent.rglob("_kernels*.py"))


def cache_folder() -> Path:
    """Folder of the compiled kernels: named by the hash of all kernel files, created if it can be."""
    digest = hashlib.sha256()
    for path in kernel_files():
        digest.update(path.name.encode())
        digest.update(path.read_bytes())
    name = digest.hexdigest()[:16]
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    folder = Path(base) / "dicomplan" / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError:
        fallback = Path(tempfile.mkdtemp(prefix="dicomplan-kernels-"))
        _LOG.info("kernel cache: the cache folder cannot be written, a temporary one is used")
        return fallback


# Threads that wait for others sleep. By default they spin: where other programs want the processor too, a kernel of 5 ms
# then takes 100, and as much of the processor's time. The runtime reads this when numba first starts threads.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

if "NUMBA_CACHE_DIR" not in os.environ:
    os.environ["NUMBA_CACHE_DIR"] = str(cache_folder())

import numba  # noqa: E402  (the cache folder must be set first)

numba.config.CACHE_DIR = os.environ["NUMBA_CACHE_DIR"]


def kernel(*, parallel: bool = False, inline: bool = False) -> Callable[[_F], _F]:
    """Decorator of every numba kernel: nopython, cached, never fastmath.

    ``parallel=True`` only where each iteration of ``numba.prange`` writes its own outputs, so that the bits do
    not depend on the number of threads. ``inline=True`` for small helpers of the same file.
    """

    def decorate(function: _F) -> _F:
        options: dict[str, Any] = {"cache": True, "nogil": True, "error_model": "numpy"}
        if parallel:
            options["parallel"] = True
        if inline:
            options["inline"] = "always"
        return cast(_F, numba.njit(**options)(function))

    return decorate
