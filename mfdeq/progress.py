"""Progress bars: shown in a terminal or a notebook, silent elsewhere."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self


class ProgressBar:
    """A progress bar of tqdm, in a terminal or a notebook.

    Where standard error is a file or a pipe nothing is written. It is also a context manager that
    closes the bar.

    Parameters
    ----------
    title : str
        What is under way: "newton", "eigsh".
    unit : str
        What is counted, in the plural: "iterations".
    shown : bool, optional
        Whether the caller wants one.
    total : int, optional
        The number of units in all, where it is known.
    done : int, optional
        Units that were done before.
    """

    def __init__(
        self, title: str, unit: str, shown: bool = True, total: int | None = None, done: int = 0
    ) -> None:
        self._bar: Any = None
        if shown:
            # Imported here, since it takes a while and most callers want no bar.
            from tqdm.auto import tqdm

            # `disable=None` silences tqdm's bar of text unless standard error is a terminal.
            self._bar = tqdm(desc=title, unit=f" {unit}", total=total, initial=done, disable=None)

    def advance(self, units: int = 1, text: str = "") -> None:
        """Count further units, and replace the text beside the bar if there is one."""
        if self._bar is not None:
            if text:
                self._bar.set_postfix_str(text, refresh=False)
            self._bar.update(units)

    def close(self) -> None:
        """Leave the bar as it is and end its line."""
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
