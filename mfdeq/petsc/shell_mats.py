"""Operators on distributed arrays as PETSc Mats, most of them shell Mats."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from ..arrays.backend import Backend, host
from ..errors import ArgumentError
from ..operators.operator import IdentityMinus, Operator, Zero
from .agreement import bound_arguments, find_ranks, public_call
from .arrays import DistributedArray, is_petsc
from .cleanup import drop_python_context, register_for_cleanup
from .errors import raise_on_all_ranks
from .mats import MatOperator, checked_operator, create_dense_mat

# How an array becomes an operand of the kind that an error asks for.
ARRAY_ADVICE = {
    "Vec": "; an array becomes one by PETSc.Vec().createWithArray(local, comm=comm)",
    "Mat": "; an array becomes one by PETSc.Mat().createDense(sizes, array=local)",
}


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


def operator_of_mat(backend: Backend, mat: Any, name: str) -> Operator:
    """Return the operator of a Mat, checked; for a Mat that `as_mat` made, the operator in it.

    Raises
    ------
    ModelError, DerivativeError
        As `checked_operator` does.
    """
    if mat.getType() == "python" and isinstance(mat.getPythonContext(), OperatorContext):
        return mat.getPythonContext().operator
    return checked_operator(backend, mat, name)


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
