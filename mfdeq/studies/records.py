"""What is kept of a case: its record, and its values, arrays among them read when asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..arrays.backend import host
from ..errors import StudyError
from ..files.checkpoints import digest


class Values(Mapping):
    """Values by their names; arrays are read from their files when they are asked for.

    Parameters
    ----------
    values : dict
        Arrays by their digests and shapes.
    folder : path
    kind : {"param", "output"}
    """

    def __init__(self, values: dict[str, Any], folder: Any, kind: str) -> None:
        self._values, self._folder, self._kind = values, folder, kind

    def file(self, name: str) -> Any:
        """The file of an array, or None."""
        stored = isinstance(self._values[name], dict)
        return self._folder / f"{self._kind}.{name}.npy" if stored else None

    def shape(self, name: str) -> tuple[int, ...]:
        """Of an array, without reading it; () of anything else, and where there is none."""
        value = self._values.get(name)
        return tuple(value["shape"]) if isinstance(value, dict) else ()

    def __getitem__(self, name: str) -> Any:
        file = self.file(name)
        if file is None:
            return self._values[name]
        try:
            return host.load(file, allow_pickle=False)[()]  # a complex number is one again
        except (OSError, ValueError, EOFError) as error:
            raise StudyError(
                f"{file} cannot be read ({error}); study.map(..., retry=True) computes its case "
                "again"
            ) from error

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        shown = (f"{name!r}: {self.plain.get(name, 'array')!r}" for name in self)
        return f"{{{', '.join(shown)}}}"

    @property
    def plain(self) -> dict[str, Any]:
        """Those that are no arrays."""
        return {name: x for name, x in self._values.items() if self.file(name) is None}

    @property
    def damaged(self) -> list[str]:
        """Names of arrays whose files are missing, or not what was written."""
        return [name for name in self._values if self.file(name) and not self._whole(name)]

    def _whole(self, name: str) -> bool:
        try:
            return digest(self[name]) == self._values[name]["array"]
        except StudyError:
            return False


@dataclass(frozen=True, repr=False)
class Record:
    """What is kept of a case.

    Attributes
    ----------
    key : str
        Digest of the parameters.
    params : mapping
    status : {"done", "failed"}
    error, traceback : str or None
        Of one that failed.
    seed : list of int or None
        Of its random numbers: ``rng`` was numpy.random.default_rng(seed).
    warm : str or None
        The key of the case that it was started from.
    started : str
        In UTC.
    seconds : float
    worker, provenance : dict
        The machine and process; versions, commit, command line and machine of the session.
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
        """What the function returned; of a case that failed, a `StudyError` with its traceback."""
        if self.status == "failed":
            raise StudyError(
                f"the case {self.params!r} failed: {self.error}\n{self.traceback or ''}"
                "study.map(..., retry=True) runs it again"
            )
        return self._outputs

    @property
    def kept(self) -> Values:
        """The outputs that can be stored; of a case that failed by another of them, too."""
        return self._outputs

    @property
    def damaged(self) -> list[str]:
        """Names of arrays whose files are missing, or not what was written."""
        return self.params.damaged + self._outputs.damaged
