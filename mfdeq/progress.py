"""Progress bars: shown in a terminal or a notebook, silent elsewhere.

All long computations show the same bar: what has been done, as their report counts it, how fast,
and a forecast of the time that is left.
"""

from __future__ import annotations

import math
import multiprocessing
import time
from types import TracebackType
from typing import Any, Self

MIN_FORECAST_TIME = 2.0  # seconds of work before the first forecast
MAX_FORECAST_TIME = 1e6  # seconds

_open_bars: list[ProgressBar] = []  # of which there is at most one


class ProgressBar:
    """A tqdm progress bar, which can be used as a context manager.

    In a terminal or a notebook the bar is shown; nothing is written if standard error is a file or
    a pipe, in a worker process, whose bars would overwrite those of others, and while another bar
    is open: that of a minimization stands for those of its solves.

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
        self._text = self._left = ""
        self._forecast = Forecast()
        if shown and not _open_bars and multiprocessing.parent_process() is None:
            # The import is slow, and most callers show no bar.
            from tqdm.auto import tqdm

            # `disable=None` silences tqdm's text bar unless standard error is a terminal.
            self._bar = tqdm(desc=title, unit=f" {unit}", total=total, initial=done, disable=None)
            _open_bars.append(self)

    def show(self, done: int, text: str = "", share: float | None = None) -> None:
        """Show how many units are done.

        Parameters
        ----------
        done : int
            The number of units that are done, with those before the bar was opened.
        text : str, optional
            What is shown beside the bar; by default the last text.
        share : float, optional
            The share of the work that is done, from 0 to 1, where the total number of units is not
            known: the bar shows the time that is left if the work goes on as it has. By default
            the last forecast remains.
        """
        if self._bar is None:
            return
        self._text = text or self._text
        if share is not None:
            left = self._forecast.seconds_left(share, time.perf_counter())
            self._left = "" if left is None else f"about {self._bar.format_interval(left)} left"
        beside = ", ".join(filter(None, [self._text, self._left]))
        self._bar.set_postfix_str(beside, refresh=False)
        self._bar.update(done - self._bar.n)

    def continue_from(self, done: int) -> None:
        """Begin at the units that an earlier run has done, which do not count for the rate."""
        if self._bar is not None:
            self._bar.initial = self._bar.n = done

    def close(self) -> None:
        """Close the bar, leaving it on the screen."""
        if self in _open_bars:
            _open_bars.remove(self)
            self._bar.set_postfix_str(self._text, refresh=False)
            self._bar.refresh()
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


class Forecast:
    """The time that is left, from the shares of the work that were done at earlier times."""

    def __init__(self) -> None:
        self._first: tuple[float, float] | None = None  # a time, and the share done then
        self._last = 0.0

    def seconds_left(self, share: float, now: float) -> float | None:
        """Return the seconds left, or None if they are not known.

        Parameters
        ----------
        share : float
            The share of the work that is done; where it falls, the forecast begins again.
        now : float
            The time in seconds.
        """
        if self._first is None or share < self._last:
            self._first = now, share
        self._last = share
        elapsed, done = now - self._first[0], share - self._first[1]
        if elapsed < MIN_FORECAST_TIME or done <= 0.0:
            return None
        left = elapsed * max(0.0, 1.0 - share) / done
        return left if left < MAX_FORECAST_TIME else None


def share_of_decrease(first: float, now: float, target: float) -> float:
    """Return which share of the decrease of a residual to its target is done, in digits."""
    if not (0.0 < target < first and 0.0 < now < math.inf):
        return 1.0 if now <= target else 0.0
    return min(1.0, max(0.0, math.log(first / now) / math.log(first / target)))
