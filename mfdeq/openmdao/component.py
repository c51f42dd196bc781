"""A model as an implicit component of OpenMDAO."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..arguments import one_of
from ..arrays.optional_packages import import_optional
from ..errors import ArgumentError, short_repr
from ..models.model import Model
from ..optimization.reduced_functional import SOLVE_OPTIONS
from .variables import Variables

CALLER = "mfdeq.openmdao.component"


def component(
    model: Model,
    inputs: Mapping[str, Any] | None = None,
    outputs: Mapping[str, Any] | None = None,
    **solve_options: Any,
) -> Any:
    """Return a model as an implicit component of OpenMDAO, with exact partial derivatives.

    Parameters
    ----------
    model : FixedPointModel or ResidualModel
        A model of N unknowns and P parameters. Only its first derivatives are used.
    inputs : mapping, optional
        The names of the inputs, which are the parameters in this order. Each has a size, a shape
        or a mapping of keywords of ``add_input``: ``{"load": {"shape": (3,), "units": "N"}}``. By
        default there is one, ``theta``, of size P.
    outputs : mapping, optional
        The names of the outputs, which are the state in this order, in the same form. By default
        there is one, ``h``, of size N.
    **solve_options
        Options of `mfdeq.solve`: method, solver, rtol, max_iterations, lower, upper.

    Returns
    -------
    openmdao.api.ImplicitComponent
        A component to add to a group with ``add_subsystem``.

    Raises
    ------
    ArgumentError
        If OpenMDAO is not installed, the model is not one or has constraints, an option is unknown,
        or the sizes of the variables do not add up to those of the model.

    See Also
    --------
    mfdeq.to_jax, mfdeq.to_torch : a model in other programs.

    Notes
    -----
    The residual is R = h - f(h, theta) for a map. Products with its derivatives, dR = A dh -
    B dtheta and their transposes, are those of the model's linearization. ``solve_nonlinear`` is
    `mfdeq.solve` from the current outputs; if that fails, it is repeated from the model's own
    start. ``solve_linear`` solves with A and its transpose by the factor of the equilibrium, in
    modes "fwd" and "rev". The outputs begin as the model's start, or as ``val`` of `outputs`.

    The component is matrix-free: a linear solver of a group above it may be iterative,
    `LinearBlockGS`, or a `DirectSolver` without an assembled Jacobian.

    If there is no equilibrium, or a function of the model has no value, the component raises
    `openmdao.api.AnalysisError`, whose ``__cause__`` is the error of mfdeq. Complex steps are
    refused: check the partial derivatives with ``check_partials(method="fd")``.

    Examples
    --------
    >>> import numpy as np
    >>> import openmdao.api as om
    >>> import mfdeq
    >>> model = mfdeq.from_function(lambda h, theta: np.cos(h) + theta, 1, 1, kind="map")
    >>> problem = om.Problem(reports=False)
    >>> cosine = mfdeq.openmdao.component(model)
    >>> _ = problem.model.add_subsystem("cosine", cosine, promotes=["*"])
    >>> _ = problem.model.add_subsystem("cost", om.ExecComp("J = h**2"), promotes=["*"])
    >>> problem.setup()
    <openmdao.core.problem.Problem ...>
    >>> problem.set_val("theta", 0.0)
    >>> problem.run_model()
    >>> print(problem.get_val("h").round(4))
    [0.7391]
    >>> print(problem.compute_totals("J", "theta")["J", "theta"].round(4))  # 2 h / (1 + sin h)
    [[0.8832]]
    """
    import_optional("openmdao.api", "openmdao")
    from .model_component import ModelComponent  # it imports OpenMDAO

    if not isinstance(model, Model):
        raise ArgumentError(
            f"model of {CALLER}: expected an mfdeq.FixedPointModel or an mfdeq.ResidualModel, got "
            f"{short_repr(model)}"
        )
    if model.has_constraints:
        raise ArgumentError(
            f"model of {CALLER}: expected a model without constraints, since a component has one "
            f"residual for each unknown, got {model.display_name}: write the constraints in place "
            "of the redundant equations"
        )
    for name in solve_options:
        one_of(name, SOLVE_OPTIONS, f"options of {CALLER}")
    return ModelComponent(
        model,
        Variables(inputs or {"theta": model.param_size}, model.param_size, f"inputs of {CALLER}"),
        Variables(outputs or {"h": model.state_size}, model.state_size, f"outputs of {CALLER}"),
        solve_options,
    )
