"""`mfdeq.Study`: a function evaluated on many cases, with every result on disk."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Executor
from typing import Any

from ..errors import ArgumentError, StudyError, StudyWarning, warn
from ..progress import ProgressBar
from .case_arguments import CaseArguments, check_signature
from .cases import Case, checked_units, identify_cases
from .executors import WorkerPool, pickle_function
from .provenance import describe_provenance, fingerprint, qualified_name, utc_now
from .queries import damaged_rows
from .recorded_study import RecordedStudy
from .records import Record
from .scheduling import Scheduler
from .store import FinishedCase, Writer
from .worker import RNG_PARAMETER, takes_rng


class Study(RecordedStudy):
    """A function evaluated on many cases, with every result on disk.

    A study is a directory. `map` calls a function on cases and records each result as soon as it
    is available; called again, it computes only the cases without a record.

    Parameters
    ----------
    directory : str or path
        The directory of the study. The first call of `map` creates it, with its parents. It
        may be copied and moved.

    Raises
    ------
    StudyError
        If the path is a file, or the directory holds a ``study.sqlite`` that is not a study or
        that another version of mfdeq wrote in another layout.

    See Also
    --------
    mfdeq.studies.grid : Cases for every combination of values.
    mfdeq.studies.sample : Cases drawn at random.

    Notes
    -----
    Records are rows of ``study.sqlite`` (SQLite), and arrays are npy files in ``arrays``. A record
    is committed after its arrays have been flushed to the disk, so that neither a full disk nor a
    kill at any time, even by ``kill -9``, loses or duplicates a record. A case without a record is
    run again.

    Examples
    --------
    >>> import tempfile
    >>> import mfdeq
    >>> from mfdeq.studies import grid
    >>> def double(x):
    ...     return {"twice": 2 * x}
    >>> study = mfdeq.Study(tempfile.mkdtemp())
    >>> records = study.map(double, grid(x=[1, 2]), workers=0)
    >>> [record.outputs["twice"] for record in records]
    [2, 4]
    >>> study.status().done
    2
    """

    def __init__(self, directory: str | os.PathLike) -> None:
        super().__init__(directory)
        self._unrecorded: list[FinishedCase] = []

    def map(
        self,
        function: Callable,
        cases: Iterable[Mapping[str, Any]],
        *,
        executor: Executor | None = None,
        workers: int | None = None,
        ahead: int | None = None,
        seed: int = 0,
        warm: Mapping[str, str] | None = None,
        units: Mapping[str, str] | None = None,
        retry: bool = False,
        progress: bool = True,
    ) -> list[Record]:
        """Call a function on every case that has no record yet.

        Parameters
        ----------
        function : callable
            Called as ``function(**case)`` in other processes, so it must be defined at the top of
            a module or script. It returns a mapping from names to numbers, strings, bools, None,
            lists of those and arrays, or a single such value, which gets the name "value". If it
            has a parameter ``rng``, it gets a `numpy.random.Generator` that depends only on `seed`
            and the case.
        cases : iterable of mapping
            The cases: mappings from names to numbers, strings, bools, None, lists of those and
            arrays. See `mfdeq.studies.grid` and `mfdeq.studies.sample`.
        executor : concurrent.futures.Executor, optional
            The executor that runs the cases, such as ``client.get_executor()`` of dask.distributed
            or mpi4py's ``MPIPoolExecutor``. By default processes on this machine.
        workers : int, optional
            The number of those processes, which share the threads of the machine; 0 runs in this
            process. By default the number of processors.
        ahead : int, optional
            The number of cases that are submitted at a time. By default twice the number of
            workers, or 256 with `executor`.
        seed : int, default: 0
            The seed of all random numbers of the study.
        warm : mapping of str to str, optional
            Warm starts: for an argument of the function, the output that it is taken from.
            ``{"start": "state"}`` passes as ``start`` the output "state" of the nearest of these
            cases that is done, or None. The distance is that of the real parameters, each divided
            by its range; integers, strings and all other parameters must be equal.
        units : mapping of str to str, optional
            The units of parameters and outputs by their names, such as ``{"length": "m"}``, for
            the report and for datasets. They are stored; by default they are left as they are.
        retry : bool, default: False
            Whether to rerun the cases that have failed, and those whose records or arrays are
            damaged.
        progress : bool, default: True
            Whether to show a progress bar, if standard error is a terminal.

        Returns
        -------
        list of Record
            The records of all cases in the order of `cases`, including those made earlier. The
            records of cases that failed contain the error and its traceback.

        Raises
        ------
        StudyError
            If the directory cannot be written, another process is writing to it, it holds
            results of another function or another seed, or workers cannot be started.
        ArgumentError
            If a case is not a mapping, two cases are the same, the function cannot be called with
            a case, or it cannot be pickled for other processes.

        Warns
        -----
        StudyWarning
            If the source of the function, or a value bound to it, has changed since the study
            began. Existing records are left as they are.

        Examples
        --------
        A second call computes only the new cases:

        >>> import tempfile
        >>> import mfdeq
        >>> def square(x):
        ...     return x**2
        >>> study = mfdeq.Study(tempfile.mkdtemp())
        >>> first = study.map(square, [{"x": 2}], workers=0)
        >>> both = study.map(square, [{"x": 2}, {"x": 3}], workers=0)
        >>> [record.outputs["value"] for record in both]
        [4, 9]
        >>> both[0].started == first[0].started
        True
        """
        if not callable(function):
            raise ArgumentError(f"function: expected a callable, got {type(function).__name__}")
        stored_units = None if units is None else checked_units(units)
        identified = identify_cases(cases)
        pool = WorkerPool(executor, workers, ahead)
        sent = pickle_function(function) if pool.crosses_processes else function
        random = takes_rng(function)
        passed = {*(warm or ()), *([RNG_PARAMETER] if random else ())}
        check_signature(function, identified, passed)
        with self.store.writing() as writer:
            self._check_function(writer, qualified_name(function), seed if random else None)
            self._warn_if_changed(writer, fingerprint(function))
            if stored_units is not None:
                writer.save_setting("units", stored_units)
            provenance = {**describe_provenance(function), "seed": seed}
            session = writer.begin_session(utc_now(), len(identified), provenance)
            if retry:
                writer.remove_records(damaged_rows(self.store))
            writer.remove_orphans()
            self._record(writer, session, [])
            recorded = {
                record.key: record.status
                for record in self.records()
                if not (retry and (record.status == "failed" or record.damaged))
            }
            left = [case for case in identified if case.key not in recorded]
            done = [case.key for case in identified if recorded.get(case.key) == "done"]
            arguments = CaseArguments(
                self.outputs, identified, done, seed if random else None, warm or {}
            )
            scheduler = Scheduler(pool, sent, left, arguments)
            total = len(identified)
            done_or_failed = total - len(left)
            bar = ProgressBar("study", "cases", progress, total, done_or_failed)
            failed = sum(recorded.get(case.key) == "failed" for case in identified)
            with bar, pool.running():
                try:
                    for completed in scheduler.completions():
                        self._record(writer, session, arguments.finish(completed))
                        failed += sum(item.outcome.status == "failed" for item in completed)
                        done_or_failed += len(completed)
                        bar.show(done_or_failed, f"{failed} failed" if failed else "")
                except BaseException as error:
                    rest = arguments.finish(scheduler.cancel())
                    self._record_after_error(writer, session, rest, error)
                    raise
        return self._records_of(identified)

    def _check_function(self, writer: Writer, function: str, seed: int | None) -> None:
        """Raise StudyError if the directory holds results of another function or seed."""
        for name, value in (("function", function), ("seed", seed)):
            stored = self.store.setting(name)
            if stored is None:
                writer.save_setting(name, value)
            elif stored != value:
                raise StudyError(
                    f"{self.directory}: expected the {name} {stored}, which the study began with, "
                    f"got {value}. Use another directory, so that the results of both are not "
                    "mixed"
                )

    def _warn_if_changed(self, writer: Writer, current: str | None) -> None:
        """Warn if the function has changed since the first records were made."""
        stored, done = self.store.setting("fingerprint"), self.status().done
        if stored is None or not done:
            writer.save_setting("fingerprint", current)
        elif stored != current:
            warn(
                f"{self.directory} has {done} records of a function whose source or bound values "
                "have changed since. The records are unchanged; use another directory to compute "
                "them again",
                StudyWarning,
            )

    def _record(self, writer: Writer, session: int, finished: list[FinishedCase]) -> None:
        """Record cases, together with those that an earlier call could not write."""
        self._unrecorded += finished
        try:
            writer.record(session, self._unrecorded)
        except StudyError as error:
            error.unrecorded = list(self._unrecorded)
            raise
        self._unrecorded = []

    def _record_after_error(
        self, writer: Writer, session: int, finished: list[FinishedCase], error: BaseException
    ) -> None:
        """Record what completed after an error; attach it to the error if that fails too."""
        try:
            self._record(writer, session, finished)
        except StudyError as second:
            if isinstance(error, StudyError):
                error.unrecorded = second.unrecorded

    def _records_of(self, cases: list[Case]) -> list[Record]:
        records = {record.key: record for record in self.records()}
        return [records[case.key] for case in cases]
