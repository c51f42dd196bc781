"""Models and losses that are written for numpy and scipy, on PETSc's Vecs and Mats.

Every rank evaluates the whole on gathered arrays and keeps its own rows: what is spread are the
matrices, their factors, and all that is computed with them.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from ..arrays.backend import Array, Backend, host, is_sparse
from ..errors import ArgumentError, ModelError
from ..models.curvature import AppliedCurvature, BlockCurvature, Curvature, CurvatureOperator
from ..models.losses import LeastSquares, LossBase, QuadraticPrior
from ..models.model import FixedPointModel, Linearization, Model, ResidualModel
from ..operators.operator import Operator
from ..operators.user_operators import as_operator
from .layouts import Layout
from .mats import FromMat, aij
from .ranks import Ranks


def distributed(
    model: Model, comm: Any = None, state: Any = None, params: Any = None
) -> DistributedModel:
    """A model of numpy's arrays and scipy's matrices as one of PETSc's Vecs and Mats.

    Parameters
    ----------
    model : mfdeq.FixedPointModel or mfdeq.ResidualModel
        Unchanged. Its Jacobians and the blocks of its curvatures are sparse matrices or arrays.
    comm : petsc4py.PETSc.Comm, optional
        By default ``PETSc.COMM_WORLD``.
    state, params : None, Vec, int, DMDA or (N,), (P,) integer array, optional
        Who holds what: as PETSc splits it, as a Vec is spread, so many on this rank, as a
        structured grid is cut (the model's numbering is the grid's natural one, x the fastest), or
        the rank of each unknown.

    Returns
    -------
    DistributedModel
        For `mfdeq.petsc.solve`.

    Raises
    ------
    ArgumentError
        Where the layout is not one of that many unknowns, or not that of other vectors as long.
    ModelError
        Where `model` is none.
    """
    if not isinstance(model, FixedPointModel | ResidualModel):
        raise ModelError(
            f"the model is a {type(model).__name__}; an mfdeq.FixedPointModel or "
            "mfdeq.ResidualModel was expected"
        )
    for name in ("state_size", "param_size"):
        size = getattr(model, name, None)
        if not isinstance(size, int | host.integer) or size < 1:
            raise ModelError(
                f"{model.described}.{name} is {size!r}; a positive integer was expected"
            )
    if comm is None:
        from petsc4py import PETSc

        comm = PETSc.COMM_WORLD
    kind = DistributedMap if isinstance(model, FixedPointModel) else DistributedResidual
    return kind(model, Ranks.of(comm), state, params)


class DistributedModel(Model):
    """A numpy model on PETSc's Vecs and Mats.

    Attributes
    ----------
    of : mfdeq.FixedPointModel or mfdeq.ResidualModel
        The model as it was written.
    """

    def __init__(self, of: Model, ranks: Ranks, state: Any, params: Any) -> None:
        self.of = of
        self._state = Layout(ranks, int(of.state_size), state, "state")
        self._params = Layout(ranks, int(of.param_size), params, "params")
        self.state_size, self.param_size = self._state.size, self._params.size  # type: ignore

    @property
    def described(self) -> str:
        """What messages call the model."""
        return self.of.described

    def state(self, array: Array) -> Any:
        """An (N,) array that every rank has as a Vec; an (N, k) one as a dense Mat."""
        return self._state.vec(array)

    def params(self, array: Array) -> Any:
        """A (P,) array that every rank has as a Vec; a (P, k) one as a dense Mat."""
        return self._params.vec(array)

    def gathered_state(self, x: Any) -> Array:
        """A Vec or dense Mat of N rows as a numpy array, on every rank."""
        return self._state.gathered(x)

    def gathered_params(self, x: Any) -> Array:
        """A Vec or dense Mat of P rows as a numpy array, on every rank."""
        return self._params.gathered(x)

    def loss(self, loss: LossBase) -> LossBase:
        """A loss that is written for numpy, for equilibria of this model."""
        if not isinstance(loss, LossBase):
            raise ArgumentError(f"the loss is a {type(loss).__name__}; one of mfdeq's was expected")
        return DistributedLoss(loss, self)

    def check_loss(self, loss: LossBase) -> None:
        """Refuse one whose indices and arrays are in the model's numbering, not in PETSc's."""
        if wrong := [p for p in loss.parts if isinstance(p, LeastSquares | QuadraticPrior)]:
            raise ArgumentError(
                f"the loss has a {type(wrong[0]).__name__}, in the numbering of "
                f"{self.described}: give model.loss(loss), model being what "
                "mfdeq.petsc.distributed made"
            )

    def initial_state(self, theta: Any) -> Any:
        """That of the model."""
        found = self.of.initial_state(self._params.gathered(theta))
        return None if found is None else self._own(found, f"{self.described}.initial_state")

    def residual_scale(self, h: Any, theta: Any) -> float | None:
        """That of the model."""
        return self.of.residual_scale(*self._both(h, theta))

    def linearize(self, h: Any, theta: Any) -> Linearization:
        """The model's derivatives, each rank with its rows."""
        return self._linearization(self.of.linearize(*self._both(h, theta)))

    def linearize_again(self, h: Any, theta: Any) -> Linearization:
        """As accurate, with other errors."""
        return self._linearization(self.of.linearize_again(*self._both(h, theta)))

    def _both(self, h: Any, theta: Any) -> tuple[Array, Array]:
        return self._state.gathered(h), self._params.gathered(theta)

    def _own(self, out: Any, name: str) -> Any:
        checked = _backend().checked(out, (self._state.total,), name, finite=False)
        return self._state.vec(checked)

    def _written(self, h: Any, theta: Any) -> Any:
        written = getattr(self.of, self.of.written)
        return self._own(written(*self._both(h, theta)), f"{self.described}.{self.of.written}")

    def _linearization(self, given: Any) -> Any:
        if not isinstance(given, Linearization):
            return given  # which is refused by its name
        of, N, P = f"{self.described}.linearize", self._state, self._params

        def curvature(lam: Any) -> Any:
            return self._curvature(given.curvature(N.gathered(lam)), f"curvature of {of}")  # type: ignore[misc]

        def second(a: Any, b: Any) -> Any:
            along = ((P.gathered(x), N.gathered(y)) for x, y in (a, b))
            return self._own(given.second(*along), f"second of {of}")  # type: ignore[misc]

        return dataclasses.replace(
            given,
            d_state=with_entries(given.d_state, N, N, f"d_state of {of}"),
            d_params=with_entries(given.d_params, N, P, f"d_params of {of}"),
            curvature=given.curvature and curvature,
            second=given.second and second,
        )

    def _curvature(self, given: Any, name: str) -> Any:
        N, P = self._state, self._params
        product = given.apply if isinstance(given, Curvature) else given
        if callable(product):

            def apply(dtheta: Any, dh: Any) -> Any:
                a_theta, a_h = product(P.gathered(dtheta), N.gathered(dh))
                return P.vec(a_theta), N.vec(a_h)

            return Curvature(apply=apply)
        if not isinstance(given, Curvature):
            return given
        blocks = {"params_params": (P, P), "state_params": (N, P), "state_state": (N, N)}
        return Curvature(
            **{
                field: with_entries(block, *layouts, f"{field} of {name}")
                for field, layouts in blocks.items()
                if (block := getattr(given, field)) is not None
            }
        )


