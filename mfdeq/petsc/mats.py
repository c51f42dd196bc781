"""Mats of the user's as operators on distributed arrays, and operators as Mats."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from ..arrays.backend import Array, Backend, host
from ..operators.operator import IdentityMinus, Operator, Zero, columnwise
from .arrays import Distributed
from .cleanup import made
from .ranks import Ranks, Rows

ASSEMBLED = ("aij", "baij", "sbaij", "dense")  # types, by how their names end, that have entries


class FromMat(Operator):
    """A Mat of the user's: assembled, nested, shell or of Python.

    Parameters
    ----------
    backend : Backend
    mat : petsc4py.PETSc.Mat
    stacked : Rows, optional
        Of a square one on stacked vectors.

    Attributes
    ----------
    mat : petsc4py.PETSc.Mat
    assembled : bool
        Whether its entries are at hand.
    """

    def __init__(self, backend: Backend, mat: Any, stacked: Rows | None = None) -> None:
        ranks = backend.device
        self._rows = stacked or ranks.add(rows_of(mat.getOwnershipRanges()))
        self._columns = stacked or ranks.add(rows_of(mat.getOwnershipRangesColumn()))
        super().__init__(backend, (self._rows.total, self._columns.total))
        self.mat, self.stacked = mat, stacked
        if mat.getType() == "python":
            made(mat, ranks)
        self.assembled = mat.getType().endswith(ASSEMBLED)

    @property
    def has_entries(self) -> bool:
        """Whether they are assembled."""
        return self.assembled

    def _apply(self, x: Array) -> Array:
        return self._product(self.mat.mult, self.mat.matMult, x, self._rows)

    def _apply_adjoint(self, y: Array) -> Array:
        return self._product(self.mat.multTranspose, self.mat.transposeMatMult, y, self._columns)

    def _product(self, vector: Callable, block: Callable, x: Array, rows: Rows) -> Array:
        if x.ndim == 1:
            return self._vector(vector, x, rows)
        if self.assembled and x.shape[1] > 1:
            return self._block(block, x, rows)
        return columnwise(lambda c: self._vector(vector, c, rows), x, self.backend, rows.total)

    def _vector(self, product: Callable, x: Array, rows: Rows) -> Array:
        ranks = self.backend.device
        out = Distributed(host.empty(rows.count(ranks.rank), x.dtype), ranks, rows)
        apply(product, x, out)
        return out

    def _block(self, product: Callable, x: Array, rows: Rows) -> Array:
        dense = dense_mat(x)
        found = product(dense)
        local = host.array(found.getDenseArray(), order="C")
        found.destroy()
        dense.destroy()
        return Distributed(local, self.backend.device, rows)

    def _alike(self, mat: Any) -> FromMat:
        return FromMat(self.backend, mat, self.stacked)

    @functools.cached_property
    def _magnitudes(self) -> FromMat:
        """|A|, entry by entry."""
        mat = self.mat.copy()
        kept = mat.getType()
        if not kept.endswith("dense"):
            mat = mat.convert("aij")
            starts, columns, values = mat.getValuesCSR()
            mat.setValuesCSR(starts, columns, abs(values))
        else:
            entries = mat.getDenseArray()
            entries[...] = abs(entries)
        mat.assemble()
        return self._alike(mat)

    def abs_apply(self, x: Array) -> Array:
        """|A| |x|, where there are entries."""
        if not self.assembled:
            return super().abs_apply(x)
        return self._magnitudes._apply(abs(x))

    def __neg__(self) -> Operator:
        return self.times(-1.0)

    def times(self, factor: float) -> Operator:
        """A multiple of the entries."""
        if not self.assembled:
            return super().times(factor)
        mat = self.mat.copy()
        mat.scale(factor)
        return self._alike(mat)

    def identity_minus(self) -> Operator:
        """I - J of a matrix that is assembled."""
        if not self.assembled:
            return super().identity_minus()
        from petsc4py import PETSc

        mat = self.mat.copy()
        mat.setOption(PETSc.Mat.Option.NEW_NONZERO_ALLOCATION_ERR, False)  # a diagonal, that is
        mat.scale(-1.0)
        mat.shift(1.0)
        return self._alike(mat)

    def plus(self, other: Operator) -> Operator:
        """The sum of two matrices that are assembled."""
        if not (self.assembled and isinstance(other, FromMat) and other.assembled):
            return super().plus(other)
        mat = self.mat.copy()
        mat.axpy(1.0, other.mat)
        return self._alike(mat)


def rows_of(ranges: Any) -> Rows:
    """Rows as PETSc tells them."""
    return Rows(tuple(int(start) for start in ranges))


def aij(ranks: Ranks, rows: Rows, columns: Rows, csr: tuple[Any, Any, Any]) -> Any:
    """An AIJ Mat by (starts, columns, values) of this rank's rows, columns numbered over all."""
    from petsc4py import PETSc

    size = [(of.count(ranks.rank), of.total) for of in (rows, columns)]
    starts, places, values = csr
    index = PETSc.IntType
    csr = starts.astype(index), places.astype(index), values
    return PETSc.Mat().createAIJ(size, csr=csr, comm=ranks.comm)


