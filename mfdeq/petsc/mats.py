"""PETSc Mats as operators on distributed arrays, and operators as Mats."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ..arrays.backend import Array, Backend, host
from ..errors import ArgumentError, ModelError
from ..operators.dot_tests import check_adjoint
from ..operators.operator import IdentityMinus, Operator, Zero, columnwise
from .agreement import bound_arguments, find_ranks, public_call
from .arrays import DistributedArray, is_petsc
from .cleanup import drop_python_context, register_for_cleanup
from .errors import last_line, raise_on_all_ranks
from .ranks import Ranks, Rows

ASSEMBLED_TYPES = ("aij", "baij", "sbaij", "dense")  # endings of Mat types that store entries
# How an array becomes an operand of the kind that an error asks for.
ARRAY_ADVICE = {
    "Vec": "; an array becomes one by PETSc.Vec().createWithArray(local, comm=comm)",
    "Mat": "; an array becomes one by PETSc.Mat().createDense(sizes, array=local)",
}


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

    @functools.cached_property
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

    def __neg__(self) -> Operator:
        return self.times(-1.0)

    def times(self, factor: float) -> Operator:
        """Return a multiple, of the entries if they are known."""
        if not self.assembled:
            return super().times(factor)
        mat = self.mat.copy()
        mat.scale(factor)
        return self._with_mat(mat)

    def identity_minus(self) -> Operator:
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

    def plus(self, other: Operator) -> Operator:
        """Return a sum, of the entries if both matrices store them."""
        if not (self.assembled and isinstance(other, MatOperator) and other.assembled):
            return super().plus(other)
        mat = self.mat.copy()
        mat.axpy(1.0, other.mat)
        return self._with_mat(mat)


def operator_of_mat(backend: Backend, mat: Any, name: str) -> Operator:
    """Return the operator of a Mat, checked; for a Mat that `as_mat` made, the operator in it.

    Raises
    ------
    ModelError
        If the Mat is on another communicator, is not assembled, or holds NaN or infinity, or if a
        product with a shell Mat or with its transpose fails.
    DerivativeError
        If the transpose of a shell Mat is not its transpose.
    """
    if mat.getType() == "python" and isinstance(mat.getPythonContext(), OperatorContext):
        return mat.getPythonContext().operator
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


class OperatorContext:
    """The Python context of a shell Mat: PETSc calls it for the products of an operator.

    Attributes
    ----------
    operator : Operator
    """

    def __init__(self, operator: Operator) -> None:
        self.operator = operator

    def mult(self, mat: Any, x: Any, y: Any) -> None:
        """Compute y = A x."""
        y.setArray(self.operator._apply(self._array(x.getArray(readonly=True), 1)).local)

    def multTranspose(self, mat: Any, x: Any, y: Any) -> None:
        """Compute y = A' x."""
        y.setArray(self.operator._apply_adjoint(self._array(x.getArray(readonly=True), 0)).local)

    def _array(self, local: Any, side: int) -> DistributedArray:
        """Copy the local part of a Vec along the rows (0) or columns (1) into an array."""
        ranks = self.operator.backend.device
        rows = ranks.rows(self.operator.shape[side])
        return DistributedArray(host.array(local, order="C"), ranks, rows)

    def shift(self, mat: Any, a: float) -> None:
        """Replace A by A + a I."""
        identity = IdentityMinus(Zero(self.operator, self.operator.shape))
        self.operator = self.operator.plus(identity.times(a))

    def productSetFromOptions(self, mat: Any, kind: str, A: Any, B: Any, C: Any) -> bool:
        """Tell PETSc which products with Mats exist: A B and A' B."""
        return kind in ("AB", "AtB")

    def productSymbolic(self, mat: Any, product: Any, kind: str, A: Any, B: Any, C: Any) -> None:
        """Set up the dense Mat that will hold the product."""
        ranks = self.operator.backend.device
        total = self.operator.shape[0 if kind == "AB" else 1]
        product.setType("dense")
        product.setSizes(((ranks.rows(total).count(ranks.rank), total), B.getSizes()[1]))
        product.setUp()
        product.assemble()

    def productNumeric(self, mat: Any, product: Any, kind: str, A: Any, B: Any, C: Any) -> None:
        """Compute the product by the operator's block product."""
        product.getDenseArray()[...] = self.product(B, kind == "AtB").local
        product.assemble()

    def product(self, B: Any, adjoint: bool = False) -> DistributedArray:
        """Return A B or A' B for a dense Mat B."""
        X = self._array(B.getDenseArray(readonly=True), 0 if adjoint else 1)
        return self.operator._apply_adjoint(X) if adjoint else self.operator._apply(X)


class GuardedContext(OperatorContext):
    """The context of a shell Mat for a PETSc solver, which no exception may pass through.

    After an exception, which all ranks raise together, products are NaN: iterations end at once,
    and `raise_failure` raises the exception after the solver has returned.
    """

    def __init__(self, operator: Operator) -> None:
        super().__init__(operator)
        self.failure: Exception | None = None

    def mult(self, mat: Any, x: Any, y: Any) -> None:
        """Compute y = A x."""
        self._guard(super().mult, mat, x, y)

    def multTranspose(self, mat: Any, x: Any, y: Any) -> None:
        """Compute y = A' x."""
        self._guard(super().multTranspose, mat, x, y)

    def _guard(self, product: Callable, mat: Any, x: Any, y: Any) -> None:
        if self.failure is None:
            try:
                return product(mat, x, y)
            except Exception as error:
                self.failure = error
        y.set(float("nan"))

    def raise_failure(self) -> None:
        """Raise the exception of a product since the last call, if there was one."""
        failure, self.failure = self.failure, None
        if failure is not None:
            raise failure