class DistributedMap(DistributedModel, FixedPointModel):
    """A map of numpy's on PETSc's Vecs."""

    def map(self, h: Any, theta: Any) -> Any:
        """f(h, theta)."""
        return self._written(h, theta)


class DistributedResidual(DistributedModel, ResidualModel):
    """A residual of numpy's on PETSc's Vecs."""

    def residual(self, h: Any, theta: Any) -> Any:
        """R(h, theta)."""
        return self._written(h, theta)


class DistributedLoss(LossBase):
    """A loss of numpy's arrays on distributed ones.

    Attributes
    ----------
    of : mfdeq.LossBase
    """

    def __init__(self, of: LossBase, model: DistributedModel) -> None:
        self.of, self.model = of, model

    def _evaluate(self, h: Array, theta: Array) -> float:
        value = self.of.value(*self.model._both(h, theta))
        return Backend.of(h).same_on_all_ranks(value, "value of the loss")

    def gradients(self, h: Array, theta: Array) -> tuple[Array, Array]:
        """(dL/dtheta, dL/dh)."""
        d_params, d_state = self.of.gradients(*self.model._both(h, theta))
        return self.model._params.spread(d_params), self.model._state.spread(d_state)

    def curvature_operator(self, h: Array, theta: Array) -> CurvatureOperator:
        """∇²_(θ,h) L, by blocks where the loss has it by blocks."""
        N, P, backend = self.model._state, self.model._params, Backend.of(h)
        sizes = theta.shape[0], h.shape[0]
        found = self.of.curvature_operator(*self.model._both(h, theta))
        if not isinstance(found, BlockCurvature):

            def apply(dtheta: Any, dh: Any) -> Any:
                x = host.concatenate([P.gathered(dtheta), N.gathered(dh)])
                a_theta, a_h = found.split(found._apply(x))
                return P.vec(a_theta), N.vec(a_h)

            curvature = Curvature(apply=apply)
            return AppliedCurvature(backend, *sizes, curvature, "curvature of the loss")
        layouts = ((P, P), (N, P), (N, N))
        blocks: list[Operator | None] = [
            block and _spread(backend, block, *pair)
            for block, pair in zip(found.blocks, layouts, strict=True)
        ]
        return BlockCurvature(backend, *sizes, blocks)


