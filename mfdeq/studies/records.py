"""Results of a study: records of cases, their values, and the overall progress."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import StudyError
from ..files.checkpoints import digest
from ..files.npy import DamagedFileError, read_npy


class Values(Mapping):
    """A mapping from names to values, whose arrays are read from their files on access.

    Parameters
    ----------
    values : dict
        The values, with arrays replaced by their digests and shapes.
    folder : Path
        The folder of the array files.
    kind : {"param", "output"}
        The prefix of the file names.
    """

    def __init__(self, values: dict[str, Any], folder: Path, kind: str) -> None:
        self._values, self._folder, self._kind = values, folder, kind

    def file(self, name: str) -> Path | None:
        """Return the file of an array; None for any other value."""
        is_array = isinstance(self._values[name], dict)
        return self._folder / f"{self._kind}.{name}.npy" if is_array else None

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of an array without reading it; () for other and missing values."""
        value = self._values.get(name)
        return tuple(value["shape"]) if isinstance(value, dict) else ()

    def __getitem__(self, name: str) -> Any:
        file = self.file(name)
        if file is None:
            return self._values[name]
        try:
            array = read_npy(file)
            if digest(array) != self._values[name]["array"]:
                raise DamagedFileError("its entries are not those that were written")
        except (OSError, DamagedFileError) as error:
            raise StudyError(
                f"{file} cannot be read ({error}); study.map(..., retry=True) computes the case "
                "again"
            ) from error
        return array[()]  # a zero-dimensional array is a number: complex numbers are stored so

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        items = (f"{name!r}: {self.plain.get(name, 'array')!r}" for name in self)
        return f"{{{', '.join(items)}}}"

    @property
    def plain(self) -> dict[str, Any]:
        """The values that are not arrays."""
        return {name: x for name, x in self._values.items() if self.file(name) is None}

    @property
    def damaged(self) -> list[str]:
        """The names of arrays whose files are missing, or differ from what was written."""
        return [name for name in self._values if self.file(name) and not self._is_intact(name)]

    def _is_intact(self, name: str) -> bool:
        try:
            self[name]
        except StudyError:
            return False
        return True


@dataclass(frozen=True, repr=False)
class Record:
    """The record of one case.

    Attributes
    ----------
    key : str
        A digest of the parameters.
    params : mapping
        The parameters. Arrays are read from their files on access.
    status : {"done", "failed"}
    error, traceback : str or None
        The error of a case that failed.
    seed : list of int or None
        The seed of its random numbers: ``rng`` was ``numpy.random.default_rng(seed)``. None if
        the function takes no ``rng``.
    warm : str or None
        The key of the case that its warm start came from, if any.
    started : str
        The time in UTC, ISO 8601.
    seconds : float
        The wall time.
    worker : dict
        The machine and the process that ran it.
    provenance : dict
        The versions of packages, commit, command line and machine of the session.

    Examples
    --------
    >>> import tempfile
    >>> import mfdeq
    >>> def halve(x):
    ...     return {"half": x / 2, "inverse": 1 / x}
    >>> study = mfdeq.Study(tempfile.mkdtemp())
    >>> done, failed = study.map(halve, [{"x": 2}, {"x": 0}], workers=0)
    >>> done.outputs["half"]
    1.0
    >>> failed.error
    'ZeroDivisionError: division by zero'
    """

    key: str
    params: Values
    status: str
    error: str | None
    traceback: str | None
    seed: list[int] | None
    warm: str | None
    started: str
    seconds: float
    worker: dict[str, Any]
    provenance: dict[str, Any]
    _outputs: Values

    def __repr__(self) -> str:
        return f"<Record of {self.params!r}: {self.error or self._outputs!r}>"

    @property
    def outputs(self) -> Values:
        """The outputs of the function.

        Raises
        ------
        StudyError
            If the case failed. The message contains its traceback.
        """
        if self.status == "failed":
            raise StudyError(
                f"the case {self.params!r} failed: {self.error}\n{self.traceback or ''}"
                "study.map(..., retry=True) runs it again"
            )
        return self._outputs

    @property
    def kept(self) -> Values:
        """The outputs that could be stored, even if another one made the case fail."""
        return self._outputs

    @property
    def damaged(self) -> list[str]:
        """The names of arrays whose files are missing, or differ from what was written."""
        return self.params.damaged + self._outputs.damaged


@dataclass(frozen=True)
class Status:
    """The progress of a study.

    Attributes
    ----------
    done, failed : int
        The numbers of cases with a record.
    planned : int
        The number of cases of the last call of `mfdeq.Study.map`.
    running : bool
        Whether a process is writing to the study.
    seconds : float
        The wall time of all cases together.

    Examples
    --------
    >>> from mfdeq.studies import Status
    >>> Status(done=7, failed=1, planned=10, running=False, seconds=4.0).left
    2
    """

    done: int
    failed: int
    planned: int
    running: bool
    seconds: float

    @property
    def left(self) -> int:
        """The number of planned cases without a record."""
        return max(0, self.planned - self.done - self.failed)


@dataclass(frozen=True)
class Session:
    """One call of `mfdeq.Study.map`: when it started, and the provenance of its records."""

    started: str
    provenance: dict[str, Any]