def to_petsc(x: Any) -> Any:
    """Convert arrays to Vecs (blocks to dense Mats), operators to Mats, and nothing else."""
    if isinstance(x, DistributedArray):
        return x.vec() if x.ndim == 1 else create_dense_mat(x)
    if isinstance(x, Operator):
        return as_mat(x)
    if isinstance(x, tuple):
        return tuple(map(to_petsc, x))
    if isinstance(x, Mapping):
        return {name: to_petsc(value) for name, value in x.items()}
    return x


def attribute_to_petsc(owner: Any, name: str) -> Any:
    """Return an attribute with Vecs and Mats in it; a method is wrapped to return them."""
    value = getattr(owner, name)
    if isinstance(value, Operator) or not callable(value):
        return to_petsc(value)

    @functools.wraps(value)
    def method(*args: Any, **kwargs: Any) -> Any:
        ranks = find_ranks((owner,))
        if ranks is None:
            return to_petsc(value(*args, **kwargs))
        arguments = bound_arguments(inspect.signature(value), args, kwargs)
        with public_call(ranks, f"{type(owner).__name__}.{name}", arguments):
            return to_petsc(value(*args, **kwargs))

    return method


def as_mat(operator: Operator) -> Any:
    """Return an operator on distributed arrays as a PETSc Mat.

    Parameters
    ----------
    operator : Operator, (m, n)
        What an equilibrium's ``of`` holds, and sums, multiples and products of such operators.

    Returns
    -------
    petsc4py.PETSc.Mat
        The user's own Mat if the operator is one, otherwise a shell Mat with ``mult``,
        ``multTranspose``, ``matMult`` and ``transposeMatMult``. It has the operator's attributes
        (``gauss_newton``, ``terms``, ``adjoint_state`` of a Hessian), too, as Mats and Vecs.

    Examples
    --------
    >>> import numpy as np
    >>> import mfdeq
    >>> from mfdeq import petsc
    >>> model = petsc.distributed(
    ...     mfdeq.from_function(lambda h, theta: h**3 + h - theta, 3, 3, kind="residual")
    ... )
    >>> eq = petsc.solve(model, model.params(np.array([0.0, 2.0, 10.0])))
    >>> A = petsc.as_mat(2.0 * eq.of.state_operator)  # A = 1 + 3 h²
    >>> x, y = A.createVecs()
    >>> x.set(1.0)
    >>> A.mult(x, y)
    >>> model.gathered_state(y).round(4)
    array([ 2.,  8., 26.])
    """
    if isinstance(operator, MatOperator):
        return operator.mat
    return shell_mat(OperatorContext(operator))


def shell_mat(context: OperatorContext) -> Any:
    """Create a shell Mat that calls the operator which its context holds at the time."""
    operator = context.operator
    ranks = operator.backend.device
    sizes = [(ranks.rows(n).count(ranks.rank), n) for n in operator.shape]
    mat = _mat_class()()
    mat.createPython(sizes, context, comm=ranks.comm)
    mat.setUp()
    register_for_cleanup(mat, ranks)
    return mat


@functools.cache
def _mat_class() -> type:
    from petsc4py import PETSc

    class OperatorMat(PETSc.Mat):
        """A shell Mat that has the attributes of its operator."""

        def mult(self, x: Any, y: Any) -> None:
            """Compute y = A x."""
            self._check("mult", x, y)
            super().mult(x, y)

        def multTranspose(self, x: Any, y: Any) -> None:
            """Compute y = A' x."""
            self._check("multTranspose", x, y)
            super().multTranspose(x, y)

        def _check(self, name: str, *operands: Any, kind: str = "Vec") -> None:
            """Refuse operands of another class on all ranks, also where only one passes them."""
            with raise_on_all_ranks(self.getPythonContext().operator.backend.device, name):
                for x in operands:
                    if not is_petsc(x, kind):
                        raise ArgumentError(
                            f"{name}: expected a PETSc {kind}, got a {type(x).__name__}"
                            + ARRAY_ADVICE[kind]
                        )

        # Products with dense Mats bypass PETSc's: its result keeps a reference to its factors, and
        # would drop them only after Python has ended.

        def matMult(self, mat: Any, *args: Any, **kwargs: Any) -> Any:
            """Return A B, for a dense B by the operator's block product."""
            self._check("matMult", mat, kind="Mat")
            if args or kwargs or not mat.getType().endswith("dense"):
                return super().matMult(mat, *args, **kwargs)
            return self._product(mat)

        def transposeMatMult(self, mat: Any, *args: Any, **kwargs: Any) -> Any:
            """Return A' B, for a dense B by the operator's block product."""
            self._check("transposeMatMult", mat, kind="Mat")
            if args or kwargs or not mat.getType().endswith("dense"):
                return super().transposeMatMult(mat, *args, **kwargs)
            return self._product(mat, adjoint=True)

        def _product(self, mat: Any, adjoint: bool = False) -> Any:
            product = self.getPythonContext().product(mat, adjoint)
            product.device.count_bytes(product.nbytes)
            product.device.count_user_call()
            return create_dense_mat(product)

        def __del__(self, drop: Any = drop_python_context) -> None:
            if self.handle and self.getRefCount() == 1:
                drop(self)

        def __getattr__(self, name: str) -> Any:
            if name.startswith("_"):
                raise AttributeError(name)
            return attribute_to_petsc(self.getPythonContext().operator, name)

    return OperatorMat
