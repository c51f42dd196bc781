"""Progress bars: shown in a terminal or a notebook, silent elsewhere."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self


class ProgressBar:
    """A tqdm progress bar, which can be used as a context manager.

    In a terminal or a notebook the bar is shown; nothing is written if standard error is a file or
    a pipe.

    Parameters
    ----------
    title : str
        The name of the task, such as "newton" or "eigsh".
    unit : str
        The name of the units of work in the plural, such as "iterations".
    shown : bool, optional
        Whether to show the bar. The default is True.
    total : int, optional
        The total number of units, if known.
    done : int, optional
        The number of units already done.
    """

    def __init__(
        self, title: str, unit: str, shown: bool = True, total: int | None = None, done: int = 0
    ) -> None:
        self._bar: Any = None
        if shown:
            # The import is slow, and most callers show no bar.
            from tqdm.auto import tqdm

            # `disable=None` silences tqdm's text bar unless standard error is a terminal.
            self._bar = tqdm(desc=title, unit=f" {unit}", total=total, initial=done, disable=None)

    def advance(self, units: int = 1, text: str = "") -> None:
        """Advance the bar by some units, and update the text beside it unless empty."""
        if self._bar is not None:
            if text:
                self._bar.set_postfix_str(text, refresh=False)
            self._bar.update(units)

    def close(self) -> None:
        """Close the bar, leaving it on the screen."""
        if self._bar is not None:
            self._bar.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
