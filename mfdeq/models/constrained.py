"""`mfdeq.constrain`: models whose equations depend on each other, with constraints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..arguments import fraction
from ..arrays.backend import Array, Backend, array_on_host, host, is_sparse, native
from ..arrays.library import library_of
from ..errors import ArgumentError, ModelError
from ..locks import state_to_pickle
from .checked_linearization import CheckedLinearization
from .constrained_linearization import ConstrainedLinearization
from .constraints import magnitudes
from .elimination import Elimination, Projection
from .linear_constraints import Constraints
from .linearization import Linearization
from .model import FixedPointModel, Model, ResidualModel
from .problem import Problem
from .quadratic_losses import copy_of_numbers
from .vectors import are_equal

MIN_INDEPENDENCE = 1e-10  # least singular value of a basis of unit columns


def constrain(
    model: Model,
    constraints: Any,
    redundant: Any = "detect",
    *,
    imbalance_rtol: float | None = None,
) -> ConstrainedModel:
    """Make an equilibrium unique whose equations depend on each other.

    The equations of a closed reaction network, of a Markov chain, of an incompressible flow or of
    an economy with Walras's law are not independent: m combinations of them vanish, whatever the
    state. What fixes the state are m constraints c(h, theta) = 0: conserved totals, a
    normalization, a gauge, a numéraire.

    Parameters
    ----------
    model : FixedPointModel or ResidualModel
        A model of N unknowns, from any source of derivatives.
    constraints : Constraint or LinearConstraint, or a list of them
        Together m equations.
    redundant : "detect" or (N, m) array or sequence of m Vecs, optional
        A basis of the combinations of equations that vanish, the left null vectors of A; an (N,)
        array if m = 1. By default they are found at the start of the first solve, where A is
        small enough to be decomposed or factorized, and kept for later ones.
    imbalance_rtol : float, optional
        By how much the redundant equations may disagree, relative to their terms: by default by
        rounding. If more is allowed, the constraints are met all the same, and the difference is
        spread over the equations, as W mu.

    Returns
    -------
    FixedPointModel or ResidualModel
        A model of the same N unknowns, which `mfdeq.solve` and everything else accepts. `solve`
        returns a `ConstrainedEquilibrium` for it.

    Raises
    ------
    ArgumentError
        If an argument is of a wrong type or shape, or the columns of `redundant` depend on each
        other. When the model is solved: if the constraints depend on each other, or do not fix the
        state, or `redundant` is no basis of combinations that vanish.
    SingularStateError
        When the model is solved: if more combinations of equations vanish than there are
        constraints. The message names them.

    See Also
    --------
    Constraint, LinearConstraint : The constraints.
    ConstrainedEquilibrium : What `solve` returns.

    Notes
    -----
    The system that is solved is

        R(h, theta) + W mu = 0,    c(h, theta) = 0

    for h and the multipliers mu of the redundant equations W, which vanish where the equations are
    consistent. Its derivatives are exact to second order, those of c included. Where A is sparse,
    each constraint replaces one equation, and A stays sparse. A start that violates linear
    constraints is first projected onto them.

    If the redundant equations disagree, as those of a Neumann problem whose loads do not balance,
    there is no equilibrium: that is a `ConvergenceError`, which has the difference as `imbalance`.

    References
    ----------
    H. B. Keller, The bordering algorithm and path following near singular points of higher nullity,
    SIAM J. Sci. Stat. Comput. 4 (1983).

    C. D. Meyer, The role of the group generalized inverse in the theory of finite Markov chains,
    SIAM Review 17 (1975).

    Examples
    --------
    The stationary distribution of a Markov chain, whose entries sum to one:

    >>> import mfdeq, numpy as np
    >>> def step(h, theta):
    ...     stay, leave = 1.0 - theta, theta
    ...     return stay * h + np.roll(leave * h, 1)
    >>> chain = mfdeq.from_function(step, 3, 3, "map", initial_state=1.0)
    >>> model = mfdeq.constrain(chain, mfdeq.LinearConstraint(np.ones(3), total=1.0))
    >>> eq = mfdeq.solve(model, np.array([0.5, 0.25, 0.25]))
    >>> print(eq.state.round(4))
    [0.2 0.4 0.4]
    >>> print(eq.report.choices[0])
    redundant: equation 0, equation 1 and equation 2 sum to zero
    """
    for cls in (FixedPointModel, ResidualModel):
        if isinstance(model, cls):
            break
    else:
        raise ArgumentError(
            "model of mfdeq.constrain: expected an mfdeq.FixedPointModel or an "
            f"mfdeq.ResidualModel, got a {type(model).__name__}"
        )
    if model.has_constraints:
        raise ArgumentError(
            "model of mfdeq.constrain: expected a model without constraints, got one that has "
            "them: pass all constraints together, as a list"
        )
    given = Constraints.of(constraints)
    if isinstance(redundant, str):
        if redundant != "detect":
            raise ArgumentError(
                f'redundant: expected "detect" or an (N, m) array, got {redundant!r}'
            )
        basis = None
    else:
        basis = _basis(redundant, model.state_size)
    rtol = None if imbalance_rtol is None else fraction(imbalance_rtol, "imbalance_rtol")
    kind = ConstrainedMap if cls is FixedPointModel else ConstrainedResidual
    return kind(model, given, basis, rtol)


def _basis(given: Any, size: Any) -> Any:
    """Return a basis as an (N, m) array on the host, after checking it."""
    name, size = "redundant", size[1] if isinstance(size, tuple) else size
    vectors = list(given) if isinstance(given, (list, tuple)) else [given]
    if vectors and library_of(vectors[0]).distributed:
        given = host.stack([array_on_host(native(x)) for x in vectors], axis=1)
    given = given.toarray() if is_sparse(given) else given
    try:
        numbers = copy_of_numbers(host.asarray(given) if isinstance(given, list) else given, name)
    except ModelError as error:
        raise ArgumentError(str(error)) from None
    shape = tuple(getattr(numbers, "shape", ()))
    if len(shape) not in (1, 2) or shape[0] != size:
        raise ArgumentError(
            f"{name}: expected an array of shape ({size}, m), a column for each combination of the "
            f"{size} equations that vanishes, got shape {shape}"
        )
    basis = array_on_host(numbers).astype("float64").reshape(size, -1)
    lengths = host.linalg.norm(basis, axis=0)
    if (lengths == 0.0).any():
        raise ArgumentError(f"{name}: column {int(lengths.argmin())} is zero: leave it out")
    if host.linalg.svd(basis / lengths, compute_uv=False)[-1] < MIN_INDEPENDENCE:
        raise ArgumentError(
            f"{name}: its {basis.shape[1]} columns depend on each other: pass a basis, each "
            "combination of equations once"
        )
    return basis


class ConstrainedModel(Model):
    """A model with constraints in place of equations that depend on others.

    `mfdeq.constrain` returns it. Its ``map`` or ``residual`` is that of the equations that are
    solved, with the constraints.

    Parameters
    ----------
    of : Model
        The model without constraints.
    constraints : Constraints
    redundant : (N, m) array or None
        None detects them.
    imbalance_rtol : float or None

    Attributes
    ----------
    elimination : Elimination or None
        The redundant equations and what takes their place, once a solve has found them.
    """

    has_constraints = True
    advice_for_curvature = (
        "pass Linearization(curvature=lambda lam: mfdeq.Curvature(...)) in the model without "
        "constraints, or use mfdeq.constrain(mfdeq.mixed(model), ...), which computes it by "
        "differences. For a model that is linear in (h, theta), return mfdeq.Curvature(), whose "
        "blocks are all zero"
    )

    def __init__(
        self, of: Model, constraints: Constraints, redundant: Any, imbalance_rtol: float | None
    ) -> None:
        self.of, self.constraints = of, constraints
        self.redundant, self.imbalance_rtol = redundant, imbalance_rtol
        self.models = (of,)
        self.state_size, self.param_size = of.state_size, of.param_size
        self.state_names, self.time_sign = of.state_names, of.time_sign
        self.elimination: Elimination | None = None
        self._base: Problem | None = None  # the model at the latest parameters
        self._projection: Projection | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**state_to_pickle(self), "_base": None, "_projection": None}

    def __getattr__(self, name: str) -> Any:
        # What else the model has, such as `params_tree` of models from JAX.
        if name.startswith("_") or "of" not in self.__dict__:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(self.of, name)

    @property
    def display_name(self) -> str:
        """The name of the model with its constraints."""
        return f"mfdeq.constrain({self.of.display_name})"

    @property
    def equation_names(self) -> Sequence[str] | None:  # type: ignore[override]
        """The names of the equations, with the constraints that replace some of them."""
        elimination, names = self.elimination, self.of.equation_names
        if elimination is None or elimination.rows is None:
            return names
        return _EquationNames(names, elimination.rows, elimination.basis.shape[0])

    def with_args(self, args: Any) -> ConstrainedModel:
        """Return the model with other data, and the same constraints."""
        other = self.of.with_args(args)  # type: ignore[attr-defined]
        return type(self)(other, self.constraints, self.redundant, self.imbalance_rtol)

    def _defines(self, method: str) -> bool:
        return self.of._defines(method)

    def check_loss(self, loss: Any) -> None:
        """Check a loss as the model without constraints does."""
        self.of.check_loss(loss)

    def prior_of_params(self, prior: Any) -> Any:
        """Return a prior as the model without constraints takes it."""
        return self.of.prior_of_params(prior)

    def initial_state(self, theta: Array) -> Array | None:
        """Return the initial state of the model without constraints."""
        return self.of.initial_state(theta)

    def state_scale(self, theta: Array) -> float | Array | None:
        """Return the state scale of the model without constraints."""
        return self.of.state_scale(theta)

    def residual_scale(self, h: Array, theta: Array) -> float | Array | None:
        """Return the residual scale of the model, and of a constraint the size of its terms."""
        h, theta = native(h), native(theta)
        scale = self.base(theta).residual_scale(h)
        projection = self.projection(Backend.of(h))
        if scale is None or projection.rows is None:
            return scale
        backend = projection.backend
        terms = magnitudes(backend, self.constraints.d_state(h, theta), h)
        terms = backend.xp.abs(projection.gains) @ terms
        for k, i in enumerate(projection.rows):
            scale[i] = terms[k]
        return scale

    def forget(self) -> None:
        """Discard the latest evaluations of the model, which the user may have changed."""
        self._base = None

    def base(self, theta: Array) -> Problem:
        """Return the problem without constraints at the parameters."""
        base = self._base  # which another thread may replace
        if base is None or type(base.theta) is not type(theta) or not are_equal(base.theta, theta):
            base = self._base = Problem(self.of, theta, fixes_gauges=False)
        return base

    def projection(self, backend: Backend) -> Projection:
        """Return the operators that put the constraints in place of redundant equations."""
        found = self._projection  # which another thread may replace
        if found is not None and found.backend == backend:
            return found
        if self.elimination is None:
            raise ModelError(
                f"{self.display_name}: which equations are redundant is not known before the first "
                "solve: call mfdeq.solve, or pass redundant= to mfdeq.constrain and solve"
            )
        found = self._projection = self.elimination.on(backend)
        return found

    def map_or_residual(self, h: Array, theta: Array) -> Array:
        """Evaluate the map or residual of the equations with the constraints."""
        h, theta = native(h), native(theta)
        base = self.base(theta)
        projection = self.projection(base.backend)
        c = self.constraints.value(h, theta)
        residual = projection.project(base.residual(h)) + projection.insert(c)
        return h - residual if base.is_map else residual

    def linearize(self, h: Array, theta: Array) -> Linearization:
        """Return the derivatives of the map or residual, composed of those of its parts."""
        h, theta = native(h), native(theta)
        base = self.base(theta)
        return self._linearization(h, theta, base.linearize(h))

    def linearize_for_comparison(self, h: Array, theta: Array) -> Linearization:
        """Return the same from `linearize_for_comparison` of the model."""
        h, theta = native(h), native(theta)
        base = self.base(theta)
        return self._linearization(h, theta, base.linearize_for_comparison(h))

    def _linearization(
        self, h: Array, theta: Array, base: CheckedLinearization
    ) -> ConstrainedLinearization:
        projection = self.projection(base.backend)
        return ConstrainedLinearization(base, projection, self.constraints, h, theta)


class ConstrainedMap(ConstrainedModel, FixedPointModel):
    """A map with constraints."""

    def map(self, h: Array, theta: Array) -> Array:
        """Return the map whose fixed point satisfies the constraints."""
        return self.map_or_residual(h, theta)


class ConstrainedResidual(ConstrainedModel, ResidualModel):
    """A residual with constraints."""

    def residual(self, h: Array, theta: Array) -> Array:
        """Return the residual of the equations with the constraints."""
        return self.map_or_residual(h, theta)


class _EquationNames(Sequence[str]):
    """The names of N equations, some of which constraints have replaced."""

    def __init__(self, names: Sequence[str] | None, rows: list[int], size: int) -> None:
        self.names, self.rows, self.size = names, rows, size

    def __len__(self) -> int:
        return self.size if self.names is None else len(self.names)

    def __getitem__(self, i: Any) -> Any:
        if i in self.rows:
            return f"constraint {self.rows.index(i)}"
        return f"equation {i}" if self.names is None else self.names[i]
