"""Models and losses written for numpy and scipy, on PETSc's Vecs and Mats.

Every rank evaluates the whole model on gathered arrays and keeps its own rows. Distributed are the
matrices, their factors, and everything computed with them.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from ..arrays.backend import Array, Backend, host, is_sparse
from ..errors import ArgumentError, ModelError
from ..models.curvature import BlockCurvature, Curvature, CurvatureOperator, ProductCurvature
from ..models.losses import LossBase
from ..models.model import FixedPointModel, Linearization, Model, ResidualModel
from ..models.quadratic_losses import LeastSquares, QuadraticPrior
from ..operators.operator import Operator
from ..operators.user_operators import as_operator
from .layouts import Layout
from .mats import MatOperator, create_aij
from .ranks import Ranks


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
    kind = DistributedMap if isinstance(model, FixedPointModel) else DistributedResidual
    return kind(model, Ranks.of(comm), state, params)


class DistributedModel(Model):
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
        self._state = Layout(ranks, int(of.state_size), state, "state")
        self._params = Layout(ranks, int(of.param_size), params, "params")
        self.state_size, self.param_size = self._state.size, self._params.size  # type: ignore

    @property
    def display_name(self) -> str:
        """What messages call the model: the name of the class that was written."""
        return self.of.display_name

    def state(self, array: Array) -> Any:
        """Distribute an (N,) array that every rank has as a Vec, an (N, k) one as a dense Mat."""
        return self._state.vec(array)

    def params(self, array: Array) -> Any:
        """Distribute a (P,) array that every rank has as a Vec, a (P, k) one as a dense Mat."""
        return self._params.vec(array)

    def gathered_state(self, x: Any) -> Array:
        """Return a Vec or dense Mat of N rows as a numpy array, whole on every rank."""
        return self._state.gather(x)

    def gathered_params(self, x: Any) -> Array:
        """Return a Vec or dense Mat of P rows as a numpy array, whole on every rank."""
        return self._params.gather(x)

    def loss(self, loss: LossBase) -> LossBase:
        """Distribute a loss written for numpy, for equilibria of this model."""
        if not isinstance(loss, LossBase):
            raise ArgumentError(f"expected a loss of mfdeq, got a {type(loss).__name__}")
        return DistributedLoss(loss, self)

    def check_loss(self, loss: LossBase) -> None:
        """Refuse a loss whose indices and arrays are in the numbering of the numpy model."""
        if wrong := [p for p in loss.terms if isinstance(p, LeastSquares | QuadraticPrior)]:
            raise ArgumentError(
                f"expected a distributed loss, got one with a {type(wrong[0]).__name__} in the "
                f"numbering of {self.display_name}: give model.loss(loss), where model is what "
                "mfdeq.petsc.distributed returned"
            )

    def initial_state(self, theta: Any) -> Any:
        """Return the model's default start, distributed."""
        start = self.of.initial_state(self._params.gather(theta))
        return None if start is None else self._to_vec(start, f"{self.display_name}.initial_state")

    def residual_scale(self, h: Any, theta: Any) -> Any:
        """Return the model's sizes of equations, distributed if they are an array."""
        sizes = self.of.residual_scale(*self._gather(h, theta))
        return self._sizes(sizes, f"{self.display_name}.residual_scale")

    def state_scale(self, theta: Any) -> Any:
        """Return the model's sizes of unknowns, distributed if they are an array."""
        sizes = self.of.state_scale(self._params.gather(theta))
        return self._sizes(sizes, f"{self.display_name}.state_scale")

    def _sizes(self, sizes: Any, name: str) -> Any:
        return self._to_vec(sizes, name) if getattr(sizes, "ndim", 0) else sizes

    def linearize(self, h: Any, theta: Any) -> Linearization:
        """Return the model's linearization, its matrices distributed."""
        return self._linearization(self.of.linearize(*self._gather(h, theta)))

    def linearize_for_comparison(self, h: Any, theta: Any) -> Linearization:
        """Return a linearization of the same accuracy with other errors, for error estimates."""
        return self._linearization(self.of.linearize_for_comparison(*self._gather(h, theta)))

    def _gather(self, h: Any, theta: Any) -> tuple[Array, Array]:
        return self._state.gather(h), self._params.gather(theta)

    def _to_vec(self, out: Any, name: str) -> Any:
        """Check what the model returned for a state, and distribute it."""
        checked = _backend().check_array(out, (self._state.total,), name, finite=False)
        return self._state.vec(checked)

    def _written(self, h: Any, theta: Any) -> Any:
        name = f"{self.display_name}.{self.of.function_name}"
        return self._to_vec(self.of.map_or_residual(*self._gather(h, theta)), name)

    def _linearization(self, given: Any) -> Any:
        if not isinstance(given, Linearization):
            return given  # refused, with its name, by the caller
        name, N, P = f"{self.display_name}.linearize", self._state, self._params

        def curvature(lam: Any) -> Any:
            return self._curvature(given.curvature(N.gather(lam)), f"curvature of {name}")  # type: ignore[misc]

        def second(a: Any, b: Any) -> Any:
            along = ((P.gather(x), N.gather(y)) for x, y in (a, b))
            return self._to_vec(given.second(*along), f"second of {name}")  # type: ignore[misc]

        return dataclasses.replace(
            given,
            d_state=mat_with_entries(given.d_state, N, N, f"d_state of {name}"),
            d_params=mat_with_entries(given.d_params, N, P, f"d_params of {name}"),
            curvature=given.curvature and curvature,
            second=given.second and second,
        )

    def _curvature(self, given: Any, name: str) -> Any:
        N, P = self._state, self._params
        product = given.apply if isinstance(given, Curvature) else given
        if callable(product):

            def apply(dtheta: Any, dh: Any) -> Any:
                a_theta, a_h = product(P.gather(dtheta), N.gather(dh))
                return P.vec(a_theta), N.vec(a_h)

            return Curvature(apply=apply)
        if not isinstance(given, Curvature):
            return given
        blocks = {"params_params": (P, P), "state_params": (N, P), "state_state": (N, N)}
        return Curvature(
            **{
                field: mat_with_entries(block, *layouts, f"{field} of {name}")
                for field, layouts in blocks.items()
                if (block := getattr(given, field)) is not None
            }
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
        value = self.of.value(*self.model._gather(h, theta))
        return Backend.of(h).same_on_all_ranks(value, "value of the loss")

    def gradients(self, h: Array, theta: Array) -> tuple[Array, Array]:
        """Return (dL/dtheta, dL/dh)."""
        d_params, d_state = self.of.gradients(*self.model._gather(h, theta))
        return self.model._params.distribute(d_params), self.model._state.distribute(d_state)

    def curvature_operator(self, h: Array, theta: Array) -> CurvatureOperator:
        """Return ∇²_(θ,h) L, by its blocks if the loss has them."""
        N, P, backend = self.model._state, self.model._params, Backend.of(h)
        sizes = theta.shape[0], h.shape[0]
        whole = self.of.curvature_operator(*self.model._gather(h, theta))
        if not isinstance(whole, BlockCurvature):

            def apply(dtheta: Any, dh: Any) -> Any:
                x = host.concatenate([P.gather(dtheta), N.gather(dh)])
                a_theta, a_h = whole.split(whole._apply(x))
                return P.vec(a_theta), N.vec(a_h)

            curvature = Curvature(apply=apply)
            return ProductCurvature(backend, *sizes, curvature, "curvature of the loss")
        layouts = ((P, P), (N, P), (N, N))
        blocks: list[Operator | None] = [
            block and _distribute_block(backend, block, *pair)
            for block, pair in zip(whole.blocks, layouts, strict=True)
        ]
        return BlockCurvature(backend, *sizes, blocks)


class GatheredOperator(Operator):
    """A numpy operator known by its products: applied whole on every rank, to gathered vectors."""

    def __init__(self, backend: Backend, of: Operator, rows: Layout, columns: Layout) -> None:
        super().__init__(backend, (rows.rows.total, columns.rows.total))
        self.of, self.rows, self.columns = of, rows, columns

    def _apply(self, x: Array) -> Array:
        return self.rows.distribute(self.of._apply(self.columns.gather(x)))

    def _apply_adjoint(self, y: Array) -> Array:
        return self.columns.distribute(self.of._apply_adjoint(self.rows.gather(y)))


def mat_with_entries(given: Any, rows: Layout, columns: Layout, name: str) -> Any:
    """Check a matrix as on one machine, and distribute it as a Mat."""
    operator = as_operator(_backend(), given, (rows.total, columns.total), name)
    if (array := operator.array) is None:
        raise ModelError(
            f"{name}: expected a sparse matrix or an array, got a {type(given).__name__} with "
            "products but no entries, which cannot be distributed: give its entries, or write the "
            "model for PETSc with a shell Mat"
        )
    return distribute_matrix(array, rows, columns)


def distribute_matrix(array: Any, rows: Layout, columns: Layout) -> Any:
    """Distribute a sparse matrix or an array that every rank has as an AIJ or dense Mat."""
    if not is_sparse(array):
        from petsc4py import PETSc

        local = host.asfortranarray(array[rows.own_unknowns][:, columns.order])
        size = (rows.size, columns.size)
        mat = PETSc.Mat().createDense(size, array=local, comm=rows.ranks.comm)
        mat.assemble()
        return mat
    mine = array.tocsr()[rows.own_unknowns].tocoo()
    i, j, values = mine.row, columns.inverse[mine.col], mine.data
    if rows is columns:  # PETSc's factorizations and shifts need every diagonal entry stored
        here = host.arange(rows.size[0])
        start = rows.rows.starts[rows.ranks.rank]
        i, j = host.concatenate([i, here]), host.concatenate([j, here + start])
        values = host.concatenate([values, host.zeros(here.size)])
    local = _backend().sparse.csr_matrix((values, (i, j)), shape=(rows.size[0], columns.total))
    local.sort_indices()
    return create_aij(
        rows.ranks, rows.rows, columns.rows, (local.indptr, local.indices, local.data)
    )


def _distribute_block(backend: Backend, block: Operator, rows: Layout, columns: Layout) -> Operator:
    array = block.array
    if array is None:
        return GatheredOperator(backend, block, rows, columns)
    return MatOperator(backend, distribute_matrix(array, rows, columns))


def _backend() -> Backend:
    """Return the backend of the arrays that numpy models take."""
    return Backend.of(host.zeros(0))