class Gathered(Operator):
    """An operator of numpy's, known by its products, of which each rank keeps its rows."""

    def __init__(self, backend: Backend, of: Operator, rows: Layout, columns: Layout) -> None:
        super().__init__(backend, (rows.rows.total, columns.rows.total))
        self.of, self.rows, self.columns = of, rows, columns

    def _apply(self, x: Array) -> Array:
        return self.rows.spread(self.of._apply(self.columns.gathered(x)))

    def _apply_adjoint(self, y: Array) -> Array:
        return self.columns.spread(self.of._apply_adjoint(self.rows.gathered(y)))


def with_entries(given: Any, rows: Layout, columns: Layout, name: str) -> Any:
    """The Mat of a matrix, checked as on one machine."""
    operator = as_operator(_backend(), given, (rows.total, columns.total), name)
    if (array := operator.array) is None:
        raise ModelError(
            f"{name} is a {type(given).__name__} that has products and no entries, which cannot be "
            "spread over ranks: give a sparse matrix or an array, or write the model for PETSc "
            "with a shell Mat"
        )
    return mat_of(array, rows, columns)


def mat_of(array: Any, rows: Layout, columns: Layout) -> Any:
    """A sparse matrix or an array that every rank has as an AIJ or dense Mat."""
    if not is_sparse(array):
        from petsc4py import PETSc

        local = host.asfortranarray(array[rows.mine][:, columns.order])
        size = (rows.size, columns.size)
        mat = PETSc.Mat().createDense(size, array=local, comm=rows.ranks.comm)
        mat.assemble()
        return mat
    mine = array.tocsr()[rows.mine].tocoo()
    i, j, values = mine.row, columns.inverse[mine.col], mine.data
    if rows is columns:  # PETSc's factorizations and shifts take no diagonal that is not stored
        here = host.arange(rows.size[0])
        start = rows.rows.starts[rows.ranks.rank]
        i, j = host.concatenate([i, here]), host.concatenate([j, here + start])
        values = host.concatenate([values, host.zeros(here.size)])
    kept = _backend().sparse.csr_matrix((values, (i, j)), shape=(rows.size[0], columns.total))
    kept.sort_indices()
    return aij(rows.ranks, rows.rows, columns.rows, (kept.indptr, kept.indices, kept.data))


def _spread(backend: Backend, block: Operator, rows: Layout, columns: Layout) -> Operator:
    array = block.array
    if array is None:
        return Gathered(backend, block, rows, columns)
    return FromMat(backend, mat_of(array, rows, columns))


def _backend() -> Backend:
    """That of the arrays that numpy models get."""
    return Backend.of(host.zeros(0))
