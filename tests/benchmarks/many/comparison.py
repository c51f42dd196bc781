"""One row of a table: a job of the library beside one that an expert writes, in turns."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass
class Comparison:
    """Two jobs that compute the same, and how much longer the first may take.

    Attributes
    ----------
    title : str
    job, reference : callable
        Jobs without arguments, each with all that it needs: models and factors are built
        again in each.
    target : float
        The largest ratio of the time of the job to that of the reference.
    beside : str
        What the reference is.
    clock : callable
        Seconds; by default of this process, to which others do not add. What runs in several
        processes is timed by `time.perf_counter`.
    note : callable
        ``note()`` returns what is printed behind the row, such as counts or bytes.
    """

    title: str
    job: Callable[[], Any]
    reference: Callable[[], Any]
    target: float
    beside: str = "by hand"
    clock: Callable[[], float] = time.process_time
    note: Callable[[], str] = str

    def seconds(self, job: Callable[[], Any]) -> float:
        """Return the seconds of one run."""
        gc.collect()
        start = self.clock()
        job()
        return self.clock() - start

    def run(self, repeats: int) -> str:
        """Run both jobs in turns, and return the row."""
        jobs = (self.job, self.reference)
        for job in jobs:
            job()  # compiles, and touches memory
        times: list[list[float]] = [[], []]
        for _ in range(repeats):
            for job, taken in zip(jobs, times, strict=True):
                taken.append(self.seconds(job))
        ours, theirs = map(statistics.median, times)
        ratio = ours / theirs if theirs else float("nan")
        verdict = "met" if ratio <= self.target else "missed"
        return (
            f"  {self.title:44} {1e3 * ours:10.1f} {1e3 * theirs:10.1f} {ratio:7.2f} "
            f"({self.target:g}: {verdict}) {self.beside} {self.note()}".rstrip()
        )
