"""PETSc Mats as operators on distributed arrays."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from ..arrays.backend import Array, Backend, host
from ..equilibrium.gauges import Gauge
from ..errors import ModelError
from ..locks import cached_property
from ..operators.dot_tests import check_adjoint
from ..operators.operator import Adjoint, Operator, columnwise
from .arrays import DistributedArray
from .cleanup import register_for_cleanup
from .errors import last_line, raise_on_all_ranks
from .ranks import Ranks, Rows

ASSEMBLED_TYPES = ("aij", "baij", "sbaij", "dense")  # endings of Mat types that store entries


class MatOperator(Operator):
    """The operator of a PETSc Mat: assembled, nested, or a shell.

    Parameters
    ----------
    backend : Backend
    mat : petsc4py.PETSc.Mat
    stacked : Rows, optional
        Rows and columns of a square Mat on stacked vectors. By default the Mat's own.

    Attributes
    ----------
    mat : petsc4py.PETSc.Mat
    assembled : bool
        Whether the Mat stores its entries.
    """

    def __init__(self, backend: Backend, mat: Any, stacked: Rows | None = None) -> None:
        ranks = backend.device
        self._rows = stacked or ranks.register_rows(Rows.from_ranges(mat.getOwnershipRanges()))
        self._columns = stacked or ranks.register_rows(
            Rows.from_ranges(mat.getOwnershipRangesColumn())
        )
        super().__init__(backend, (self._rows.total, self._columns.total))
        self.mat, self.stacked = mat, stacked
        if mat.getType() == "python":
            register_for_cleanup(mat, ranks)
        self.assembled = mat.getType().endswith(ASSEMBLED_TYPES)

    @property
    def has_entries(self) -> bool:
        """Whether the Mat stores its entries."""
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
        out = DistributedArray(host.empty(rows.count(ranks.rank), x.dtype), ranks, rows)
        if self.assembled:
            call_on_vecs(product, x, out)
        else:  # the user's function may raise on one rank
            with raise_on_all_ranks(ranks, f"a product with a {self.mat.getType()} Mat"):
                call_on_new_vecs(product, x, out)
        return out

    def _block(self, product: Callable, x: Array, rows: Rows) -> Array:
        dense = create_dense_mat(x)
        result = product(dense)
        local = host.array(result.getDenseArray(), order="C")
        result.destroy()
        dense.destroy()
        return DistributedArray(local, self.backend.device, rows)

    def _with_mat(self, mat: Any) -> MatOperator:
        return MatOperator(self.backend, mat, self.stacked)

    @cached_property
    def declared_null_spaces(self) -> Any:
        """The null spaces that the user has set: see `declared_null_spaces`."""
        from .null_spaces import declared_null_spaces

        return declared_null_spaces(self, self.mat)

    def gauge(self) -> Any:
        """Return the `Gauge` that makes the Mat regular, if it carries null spaces."""
        return (
            None if self.declared_null_spaces is None else Gauge.of(self, self.declared_null_spaces)
        )

    @cached_property
    def _absolute(self) -> MatOperator:
        """The operator |A|, entry by entry."""
        mat = self.mat.copy()
        if not mat.getType().endswith("dense"):
            mat = mat.convert("aij")
            starts, columns, values = mat.getValuesCSR()
            mat.setValuesCSR(starts, columns, abs(values))
        else:
            entries = mat.getDenseArray()
            entries[...] = abs(entries)
        mat.assemble()
        return self._with_mat(mat)

    def abs_apply(self, x: Array) -> Array:
        """Return |A| |x|, if the entries are known."""
        if not self.assembled:
            return super().abs_apply(x)
        return self._absolute._apply(abs(x))

    def _adjoint(self) -> Operator:
        return _MatAdjoint(self) if self.assembled else super()._adjoint()

    def __neg__(self) -> Operator:
        return self.times(-1.0)

    def times(self, factor: float) -> Operator:
        """Return a multiple, of the entries if they are known."""
        if not self.assembled:
            return super().times(factor)
        mat = self.mat.copy()
        mat.scale(factor)
        return self._with_mat(mat)

    def identity_minus(self, in_place: bool = False) -> Operator:
        """Return I - J, by its entries if they are known."""
        if not self.assembled:
            return super().identity_minus()
        from petsc4py import PETSc

        mat = self.mat.copy()
        # The diagonal may be missing in the pattern of J.
        mat.setOption(PETSc.Mat.Option.NEW_NONZERO_ALLOCATION_ERR, False)
        mat.scale(-1.0)
        mat.shift(1.0)
        return self._with_mat(mat)

    @property
    def has_single_entries(self) -> bool:
        """Whether the Mat stores its entries."""
        return self.assembled

    def plus_entries(self, rows: list[int], columns: list[int], values: list[float]) -> Operator:
        """Return a Mat with numbers added to some entries."""
        from petsc4py import PETSc

        symmetric = self.mat.getType().endswith("sbaij") and rows != columns
        mat = self.mat.convert("aij", PETSc.Mat()) if symmetric else self.mat.copy()
        mat.setOption(PETSc.Mat.Option.NEW_NONZERO_ALLOCATION_ERR, False)
        first, end = mat.getOwnershipRange()
        for i, j, value in zip(rows, columns, values, strict=True):
            if first <= i < end:
                mat.setValue(i, j, value, PETSc.InsertMode.ADD_VALUES)
        mat.assemble()
        if near := self.mat.getNearNullSpace():  # a copy has none
            mat.setNearNullSpace(near)
        return self._with_mat(mat)

    def gathered_entries(self) -> Any:
        """Return the entries as a matrix of scipy, whole on every rank; None if there are none."""
        if not self.assembled or self.stacked is not None:
            return None
        from petsc4py import PETSc
        from scipy import sparse

        entries = self.mat.convert("aij", PETSc.Mat())
        starts, columns, values = entries.getValuesCSR()
        entries.destroy()
        local = sparse.csr_matrix((values, columns, starts), shape=(starts.size - 1, self.shape[1]))
        return sparse.vstack(self.backend.device.allgather(local), format="csr")

    def plus(self, other: Operator) -> Operator:
        """Return a sum, of the entries if both matrices store them."""
        if not (self.assembled and isinstance(other, MatOperator) and other.assembled):
            return super().plus(other)
        mat = self.mat.copy()
        mat.axpy(1.0, other.mat)
        return self._with_mat(mat)


class _MatAdjoint(Adjoint):
    """The adjoint of a Mat whose entries are known."""

    of: MatOperator

    def abs_apply(self, x: Array) -> Array:
        """Return |A|' |x|."""
        return self.of._absolute._apply_adjoint(abs(x))


