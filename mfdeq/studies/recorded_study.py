"""The records of a study on disk: reading them, tables and a report."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..tables import MAX_TABLE_ROWS, ShownAsTable, Table
from .html_report import html_report
from .queries import (
    read_intact_rows,
    read_outputs,
    read_records,
    read_sessions,
    read_status,
    read_units,
)
from .records import Record, Session, Status, Values
from .store import Store
from .tables import to_pandas, to_xarray


class RecordedStudy(ShownAsTable):
    """The results of a study that are on disk.

    Parameters
    ----------
    directory : str or path
        The directory of the study.
    """

    def __init__(self, directory: str | os.PathLike) -> None:
        self.store = Store(directory)

    def __repr__(self) -> str:
        status = self.status()
        return f"<Study {self.directory}: {status.done} done, {status.failed} failed>"

    def _table(self) -> Table:
        records = self.records() if self.exists else []
        shown = records[:MAX_TABLE_ROWS]
        cells = [
            {**r.params.plain, **(r.outputs.plain if r.error is None else {}), "error": r.error}
            for r in shown
        ]
        names = dict.fromkeys(name for row in cells for name in row)
        columns = {name: [_cell(row.get(name)) for row in cells] for name in names}
        left = [name for row in cells for name, x in row.items() if isinstance(x, str)]
        return Table(columns, len(records) - len(shown), "cases", left=left, before=[repr(self)])

    @property
    def directory(self) -> Path:
        """The directory of the study."""
        return self.store.directory

    @property
    def exists(self) -> bool:
        """Whether a study has been written to the directory."""
        return self.store.exists

    @property
    def units(self) -> dict[str, str]:
        """The units of parameters and outputs by their names, as they were passed to `map`."""
        return read_units(self.store)

    def records(self) -> list[Record]:
        """Return all records, in the order in which they were made.

        Returns
        -------
        list of Record

        Raises
        ------
        StudyError
            If the database cannot be read, or a record is damaged.

        Examples
        --------
        >>> import tempfile
        >>> import mfdeq
        >>> study = mfdeq.Study(tempfile.mkdtemp())
        >>> _ = study.map(lambda x: {"square": x**2}, [{"x": 3.0}], workers=0)
        >>> [dict(record.params) for record in study.records()]
        [{'x': 3.0}]
        """
        return read_records(self.store)

    def outputs(self, key: str) -> Values:
        """Return the outputs of a case by its key, without reading the other records.

        Parameters
        ----------
        key : str
            `Record.key`.

        Returns
        -------
        mapping

        Raises
        ------
        ArgumentError
            If no record has the key.

        Examples
        --------
        >>> import tempfile
        >>> import mfdeq
        >>> study = mfdeq.Study(tempfile.mkdtemp())
        >>> _ = study.map(lambda x: {"square": x**2}, [{"x": 3.0}], workers=0)
        >>> [record] = study.records()
        >>> study.outputs(record.key)["square"]
        9.0
        """
        return read_outputs(self.store, key)

    def __iter__(self) -> Iterator[Record]:
        return iter(self.records())

    def __len__(self) -> int:
        return self.store.select("select count(*) from records")[0][0] if self.exists else 0

    @property
    def failures(self) -> list[Record]:
        """The records of the cases that failed."""
        return [record for record in self.records() if record.status == "failed"]

    def status(self) -> Status:
        """Return the progress: how many cases are done, failed and left.

        Returns
        -------
        Status

        Examples
        --------
        >>> import tempfile
        >>> import mfdeq
        >>> study = mfdeq.Study(tempfile.mkdtemp())
        >>> _ = study.map(lambda x: {"square": x**2}, [{"x": 3.0}], workers=0)
        >>> status = study.status()
        >>> status.done, status.failed, status.left
        (1, 0, 0)
        """
        return read_status(self.store)

    def sessions(self) -> list[Session]:
        """Return one `Session` for each call of `map`, in their order.

        Examples
        --------
        >>> import tempfile
        >>> import mfdeq
        >>> study = mfdeq.Study(tempfile.mkdtemp())
        >>> _ = study.map(lambda x: {"square": x**2}, [{"x": 3.0}], workers=0)
        >>> [session] = study.sessions()
        >>> "numpy" in session.provenance["packages"]
        True
        """
        return read_sessions(self.store)

    def to_pandas(self) -> Any:
        """Return a table with a row for each record.

        Its columns are the parameters and the outputs without arrays, and ``status``,
        ``seconds``, ``started`` and ``error``; its index is the key of the case. Needs pandas.

        Returns
        -------
        pandas.DataFrame
        """
        return to_pandas(self.records())

    def to_html(self) -> str:
        """Return one HTML page with tables, figures, failures and provenance.

        Needs jinja2 and matplotlib.

        Returns
        -------
        str
            The page. It contains its figures, and loads nothing from elsewhere.

        Notes
        -----
        Outputs with two dimensions are drawn as maps, of at most six cases; of those with three,
        maps are slices of one case. An output whose name ends in "eigenvalues" is drawn in the
        order of `mfdeq.plot.spectrum`, by falling magnitude; other short vectors by index, with
        quantiles over the cases. Longer vectors, and those whose lengths differ, are curves of at
        most six cases; of complex numbers, of their magnitudes.

        A row of the database or an array that is damaged is named, and the rest of the page is made
        without it.

        Examples
        --------
        >>> import tempfile
        >>> import mfdeq
        >>> study = mfdeq.Study(tempfile.mkdtemp())
        >>> cases = [{"length": 1.0}, {"length": 2.0}]
        >>> _ = study.map(lambda length: length**2, cases, workers=0, units={"length": "m"})
        >>> "length (m)" in study.to_html()
        True
        """
        return html_report(self.directory.resolve().name, read_intact_rows(self.store))

    def to_xarray(self, dims: Sequence[str] = (), names: Sequence[str] | None = None) -> Any:
        """Return the outputs of the cases that are done, arrays included. Needs xarray.

        Parameters
        ----------
        dims : sequence of str, optional
            The parameters that become dimensions; together they must differ between all cases.
            Combinations without a case that is done are NaN. By default there is one dimension,
            "case", with the parameters as its coordinates.
        names : sequence of str, optional
            The outputs to include. By default all. An array must have the same shape in all cases.

        Returns
        -------
        xarray.Dataset
            Units that were passed to `map` are in its attributes ``units``.

        Raises
        ------
        ArgumentError
            If no case is done, a name is unknown, `dims` do not distinguish all cases, or an output
            has different shapes.
        """
        return to_xarray(self.records(), dims, names, self.units)


def _cell(x: Any) -> str:
    """Return a plain value in a few characters, and nothing for None."""
    if x is None:
        return ""
    return f"{x:.6g}" if isinstance(x, float) else str(x)
