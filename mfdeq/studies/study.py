"""`mfdeq.Study`: a function over many cases, its results in a directory that survives kills."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

from ..errors import ArgumentError, StudyError, StudyWarning, warn
from .calls import Calls, check_arguments
from .cases import Case, identified
from .driving import Arrived, Drive, Pool, pickled
from .provenance import fingerprint, full_name, now, provenance
from .records import Record, Values
from .store import COLUMNS, Finished, Store, Writer
from .worker import RANDOM, wants_random


@dataclass(frozen=True)
class Status:
    """How far a study is.

    Attributes
    ----------
    done, failed : int
        Cases with a record.
    planned : int
        Cases of the last call of `Study.map`.
    running : bool
        Whether a process is writing.
    seconds : float
        Of all cases together.
    """

    done: int
    failed: int
    planned: int
    running: bool
    seconds: float


class Study:
    """A function over many cases, with every result on disk.

    Parameters
    ----------
    directory : str or path
        Made by the first `map`. It may be copied and moved.

    Raises
    ------
    StudyError
        Where its ``study.sqlite`` is something else, or what another version of mfdeq has written
        in another layout.

    Notes
    -----
    Records are rows of SQLite's ``study.sqlite``, arrays npy files in ``arrays``. A kill at any
    instant, ``kill -9`` included, and a full disk lose no record and make none twice: a record is
    committed when its arrays are on the disk, and a case without one is run again.

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
    """

    def __init__(self, directory: str | os.PathLike) -> None:
        self.store = Store(directory)
        self._unrecorded: list[Finished] = []

    def __repr__(self) -> str:
        status = self.status()
        return f"<Study {self.store.directory}: {status.done} done, {status.failed} failed>"

    # Running.

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
        retry: bool = False,
        progress: bool = True,
    ) -> list[Record]:
        """Call a function on every case that has no record yet.

        Parameters
        ----------
        function : callable
            Called as ``function(**case)``, in other processes: defined at the top of a module or
            script. Returns a mapping of names to numbers, words and arrays, or a single value,
            which gets the name "value". A parameter ``rng`` of it gets a numpy Generator of the
            case's own, the same wherever and whenever the case runs.
        cases : iterable of mapping
            Of names to numbers, words, bools, None, lists of those and arrays; see
            `mfdeq.studies.grid` and `mfdeq.studies.sample`.
        executor : concurrent.futures.Executor, optional
            Also dask.distributed's ``client.get_executor()`` or mpi4py's ``MPIPoolExecutor``. By
            default processes of this machine.
        workers : int, optional
            Of those processes; as many as processors by default, which share their threads. 0 runs
            in this process.
        ahead : int, optional
            Cases that the executor is given at a time; twice the workers by default, 256 of an
            executor of yours.
        seed : int, optional
            What the random numbers of all cases are from.
        warm : mapping of str to str, optional
            Arguments of the function by the outputs that they are: ``{"start": "state"}`` passes,
            as ``start``, the "state" of the nearest of these cases that is done, or None.
            Near are cases whose real numbers are, each by its range; whole numbers, words and all
            else must be the same.
        retry : bool, optional
            Whether cases that have failed are run again, and those whose arrays are damaged.
        progress : bool, optional
            Show a bar with a forecast, on a terminal.

        Returns
        -------
        list of Record
            Of the cases, in their order, from whatever session. A case that failed is among them,
            with its traceback; the others go on.

        Raises
        ------
        StudyError
            Where the directory cannot be written, another process or another function writes in
            it, or workers cannot be started.
        ArgumentError
            For cases that are no mappings, or twice the same.
        """
        if not callable(function):
            raise ArgumentError(f"function is a {type(function).__name__}; a callable was expected")
        named = identified(cases)
        pool = Pool(executor, workers, ahead)
        sent = pickled(function) if pool.processes else function
        random = wants_random(function)
        check_arguments(function, named, {*(warm or ()), *([RANDOM] if random else ())})
        with self.store.writing() as writer:
            self._claim(writer, full_name(function), seed if random else None)
            self._notice(writer, fingerprint(function))
            session = writer.begin(now(), len(named), {**provenance(function), "seed": seed})
            writer.tidy()
            self._write(writer, session, [])
            kept = {
                record.key: record.status
                for record in self.records()
                if not (retry and (record.status == "failed" or record.damaged))
            }
            left = [case for case in named if case.key not in kept]
            done = [case.key for case in named if kept.get(case.key) == "done"]
            call = Calls(self.outputs, named, done, seed if random else None, warm or {})
            drive = Drive(pool, sent, left, call)
            with pool.started(), _bar(progress, len(named), len(named) - len(left)) as bar:
                try:
                    for arrived in drive.arrivals():
                        self._write(writer, session, call.finished(arrived))
                        bar(arrived)
                except BaseException as error:
                    self._rescue(writer, session, call.finished(drive.drained()), error)
                    raise
        return self._of(named)

    def _claim(self, writer: Writer, function: str, seed: int | None) -> None:
        """One directory is of one function, with one seed."""
        for name, value in (("function", function), ("seed", seed)):
            before = self.store.setting(name)
            if before is None:
                writer.settle(name, value)
            elif before != value:
                raise StudyError(
                    f"{self.store.directory} is a study with the {name} {before}; {value} came. "
                    "Use another directory: results of both under the same cases would be mixed"
                )

    def _notice(self, writer: Writer, current: str | None) -> None:
        """Say that a function is no longer the one that records are of."""
        before, done = self.store.setting("fingerprint"), self.status().done
        if before is None or not done:
            writer.settle("fingerprint", current)
        elif before != current:
            warn(
                f"{self.store.directory} has {done} records of a function whose source, or the "
                "values that it holds, have changed since. They stay as they are; use another "
                "directory to compute them again",
                StudyWarning,
            )

    def _write(self, writer: Writer, session: int, finished: list[Finished]) -> None:
        """Record what is finished, and before it what could not be the last time."""
        self._unrecorded += finished
        try:
            writer.record(session, self._unrecorded)
        except StudyError as error:
            error.unrecorded = list(self._unrecorded)
            raise
        self._unrecorded = []

    def _rescue(
        self, writer: Writer, session: int, finished: list[Finished], error: BaseException
    ) -> None:
        """Record what came back after an error, or keep it with that."""
        try:
            self._write(writer, session, finished)
        except StudyError as second:
            if isinstance(error, StudyError):
                error.unrecorded = second.unrecorded

    # Reading.

    def records(self) -> list[Record]:
        """All records, in the order in which they were made."""
        sessions = {
            number: json.loads(text)
            for number, text in self.store.select("select id, provenance from sessions")
        }
        rows = self.store.select(f"select {COLUMNS} from records order by rowid")
        return [
            self._record(dict(zip(COLUMNS.split(", "), row, strict=True)), sessions) for row in rows
        ]

    def _record(self, row: dict[str, Any], sessions: dict[int, Any]) -> Record:
        folder = self.store.folder(row["key"], row["attempt"])
        return Record(
            key=row["key"],
            params=Values(json.loads(row["params"]), folder, "param"),
            status=row["status"],
            error=row["error"],
            traceback=row["traceback"],
            seed=json.loads(row["seed"]),
            warm=row["warm"],
            started=row["started"],
            seconds=row["seconds"],
            worker=json.loads(row["worker"]),
            provenance=sessions[row["session"]],
            _outputs=Values(json.loads(row["outputs"]), folder, "output"),
        )

    def _of(self, named: list[Case]) -> list[Record]:
        found = {record.key: record for record in self.records()}
        return [found[case.key] for case in named]

    def outputs(self, key: str) -> Values:
        """The outputs of a case that is done, by its key."""
        rows = self.store.select("select attempt, outputs from records where key = ?", [key])
        if not rows:
            raise ArgumentError(f"no case has the key {key!r}; that of a record was expected")
        attempt, text = rows[0]
        return Values(json.loads(text), self.store.folder(key, attempt), "output")

    def __iter__(self) -> Iterator[Record]:
        return iter(self.records())

    def __len__(self) -> int:
        return self.store.select("select count(*) from records")[0][0] if self.store.made else 0

    @property
    def failures(self) -> list[Record]:
        """Records of the cases that have failed."""
        return [record for record in self.records() if record.status == "failed"]

    def status(self) -> Status:
        """How far it is."""
        rows = self.store.select(
            "select status, count(*), sum(seconds) from records group by status"
        )
        counts = {status: n for status, n, _ in rows}
        planned = self.store.select("select planned from sessions order by id desc limit 1")
        return Status(
            done=counts.get("done", 0),
            failed=counts.get("failed", 0),
            planned=planned[0][0] if planned else 0,
            running=self.store.being_written(),
            seconds=sum(seconds for _, _, seconds in rows),
        )

    def to_pandas(self) -> Any:
        """A row for each record: parameters and outputs but for arrays, what it took, its error.

        Returns
        -------
        pandas.DataFrame
        """
        from .tables import to_pandas

        return to_pandas(self.records())

    def to_html(self) -> str:
        """One HTML page with tables, figures, failures and provenance.

        Returns
        -------
        str
            It holds its figures and fetches nothing.
        """
        from .reporting import report

        return report(self)

    def to_xarray(self, dims: Sequence[str] = (), names: Sequence[str] | None = None) -> Any:
        """Outputs of the cases that are done, arrays included.

        Parameters
        ----------
        dims : sequence of str, optional
            Parameters that become dimensions, which together tell all cases apart; where a
            combination has no case it is NaN. By default there is one dimension, "case", with the
            parameters as its coordinates.
        names : sequence of str, optional
            Of outputs; all by default. Those of an array must have one shape.

        Returns
        -------
        xarray.Dataset
        """
        from .tables import to_xarray

        return to_xarray(self.records(), dims, names)


@contextlib.contextmanager
def _bar(shown: bool, total: int, before: int) -> Iterator[Callable[[list[Arrived]], None]]:
    from tqdm.auto import tqdm

    failed = 0
    with tqdm(
        total=total, initial=before, desc="study", unit=" cases", disable=None if shown else True
    ) as bar:

        def update(arrived: list[Arrived]) -> None:
            nonlocal failed
            failed += sum(one.outcome.status == "failed" for one in arrived)
            if failed:
                bar.set_postfix_str(f"{failed} failed", refresh=False)
            bar.update(len(arrived))

        yield update
