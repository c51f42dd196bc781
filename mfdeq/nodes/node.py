"""What the nodes of JAX and of PyTorch have in common: a name, a count of solves, and copies."""

from __future__ import annotations

from typing import Any

from ..models.model import Model
from ..optimization.functional import Functional
from ..report import SolveReport
from .functional_node import host_node


class Node:
    """A model as a function of another program.

    A copy, or a node that was pickled, is another node of a copy of the model: it has solved for
    nothing yet.

    Parameters
    ----------
    model : Model or Functional
    caller : str
        The public function that error messages name.
    solve_options : dict
        Options of `mfdeq.solve`.
    """

    def __init__(
        self, model: Model | Functional, caller: str, solve_options: dict[str, Any]
    ) -> None:
        self.host = host_node(model, caller, solve_options)
        self.name = f"{caller}({self.host.model.display_name})"
        self._arguments = (model, solve_options)

    @property
    def solves(self) -> int:
        """The number of forward solves so far."""
        return self.host.solves

    @property
    def report(self) -> SolveReport | None:
        """The report of the last forward solve, with its residuals; None before the first."""
        return self.host.report

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self._arguments

    def __repr__(self) -> str:
        return f"<{self.name}>"
