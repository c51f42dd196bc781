"""Tables of results, whose rows are written once and shown as text or, in a notebook, as HTML."""

from __future__ import annotations

import html
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

MAX_TABLE_ROWS = 20  # that a printed result shows


@dataclass(frozen=True)
class Table:
    """Columns of cells under their headings, between lines of text.

    Parameters
    ----------
    columns : mapping of str to sequences of str
        The cells of each column, by its heading.
    hidden : int, optional
        The number of rows that are not shown.
    what : str, optional
        What the rows are, in the plural.
    left : collection of str, optional
        The headings of columns of words, which are aligned to the left; numbers are to the right.
    headed : bool, optional
        Whether headings are shown.
    before, after : sequences of str, optional
        Lines above and below.

    Examples
    --------
    >>> table = Table({"value": ["1.5", "12"], "bound": ["1e-9", "2e-9"]}, 3, "pairs")
    >>> print(table)
    value  bound
      1.5   1e-9
       12   2e-9
    … 3 more pairs
    """

    columns: Mapping[str, Sequence[str]]
    hidden: int = 0
    what: str = "rows"
    left: Sequence[str] = ()
    headed: bool = True
    before: Sequence[str] = ()
    after: Sequence[str] = ()

    @property
    def _rows(self) -> list[tuple[str, ...]]:
        return list(zip(*self.columns.values(), strict=True))

    @property
    def _lines_after(self) -> list[str]:
        return [*([f"… {self.hidden} more {self.what}"] if self.hidden else []), *self.after]

    def __str__(self) -> str:
        rows = [tuple(self.columns)] * self.headed + self._rows
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        sides = ["<" if name in self.left else ">" for name in self.columns]
        formats = [f"{side}{width}" for side, width in zip(sides, widths, strict=True)]
        lines = ["  ".join(map(format, row, formats)).rstrip() for row in rows]
        return "\n".join([*self.before, *lines, *self._lines_after])

    def to_html(self) -> str:
        """Return the table as HTML.

        Examples
        --------
        >>> print(Table({"value": ["1 < 2"]}, headed=False, after=["done"]).to_html())
        <table><tbody>
        <tr><td style="text-align: right">1 &lt; 2</td></tr>
        </tbody></table>
        <div>done</div>
        """
        sides = ["left" if name in self.left else "right" for name in self.columns]

        def row(cells: Sequence[str], tag: str) -> str:
            inside = "".join(
                f'<{tag} style="text-align: {side}">{html.escape(cell)}</{tag}>'
                for cell, side in zip(cells, sides, strict=True)
            )
            return f"<tr>{inside}</tr>"

        head = f"<thead>{row(list(self.columns), 'th')}</thead>" if self.headed else ""
        return "\n".join(
            [
                *(f"<div>{html.escape(line)}</div>" for line in self.before),
                f"<table>{head}<tbody>",
                *(row(cells, "td") for cells in self._rows),
                "</tbody></table>",
                *(f"<div>{html.escape(line)}</div>" for line in self._lines_after),
            ]
        )


def pairs_table(rows: Sequence[tuple[str, str]]) -> Table:
    """Return a table without headings of names and what is said of them.

    Examples
    --------
    >>> print(pairs_table([("method", "newton"), ("digits", "12")]))
    method  newton
    digits  12
    """
    names, texts = [name for name, _ in rows], [text for _, text in rows]
    return Table({"name": names, "text": texts}, left=("name", "text"), headed=False)


class ShownAsTable(ABC):
    """Base class of results that notebooks show as a table."""

    @abstractmethod
    def _table(self) -> Table:
        """Return the table."""

    def _repr_html_(self) -> str:
        return self._table().to_html()


class PrintedAsTable(ShownAsTable):
    """Base class of results that print as the same table, too."""

    def __str__(self) -> str:
        return str(self._table())