def checked_operator(backend: Backend, mat: Any, name: str) -> MatOperator:
    """Return the operator of a Mat after checking the Mat.

    Raises
    ------
    ModelError
        If the Mat is on another communicator, is not assembled, or holds NaN or infinity, or if a
        product with a shell Mat or with its transpose fails.
    DerivativeError
        If the transpose of a shell Mat is not its transpose.
    """
    if Ranks.of(mat.getComm()) is not backend.device:
        raise ModelError(
            f"{name}: expected a Mat on the communicator of the problem's vectors, got one on "
            "another: make all on one"
        )
    if not mat.isAssembled():
        raise ModelError(f"{name}: expected an assembled Mat: call its assemble()")
    operator = MatOperator(backend, mat)
    if not operator.assembled:
        _check_adjoint(operator, name)
    elif not _is_finite(mat):
        raise ModelError(f"{name} holds NaN or infinity", non_finite=True)
    return operator


def _check_adjoint(op: MatOperator, name: str) -> None:
    from petsc4py import PETSc

    try:
        check_adjoint(op, name)
    except PETSc.Error as error:
        raise ModelError(
            f"{name}: a product with this Mat of type {op.mat.getType()}, or with its transpose, "
            f"failed: it needs mult and multTranspose ({last_line(error)})"
        ) from error


def _is_finite(mat: Any) -> bool:
    """Tell whether all entries are finite; True if PETSc has no norm of this type of Mat."""
    from petsc4py import PETSc

    norms = PETSc.NormType
    try:
        # The infinity norm does not show NaN, the Frobenius norm overflows for finite entries.
        size, largest = mat.norm(norms.NORM_FROBENIUS), mat.norm(norms.NORM_INFINITY)
        return not host.isnan(size) and bool(host.isfinite(largest))
    except PETSc.Error:
        return True


def create_aij(ranks: Ranks, rows: Rows, columns: Rows, csr: tuple[Any, Any, Any]) -> Any:
    """Create an AIJ Mat from (starts, columns, values) of this rank's rows, in CSR.

    Columns are numbered over all ranks.
    """
    from petsc4py import PETSc

    size = [(axis.count(ranks.rank), axis.total) for axis in (rows, columns)]
    starts, indices, values = csr
    csr = starts.astype(PETSc.IntType), indices.astype(PETSc.IntType), values
    return PETSc.Mat().createAIJ(size, csr=csr, comm=ranks.comm)


def call_on_vecs(product: Callable, x: Array, out: Array) -> None:
    """Call a function of two Vecs, such as ``mat.mult``, with those of two arrays.

    The Vecs are those of the ranks' pool, so that none is created, which is a collective call. The
    function must not keep them.
    """
    with borrowed_vec(x) as source, borrowed_vec(out) as target:
        product(source, target)


@contextlib.contextmanager
def borrowed_vec(x: Array) -> Iterator[Any]:
    """Context with a Vec of the ranks' pool that has the memory of an (n,) array."""
    ranks = x.device
    vec = ranks.borrow_vec(x.rows)
    # PETSc does not respect numpy's write protection: it gets a copy of a protected array.
    vec.placeArray(host.require(x.local, dtype="f8", requirements=("C", "W")))
    try:
        yield vec
    finally:
        vec.resetArray()
        ranks.return_vec(x.rows, vec)


def call_on_new_vecs(product: Callable, x: Array, out: Array) -> None:
    """Call a function of two Vecs, which may keep them, with those of two arrays."""
    source, target = x.vec(), out.vec()
    try:
        product(source, target)
    finally:
        source.destroy()
        target.destroy()


def create_dense_mat(x: Array) -> Any:
    """Create a dense Mat of an (n, k) array, to be read only: it may share its memory."""
    from petsc4py import PETSc

    ranks = x.device
    columns = x.shape[1]
    local = host.asfortranarray(x.local)
    size = ((x.local.shape[0], x.shape[0]), (None, columns))
    mat = PETSc.Mat().createDense(size, array=local, comm=ranks.comm)
    mat.assemble()
    return mat
