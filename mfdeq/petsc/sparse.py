"""What `Backend.sparse` is asked for where arrays are distributed: matrices by their entries."""

from __future__ import annotations

from typing import Any

import scipy.sparse

from ..arrays.backend import Backend, host
from ..arrays.sparse import canonical
from ..errors import ModelError
from ..operators.dot_tests import check_adjoint
from ..operators.operator import Operator
from .arrays import replicate
from .errors import last_line
from .mats import MatOperator, OperatorContext, create_aij
from .ranks import Ranks


def as_operator(backend: Backend, mat: Any, name: str) -> Operator:
    """A user's Mat as an operator: one of ours inside is taken out."""
    if isinstance(mat, Entries):
        mat = mat.mat(backend.device)
    if mat.getType() == "python" and isinstance(mat.getPythonContext(), OperatorContext):
        return mat.getPythonContext().operator
    if Ranks.of(mat.getComm()) is not backend.device:
        raise ModelError(
            f"{name} is a Mat of another communicator than the problem's vectors: make all on one"
        )
    if not mat.isAssembled():
        raise ModelError(f"{name} is a Mat that is not assembled: call its assemble()")
    found = MatOperator(backend, mat)
    if not found.assembled:
        _check_adjoint(found, name)
    elif not _finite(mat):
        raise ModelError(f"{name} holds NaN or infinity")
    return found


def _check_adjoint(op: MatOperator, name: str) -> None:
    from petsc4py import PETSc

    try:
        check_adjoint(op, name)
    except PETSc.Error as error:
        raise ModelError(
            f"a product of {name}, a Mat of type {op.mat.getType()}, or of its transpose failed: "
            f"it needs mult and multTranspose ({last_line(error)})"
        ) from error


def _finite(mat: Any) -> bool:
    """Whether all entries are: one norm passes by what is not a number, the other overflows."""
    from petsc4py import PETSc

    norms = PETSc.NormType
    try:
        size, largest = mat.norm(norms.NORM_FROBENIUS), mat.norm(norms.NORM_INFINITY)
        return not host.isnan(size) and bool(host.isfinite(largest))
    except PETSc.Error:  # a type of matrix that has no such norm
        return True


def identity(n: int, dtype: Any = None, format: str = "csr") -> Any:
    """The identity of that size, as `csr_matrix` takes it."""
    return Entries((host.ones(n), (host.arange(n), host.arange(n))), (n, n))


def csr_matrix(entries: tuple[Any, tuple[Any, Any]], shape: tuple[int, int]) -> Entries:
    """(values, (rows, columns)), which every rank has all of."""
    return Entries(entries, shape)


class Entries:
    """A matrix by its entries, until it is known whose it is."""

    def __init__(self, entries: Any, shape: tuple[int, int]) -> None:
        values, places = entries
        self.values, self.rows, self.columns = map(replicate, (values, *places))
        self.shape = shape

    def __rmul__(self, factor: float) -> Entries:
        return Entries((factor * self.values, (self.rows, self.columns)), self.shape)

    def mat(self, ranks: Ranks) -> Any:
        """As a Mat."""
        rows, columns = map(ranks.agree_on_rows, self.shape)
        here = rows.slice_of(ranks.rank)
        mine = (self.rows >= here.start) & (self.rows < here.stop)
        places = self.rows[mine] - here.start, self.columns[mine]
        shape = rows.count(ranks.rank), columns.total
        kept = canonical(scipy.sparse.csr_matrix((self.values[mine], places), shape=shape))
        return create_aij(ranks, rows, columns, (kept.indptr, kept.indices, kept.data))
