"""Progress on stderr: bars on a terminal, structured lines elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from dicomplan.cli.session import printable
from dicomplan.events import Progress, ProgressCallback, ignore_progress


@contextmanager
def show_progress(*, quiet: bool = False) -> Iterator[ProgressCallback]:
    """Yield the callback that shows progress on stderr: bars on a terminal, ``key=value`` lines elsewhere."""
    if quiet:
        yield ignore_progress
    elif sys.stderr.isatty():
        with _bars() as callback:
            yield callback
    else:
        yield _lines()


@contextmanager
def _bars() -> Iterator[ProgressCallback]:
    from rich.console import Console
    from rich.progress import BarColumn, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    columns = (
        SpinnerColumn(),
        TextColumn("{task.fields[stage]}", markup=False),
        BarColumn(bar_width=24),
        TimeElapsedColumn(),
        TextColumn("{task.description}", markup=False),
    )
    with Bars(*columns, console=Console(file=sys.stderr)) as bars:
        current: tuple[str, TaskID] | None = None

        def show(event: Progress) -> None:
            nonlocal current
            if current is None or current[0] != event.stage:
                finish()
                task = bars.add_task(printable(event.message), total=None, stage=f"{printable(event.stage):<10}")
                current = (event.stage, task)
            bars.update(current[1], description=printable(event.message))
            if event.fraction is not None:
                bars.update(current[1], total=1.0, completed=event.fraction)

        def finish() -> None:
            if current is not None:
                bars.update(current[1], total=1.0, completed=1.0)

        yield show
        finish()


def _lines() -> ProgressCallback:
    from dicomplan.workflow.logs import Sparse, log_line

    sparse = Sparse()

    def show(event: Progress) -> None:
        if sparse.wanted(event):
            line = log_line("info", event.stage, event.message, fraction=event.fraction)
            print(line, file=sys.stderr, flush=True)

    return show
