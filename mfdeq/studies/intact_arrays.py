"""Arrays of a study for its report, which names those that cannot be read and does without them."""

from __future__ import annotations

from collections.abc import Sequence

from ..arrays.backend import Array
from ..errors import StudyError
from .records import Record, Values

MAX_CHECKED_BYTES = 8 * 2**30  # of array files that a report reads only to find damaged ones


class IntactArrays:
    """Reads arrays of records, and lists those that are damaged."""

    def __init__(self) -> None:
        self._errors: dict[tuple[str, str], str] = {}

    @property
    def damaged(self) -> list[str]:
        """One message for each damaged array, with the name of its file."""
        return list(self._errors.values())

    def check(self, records: Sequence[Record], limit: int = MAX_CHECKED_BYTES) -> int:
        """Read the arrays of all records, up to a number of bytes; return how many are left."""
        unchecked = size = 0
        for record in records:
            for values in (record.params, record.kept):
                for name in values:
                    size += _file_size(values, name)
                    if size > limit:
                        unchecked += values.file(name) is not None
                    else:
                        self._read(record, values, name)
        return unchecked

    def is_readable(self, record: Record, name: str) -> bool:
        """Whether an output is not known to be damaged."""
        return (record.key, name) not in self._errors

    def read(self, record: Record, name: str) -> Array | None:
        """Return an output that is an array; None if it is damaged."""
        return self._read(record, record.outputs, name) if self.is_readable(record, name) else None

    def _read(self, record: Record, values: Values, name: str) -> Array | None:
        try:
            return values[name]
        except StudyError as error:
            self._errors[record.key, name] = f"{name} of the case {record.params!r}: {error}"
            return None


def _file_size(values: Values, name: str) -> int:
    file = values.file(name)
    return file.stat().st_size if file is not None and file.is_file() else 0
