"""The entries of numpy matrices as distributed Mats, and numpy operators on distributed arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..arrays.backend import Array, Backend, host, is_sparse
from ..errors import ModelError
from ..operators.operator import Operator
from ..operators.user_operators import as_operator
from .errors import raise_on_all_ranks
from .layouts import Layout
from .mats import MatOperator, create_aij


class GatheredOperator(Operator):
    """A numpy operator known by its products: applied whole on every rank, to gathered vectors."""

    def __init__(self, backend: Backend, of: Operator, rows: Layout, columns: Layout) -> None:
        super().__init__(backend, (rows.rows.total, columns.rows.total))
        self.of, self.rows, self.columns = of, rows, columns

    def _apply(self, x: Array) -> Array:
        return self.rows.distribute(self._on_each_rank(self.of._apply, self.columns.gather(x)))

    def _apply_adjoint(self, y: Array) -> Array:
        product = self._on_each_rank(self.of._apply_adjoint, self.rows.gather(y))
        return self.columns.distribute(product)

    def _on_each_rank(self, product: Callable[[Array], Array], x: Array) -> Array:
        with raise_on_all_ranks(self.rows.ranks, "a product with a numpy operator"):
            return product(x)


def check_entries(given: Any, rows: Layout, columns: Layout, name: str) -> Any:
    """Check a matrix as on one machine, and return its entries, whole on every rank."""
    operator = as_operator(numpy_backend(), given, (rows.total, columns.total), name)
    if (array := operator.array) is None:
        raise ModelError(
            f"{name}: expected a sparse matrix or an array, got a {type(given).__name__} with "
            "products but no entries, which cannot be distributed: give its entries, or write the "
            "model for PETSc with a shell Mat"
        )
    return array


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
    local = numpy_backend().sparse.csr_matrix((values, (i, j)), shape=(rows.size[0], columns.total))
    local.sort_indices()
    return create_aij(
        rows.ranks, rows.rows, columns.rows, (local.indptr, local.indices, local.data)
    )


def distribute_block(backend: Backend, block: Operator, rows: Layout, columns: Layout) -> Operator:
    """Return a numpy block as an operator on distributed arrays."""
    array = block.array
    if array is None:
        return GatheredOperator(backend, block, rows, columns)
    return MatOperator(backend, distribute_matrix(array, rows, columns))


def numpy_backend() -> Backend:
    """Return the backend of the arrays that numpy models take."""
    return Backend.of(host.zeros(0))
