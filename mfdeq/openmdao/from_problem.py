"""A problem of OpenMDAO as a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..arguments import fraction
from ..arrays.backend import Array
from ..arrays.optional_packages import import_optional
from ..derivatives.mixed import MixedResidual
from ..errors import ArgumentError, short_repr
from .problem_model import PartialsModel
from .problem_vectors import ProblemVectors

CALLER = "mfdeq.openmdao.from_problem"
DIFFERENCES_RTOL = 1e-5  # of partial derivatives by OpenMDAO's forward differences


def from_problem(
    problem: Any, params: Sequence[str], *, partials_rtol: float | None = None
) -> ProblemModel:
    """Return a problem of OpenMDAO as a model, by the partial derivatives of its components.

    Parameters
    ----------
    problem : openmdao.api.Problem
        A problem after ``setup()``. It is the workspace of the model: its values change.
    params : sequence of str
        The names of the P parameters, in this order: independent variables or inputs that nothing
        else in the problem computes, in the units of their sources. All other independent variables
        keep their values of the time of the call.
    partials_rtol : float, optional
        The relative error of the partial derivatives. By default zero, or 1e-5 if a component has
        some from OpenMDAO's finite differences.

    Returns
    -------
    ProblemModel
        A residual model, whose state consists of all outputs that components compute, explicit ones
        too. ``model.indices(name)`` are those of a variable in the state.

    Raises
    ------
    ArgumentError
        If OpenMDAO is not installed, the problem is not one or not set up, a parameter is not an
        independent variable, or a group is differentiated as a whole (``approx_totals``).

    See Also
    --------
    component : the opposite, a model in a group of OpenMDAO.

    Notes
    -----
    The residual is that of OpenMDAO, y - F(x) for an explicit component. Its first derivatives are
    those of ``apply_linear`` in forward mode at the current point, one product for each unknown and
    parameter, as sparse matrices. Problems of more than 2000 of these are operators instead, whose
    products linearize the problem again if it has moved since. Second derivatives are differences
    of first derivatives, and their error is measured as that of `mfdeq.mixed`.

    The start is what the outputs were at the time of the call; run the model before for a good one.
    Solvers of the problem and of its groups are not used.

    Examples
    --------
    Two disciplines that depend on each other, and the sensitivity of both to one parameter:

    >>> import numpy as np
    >>> import openmdao.api as om
    >>> import mfdeq
    >>> problem = om.Problem(reports=False)
    >>> _ = problem.model.add_subsystem("a", om.ExecComp("y = p - 0.2 * z"), promotes=["*"])
    >>> _ = problem.model.add_subsystem("b", om.ExecComp("z = y**2"), promotes=["*"])
    >>> _ = problem.setup()
    >>> model = mfdeq.openmdao.from_problem(problem, ["p"])
    >>> eq = mfdeq.solve(model, np.array([1.2]))
    >>> print(eq.state.round(4), eq.sensitivity.toarray().ravel().round(4))
    [1. 1.] [0.7143 1.4286]
    >>> print(eq.second_order(np.ones(1), np.ones(1)).round(3))
    [-0.146  0.729]
    """
    om = import_optional("openmdao.api", "openmdao")
    if not isinstance(problem, om.Problem):
        raise ArgumentError(
            f"problem of {CALLER}: expected an openmdao.api.Problem, got {short_repr(problem)}"
        )
    vectors = ProblemVectors(problem, params, CALLER)
    if partials_rtol is None:
        partials_rtol = DIFFERENCES_RTOL if vectors.has_differences else 0.0
    elif partials_rtol != 0:
        fraction(partials_rtol, f"partials_rtol of {CALLER}")
    return ProblemModel(vectors, float(partials_rtol))


class ProblemModel(MixedResidual):
    """A problem of OpenMDAO as a model, with second derivatives by differences; see `from_problem`.

    Parameters
    ----------
    vectors : ProblemVectors
    partials_rtol : float
        The relative error of the partial derivatives.

    Examples
    --------
    >>> import openmdao.api as om
    >>> import mfdeq
    >>> problem = om.Problem(reports=False)
    >>> _ = problem.model.add_subsystem("a", om.ExecComp("y = 3 * p"), promotes=["*"])
    >>> _ = problem.model.add_subsystem("b", om.ExecComp("z = y**2"), promotes=["*"])
    >>> _ = problem.setup()
    >>> model = mfdeq.openmdao.from_problem(problem, ["p"])
    >>> model.state_size, model.indices("z").tolist()
    (2, [1])
    """

    def __init__(self, vectors: ProblemVectors, partials_rtol: float) -> None:
        super().__init__((PartialsModel(vectors, partials_rtol),))
        self._vectors = vectors

    @property
    def display_name(self) -> str:
        """The name that error messages and reports use for the model."""
        return CALLER

    def indices(self, name: str) -> Array:
        """Return the indices of a variable in the state.

        Parameters
        ----------
        name : str
            The promoted or absolute name of an output.

        Returns
        -------
        array of int
            In the shape of the variable.

        Raises
        ------
        ArgumentError
            If the state has no such variable.
        """
        return self._vectors.indices(name)
