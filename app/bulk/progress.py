"""Progress is shown on standard error: as a bar on a terminal, else as a line every ten seconds."""

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from rich.progress import Progress

_LINE_SECONDS = 10.0
_BAR_SECONDS = 0.5


class Meter:
    """Shows the progress of a run.

    Args:
        total: the value of `done` at the end; None if unknown.
        begun: the value of `done` at the start, which an earlier run has reached.
    """

    def __init__(self, total: int | None, begun: int):
        self._total = total
        self._records = 0
        self._started = self._last = time.monotonic()
        self._bar: Progress | None = None
        if sys.stderr.isatty():
            self._bar = _bar()
            self._task = self._bar.add_task("", total=total, completed=begun, said="")

    def __enter__(self) -> Self:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()

    @property
    def rate(self) -> float:
        """Return the records a second of this process."""
        return self._records / max(1e-9, time.monotonic() - self._started)

    def advance(self, records: int, sum_of_records: int, done: int) -> None:
        """Count new records, and show the progress if the last time is long enough ago.

        Args:
            sum_of_records: all records, those of earlier runs included.
            done: the progress, in the unit of `total`.
        """
        self._records += records
        now = time.monotonic()
        if now - self._last < (_BAR_SECONDS if self._bar else _LINE_SECONDS):
            return
        self._last = now
        said = f"{sum_of_records:,} records, {self.rate:,.0f} a second"
        if self._bar:
            self._bar.update(self._task, completed=done, said=said)
            self._bar.refresh()
        else:
            share = f", {100 * done / self._total:.0f} % of the input" if self._total else ""
            print(f"nerve: {said}{share}", file=sys.stderr, flush=True)


def _bar() -> "Progress":
    # It is imported here because a server draws no bar, and the library takes 4 MB of memory.
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (BarColumn(), TaskProgressColumn(), TextColumn("{task.fields[said]}"), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), auto_refresh=False)