def apply(product: Callable, x: Array, out: Array) -> None:
    """Call what takes two Vecs with those of two arrays.

    They are destroyed at once: what Python drops, PETSc keeps until all ranks clean up together.
    """
    given, into = x.vec(), out.vec()
    try:
        product(given, into)
    finally:
        given.destroy()
        into.destroy()


def dense_mat(x: Array) -> Any:
    """A dense Mat with the numbers of an (n, k) array, which it may share: to be read only."""
    from petsc4py import PETSc

    ranks = x.device
    columns = x.shape[1]
    local = host.asfortranarray(x.local)
    size = ((x.local.shape[0], x.shape[0]), (None, columns))
    mat = PETSc.Mat().createDense(size, array=local, comm=ranks.comm)
    mat.assemble()
    return mat


class Context:
    """What PETSc calls of a Mat that is an operator of this library's.

    Attributes
    ----------
    operator : Operator
    """

    def __init__(self, operator: Operator) -> None:
        self.operator = operator

    def mult(self, mat: Any, x: Any, y: Any) -> None:
        """y = A x."""
        y.setArray(self.operator._apply(self._array(x.getArray(readonly=True), 1)).local)

    def multTranspose(self, mat: Any, x: Any, y: Any) -> None:
        """y = A' x."""
        y.setArray(self.operator._apply_adjoint(self._array(x.getArray(readonly=True), 0)).local)

    def _array(self, local: Any, side: int) -> Distributed:
        """A copy of what a rank has of an array that goes with the rows (0) or columns."""
        ranks = self.operator.backend.device
        rows = ranks.rows(self.operator.shape[side])
        return Distributed(host.array(local, order="C"), ranks, rows)

    def shift(self, mat: Any, a: float) -> None:
        """A + a I in place of A."""
        identity = IdentityMinus(Zero(self.operator, self.operator.shape))
        self.operator = self.operator.plus(identity.times(a))

    def productSetFromOptions(self, mat: Any, kind: str, A: Any, B: Any, C: Any) -> bool:
        """Whether products of this kind can be had: A B and A' B, of dense B."""
        return kind in ("AB", "AtB")

    def productSymbolic(self, mat: Any, product: Any, kind: str, A: Any, B: Any, C: Any) -> None:
        """Make what the product goes into."""
        rows = self.operator.shape[0 if kind == "AB" else 1]
        known = self.operator.backend.device.rows(rows)
        local = known.count(self.operator.backend.device.rank)
        product.setType("dense")
        product.setSizes(((local, rows), B.getSizes()[1]))
        product.setUp()
        product.assemble()

    def productNumeric(self, mat: Any, product: Any, kind: str, A: Any, B: Any, C: Any) -> None:
        """The block product is the product."""
        product.getDenseArray()[...] = self.product(B, kind == "AtB").local
        product.assemble()

    def product(self, B: Any, adjoint: bool = False) -> Distributed:
        """A B or A' B of a dense Mat."""
        X = self._array(B.getDenseArray(readonly=True), 0 if adjoint else 1)
        return self.operator._apply_adjoint(X) if adjoint else self.operator._apply(X)
