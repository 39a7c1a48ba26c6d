"""Thread counts: the one place that sets them."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from dicomplan.errors import UsageError

# Linear algebra runs on one thread: dot products that are split over threads add up in another order, and the bits of
# a plan must not depend on the number of threads.
_SINGLE = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def usable_cores() -> int:
    """Number of processor cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return os.cpu_count() or 1


def set_threads(count: int | None) -> int:
    """Use ``count`` threads for kernels (None: as the environment says, else all usable cores), one for linear algebra.

    Where numba is not loaded yet, the environment variables that it and the linear algebra libraries read when they
    are loaded are set (inherited by workers); else numba is told, which cannot go above the number it started with.
    Returns the number in effect. Raises UsageError for a count below 1.
    """
    if count is not None and count < 1:
        raise UsageError(f"the number of threads must be at least 1, not {count}")
    for name in _SINGLE:
        os.environ[name] = "1"
    numba = sys.modules.get("numba")
    if numba is not None:
        most = int(numba.config.NUMBA_NUM_THREADS)
        if count is not None:
            numba.set_num_threads(min(count, most))
        return int(numba.get_num_threads())
    if count is not None:
        for name in ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS"):
            os.environ[name] = str(count)
        return count
    stated = os.environ.get("NUMBA_NUM_THREADS", "")
    return int(stated) if stated.isdecimal() and int(stated) > 0 else usable_cores()


@contextmanager
def one_thread_for_algebra() -> Iterator[None]:
    """Context in which linear algebra runs on one thread, also where its libraries were loaded long before.

    Products and dot products that are split over threads add up in another order: the bits of a plan would depend on
    who calls it. Kernels keep their threads.
    """
    # only libraries that are loaded can be told: the solver's would come later
    import scipy.optimize  # noqa: F401
    from threadpoolctl import threadpool_limits

    with threadpool_limits(limits=1, user_api="blas"):
        yield
