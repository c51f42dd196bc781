"""Models and losses written for numpy and scipy, on PETSc's Vecs and Mats.

Every rank evaluates the whole model on gathered arrays and keeps its own rows. Distributed are the
matrices, their factors, and everything computed with them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from ..arrays.backend import Array, Backend, host
from ..errors import ArgumentError, ModelError
from ..models.constrained import constrain
from ..models.curvature import CurvatureOperator
from ..models.linearization import DeferredLinearization, Linearization
from ..models.losses import LossBase
from ..models.model import FixedPointModel, Model, ResidualModel
from ..models.quadratic_losses import LeastSquares, QuadraticPrior
from .agreement import on_all_ranks
from .gathered_calls import GatheredCalls
from .layouts import Layout
from .numpy_constraints import DistributedConstraint
from .numpy_matrices import check_entries, distribute_block, distribute_matrix, numpy_backend
from .ranks import Ranks


@on_all_ranks
def distributed(
    model: Model, comm: Any = None, state: Any = None, params: Any = None
) -> DistributedModel:
    """Distribute a model written for numpy and scipy as one on PETSc's Vecs and Mats.

    Parameters
    ----------
    model : mfdeq.FixedPointModel or mfdeq.ResidualModel
        The model, which is not changed. Its Jacobians and the blocks of its curvature are sparse
        matrices or arrays.
    comm : petsc4py.PETSc.Comm, optional
        By default ``PETSc.COMM_WORLD``.
    state, params : None, Vec, int, DMDA or (N,), (P,) integer array, optional
        Which rank owns which entry of the state and of the parameters: None for PETSc's split, a
        Vec for its layout, an int for the number of entries on this rank, a DMDA for a structured
        grid (the model's numbering is its natural one, x fastest), or the rank of each entry.

    Returns
    -------
    DistributedModel
        A model for `mfdeq.petsc.solve`. ``params(array)`` and ``state(array)`` make Vecs in its
        layout, ``gathered_state(vec)`` and ``gathered_params(vec)`` numpy arrays again, and
        ``loss(loss)`` distributes a loss.

    Raises
    ------
    ArgumentError
        If a layout has another number of entries, or differs from that of an earlier vector of the
        same size on the communicator.
    ModelError
        If `model` is no model.

    Examples
    --------
    >>> import numpy as np
    >>> import mfdeq
    >>> from mfdeq import petsc
    >>> model = petsc.distributed(
    ...     mfdeq.from_function(lambda h, theta: h**3 + h - theta, 3, 3, kind="residual")
    ... )
    >>> eq = petsc.solve(model, model.params(np.array([0.0, 2.0, 10.0])))
    >>> loss = model.loss(mfdeq.LeastSquares(np.arange(3), np.zeros(3)))
    >>> model.gathered_params(eq.gradient(loss)).round(4) + 0.0  # h / (1 + 3 h²)
    array([0.    , 0.25  , 0.1538])
    """
    if not isinstance(model, FixedPointModel | ResidualModel):
        raise ModelError(
            "expected an mfdeq.FixedPointModel or mfdeq.ResidualModel, got a "
            f"{type(model).__name__}"
        )
    for name in ("state_size", "param_size"):
        size = getattr(model, name, None)
        if not isinstance(size, int | host.integer) or size < 1:
            raise ModelError(
                f"{model.display_name}.{name}: expected a positive integer, got {size!r}"
            )
    if comm is None:
        from petsc4py import PETSc

        comm = PETSc.COMM_WORLD
    if model.has_constraints:
        return _distributed_with_constraints(model, comm, state, params)
    kind = DistributedMap if isinstance(model, FixedPointModel) else DistributedResidual
    return kind(model, Ranks.of(comm), state, params)


def _distributed_with_constraints(model: Any, comm: Any, state: Any, params: Any) -> Any:
    """Distribute the model without constraints, and add them to it again."""
    inner = distributed(model.of, comm, state, params)
    redundant = "detect" if model.redundant is None else model.redundant[inner.state_layout.order]
    constraints = [DistributedConstraint(part, inner) for part in model.constraints.parts]
    return constrain(inner, constraints, redundant, imbalance_rtol=model.imbalance_rtol)


class DistributedModel(GatheredCalls, Model):
    """A model written for numpy, on PETSc's Vecs and Mats; see `distributed`.

    Attributes
    ----------
    of : mfdeq.FixedPointModel or mfdeq.ResidualModel
        The model as it was written.
    state_size, param_size : tuple of int
        Numbers of entries (on this rank, on all).
    """

    def __init__(self, of: Model, ranks: Ranks, state: Any, params: Any) -> None:
        self.of = of
        super().__init__(
            Layout(ranks, int(of.state_size), state, "state"),
            Layout(ranks, int(of.param_size), params, "params"),
        )
        self.state_size, self.param_size = self.state_layout.size, self.param_layout.size  # type: ignore

    @property
    def display_name(self) -> str:
        """What messages call the model: the name of the class that was written."""
        return self.of.display_name

    @on_all_ranks
    def state(self, array: Array) -> Any:
        """Distribute an (N,) array that every rank has as a Vec, an (N, k) one as a dense Mat."""
        return self.state_layout.vec(array)

    @on_all_ranks
    def params(self, array: Array) -> Any:
        """Distribute a (P,) array that every rank has as a Vec, a (P, k) one as a dense Mat."""
        return self.param_layout.vec(array)

    @on_all_ranks
    def gathered_state(self, x: Any) -> Array:
        """Return a Vec or dense Mat of N rows as a numpy array, whole on every rank."""
        return self.state_layout.gather(x)

    @on_all_ranks
    def gathered_params(self, x: Any) -> Array:
        """Return a Vec or dense Mat of P rows as a numpy array, whole on every rank."""
        return self.param_layout.gather(x)

    @on_all_ranks
    def loss(self, loss: LossBase) -> LossBase:
        """Distribute a loss written for numpy, for equilibria of this model."""
        if not isinstance(loss, LossBase):
            raise ArgumentError(f"expected a loss of mfdeq, got a {type(loss).__name__}")
        return DistributedLoss(loss, self)

    @property
    def time_sign(self) -> int | None:  # type: ignore[override]
        """The sign of dh/dt = ±R, as the model states it."""
        return self.of.time_sign

    @property
    def state_names(self) -> Any:  # type: ignore[override]
        """The names of the unknowns, in PETSc's numbering."""
        return self._reorder(self.of.state_names)

    @property
    def equation_names(self) -> Any:  # type: ignore[override]
        """The names of the equations, in PETSc's numbering."""
        return self._reorder(self.of.equation_names)

    def _reorder(self, names: Any) -> Any:
        if names is None or len(names) != self.state_layout.total:
            return names  # refused, with its name, by the caller
        return [names[i] for i in self.state_layout.order]

    def check_loss(self, loss: LossBase) -> None:
        """Refuse a loss whose indices and arrays are in the numbering of the numpy model."""
        if wrong := [p for p in loss.terms if isinstance(p, LeastSquares | QuadraticPrior)]:
            raise ArgumentError(
                f"expected a distributed loss, got one with a {type(wrong[0]).__name__} in the "
                f"numbering of {self.display_name}: give model.loss(loss), where model is what "
                "mfdeq.petsc.distributed returned"
            )

    def prior_of_params(self, prior: QuadraticPrior) -> QuadraticPrior:
        """Return a prior on Vecs, distributed if it is one in the numbering of the numpy model."""
        if not prior.has_host_arrays:
            return prior
        P, (R, mean) = self.param_layout, prior.converted(numpy_backend(), self.param_layout.total)
        if R.array is not None:
            precision = distribute_matrix(R.array, P, P)
        else:
            precision = distribute_block(Backend.of(P.distribute(host.zeros(P.total))), R, P, P)
        mean = mean if isinstance(mean, float) else P.vec(mean)
        return QuadraticPrior(precision, mean)

    def initial_state(self, theta: Any) -> Any:
        """Return the model's default start, distributed."""
        return self._state_vec(
            "initial_state", self.of.initial_state, self.param_layout.gather(theta)
        )

    def residual_scale(self, h: Any, theta: Any) -> Any:
        """Return the model's sizes of equations, a number or distributed."""
        return self._state_vec("residual_scale", self.of.residual_scale, *self.gather(h, theta))

    def state_scale(self, theta: Any) -> Any:
        """Return the model's sizes of unknowns, a number or distributed."""
        return self._state_vec("state_scale", self.of.state_scale, self.param_layout.gather(theta))

    def linearize(self, h: Any, theta: Any) -> Linearization:
        """Return the model's linearization, its matrices distributed."""
        return self._linearization(self.of.linearize, *self.gather(h, theta))

    def linearize_for_comparison(self, h: Any, theta: Any) -> Linearization:
        """Return a linearization of the same accuracy with other errors, for error estimates."""
        return self._linearization(self.of.linearize_for_comparison, *self.gather(h, theta))

    def _state_vec(self, field: str, function: Callable[..., Any], *arrays: Any) -> Any:
        """Call a function that returns a state, a number or None; distribute a state."""
        name = f"{self.display_name}.{field}"

        def check(out: Any) -> Any:
            if out is None or host.ndim(out) == 0:
                return out
            return numpy_backend().check_array(out, (self.state_layout.total,), name, finite=False)

        out = self.on_each_rank(name, function, *arrays, check=check)
        return self.state_layout.vec(out) if isinstance(out, host.ndarray) else out

    def _written(self, h: Any, theta: Any) -> Any:
        name = f"{self.display_name}.{self.of.function_name}"
        size = (self.state_layout.total,)
        out = self.on_each_rank(
            name,
            self.of.map_or_residual,
            *self.gather(h, theta),
            check=lambda out: numpy_backend().check_array(out, size, name, finite=False),
        )
        return self.state_layout.vec(out)

    def _linearization(self, linearize: Callable[..., Any], h: Array, theta: Array) -> Any:
        name, N, P = f"{self.display_name}.linearize", self.state_layout, self.param_layout

        def check_params(d_params: Any) -> Any:
            return check_entries(d_params, N, P, f"d_params of {name}")

        def check(given: Any) -> Any:
            if not isinstance(given, Linearization):
                return given, None, None  # refused, with its name, by the caller
            d_state = check_entries(given.d_state, N, N, f"d_state of {name}")
            if isinstance(given, DeferredLinearization):
                return given, d_state, None
            return given, d_state, check_params(given.d_params)

        given, d_state, d_params = self.on_each_rank(name, linearize, h, theta, check=check)
        if not isinstance(given, Linearization):
            return given

        def curvature(lam: Any) -> Any:
            return self.distributed_curvature(
                given.curvature, N.gather(lam), f"curvature of {name}"
            )

        def second(a: Any, b: Any) -> Any:
            along = ((P.gather(x), N.gather(y)) for x, y in (a, b))
            return self._state_vec("second", given.second, *along)  # type: ignore[arg-type]

        fields: dict[str, Any] = {
            "d_state": distribute_matrix(d_state, N, N),
            "curvature": given.curvature and curvature,
            "second": given.second and second,
        }
        if not isinstance(given, DeferredLinearization):
            return dataclasses.replace(given, d_params=distribute_matrix(d_params, N, P), **fields)

        def deferred() -> Any:
            computed = self.on_each_rank(name, lambda: given.d_params, check=check_params)
            return distribute_matrix(computed, N, P)

        return DeferredLinearization(
            d_params=deferred,
            **fields,
            sources=lambda: given.sources,
            accuracy=lambda: self.on_each_rank(name, lambda: given.accuracy),
            state_accuracy=given.state_accuracy,
        )


class DistributedMap(DistributedModel, FixedPointModel):
    """A distributed fixed-point map."""

    def map(self, h: Any, theta: Any) -> Any:
        """Return f(h, theta)."""
        return self._written(h, theta)


class DistributedResidual(DistributedModel, ResidualModel):
    """A distributed residual."""

    def residual(self, h: Any, theta: Any) -> Any:
        """Return R(h, theta)."""
        return self._written(h, theta)


class DistributedLoss(LossBase):
    """A loss written for numpy, on distributed arrays.

    Attributes
    ----------
    of : mfdeq.LossBase
        The loss as it was written.
    model : DistributedModel
        Whose layouts it uses.
    """

    def __init__(self, of: LossBase, model: DistributedModel) -> None:
        self.of, self.model = of, model

    def _evaluate(self, h: Array, theta: Array) -> float:
        value = self._on_each_rank(self.of.value, h, theta)
        return Backend.of(h).same_on_all_ranks(value, "value of the loss")

    def _on_each_rank(self, function: Callable[..., Any], h: Array, theta: Array) -> Any:
        arrays = self.model.gather(h, theta)
        return self.model.on_each_rank(f"{function.__name__} of the loss", function, *arrays)

    def gradients(self, h: Array, theta: Array) -> tuple[Array, Array]:
        """Return (dL/dtheta, dL/dh)."""
        d_params, d_state = self._on_each_rank(self.of.gradients, h, theta)
        return self.model.param_layout.distribute(d_params), self.model.state_layout.distribute(
            d_state
        )

    def curvature_operator(self, h: Array, theta: Array) -> CurvatureOperator:
        """Return ∇²_(θ,h) L, by its blocks if the loss has them."""
        whole = self._on_each_rank(self.of.curvature_operator, h, theta)
        return self.model.curvature_operator(Backend.of(h), whole, "curvature of the loss")

    def accuracy(self, h: Array, theta: Array) -> tuple[float, float]:
        """Return the relative accuracy of the loss."""
        return self._on_each_rank(self.of.accuracy, h, theta)

    def for_comparison(self) -> LossBase:
        """Return the loss with independent errors."""
        other = self.of.for_comparison()
        return self if other is self.of else DistributedLoss(other, self.model)
