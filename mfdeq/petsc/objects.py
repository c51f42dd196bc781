"""What is given to users of PETSc: its Vecs and Mats in place of arrays and operators."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from ..errors import ArgumentError
from ..operators.operator import Operator
from .arrays import Distributed
from .cleanup import emptied, made
from .mats import Context, FromMat, dense_mat


def given(x: Any) -> Any:
    """An array as a Vec (a block as a dense Mat), an operator as a Mat, all else as it is."""
    if isinstance(x, Distributed):
        return x.vec() if x.ndim == 1 else dense_mat(x)
    if isinstance(x, Operator):
        return as_mat(x)
    if isinstance(x, tuple):
        return tuple(map(given, x))
    if isinstance(x, Mapping):
        return {name: given(value) for name, value in x.items()}
    return x


def giving(function: Callable) -> Callable:
    """A function, or a bound method, with its result as PETSc has it."""

    @functools.wraps(function)
    def called(*args: Any, **kwargs: Any) -> Any:
        return given(function(*args, **kwargs))

    return called


def in_short(error: Exception) -> str:
    """What an error of PETSc's says last: what went wrong, without where in PETSc."""
    return str(error).strip().splitlines()[-1].removeprefix("[0] ")


def as_mat(operator: Operator) -> Any:
    """The Mat of an operator: the user's own, or one that calls it.

    What the operator has beside its products (``gauss_newton``, ``terms``, ``adjoint_state``) the
    Mat has, too, as Mats and Vecs.
    """
    if isinstance(operator, FromMat):
        return operator.mat
    return shell(Context(operator))


def shell(context: Context) -> Any:
    """A Mat that calls an operator, whichever its context holds at the time."""
    operator = context.operator
    ranks = operator.backend.device
    sizes = [(ranks.rows(n).count(ranks.rank), n) for n in operator.shape]
    mat = _mat_class()()
    mat.createPython(sizes, context, comm=ranks.comm)
    mat.setUp()
    made(mat, ranks)
    return mat


@functools.cache
def _mat_class() -> type:
    from petsc4py import PETSc

    class OperatorMat(PETSc.Mat):
        """A Mat of Python that has the attributes of the operator it calls."""

        # PETSc's own products remember their factors, and drop those after Python has ended.

        def matMult(self, mat: Any, *args: Any, **kwargs: Any) -> Any:
            """A B, of a dense B by the block product."""
            if args or kwargs or not _is_dense(mat):
                return super().matMult(mat, *args, **kwargs)
            return self._product(mat)

        def transposeMatMult(self, mat: Any, *args: Any, **kwargs: Any) -> Any:
            """A' B, of a dense B by the block product."""
            if args or kwargs or not _is_dense(mat):
                return super().transposeMatMult(mat, *args, **kwargs)
            return self._product(mat, adjoint=True)

        def _product(self, mat: Any, adjoint: bool = False) -> Any:
            found = self.getPythonContext().product(mat, adjoint)
            found.device.hand(found.nbytes)
            found.device.called()
            return dense_mat(found)

        def __del__(self, emptied: Any = emptied) -> None:
            if self.handle and self.getRefCount() == 1:
                emptied(self)

        def __getattr__(self, name: str) -> Any:
            if name.startswith("_"):
                raise AttributeError(name)
            found = getattr(self.getPythonContext().operator, name)
            return (
                giving(found)
                if callable(found) and not isinstance(found, Operator)
                else given(found)
            )

    return OperatorMat


def _is_dense(mat: Any) -> bool:
    if not hasattr(mat, "getType"):
        raise ArgumentError(
            f"a {type(mat).__name__}; a Mat was expected, of an array "
            "PETSc.Mat().createDense(sizes, array=...)"
        )
    return mat.getType().endswith("dense")


class Equilibrium:
    """An equilibrium of PETSc's vectors: all that `mfdeq.Equilibrium` has, as Vecs and Mats.

    Attributes
    ----------
    of : mfdeq.Equilibrium
        The same on distributed arrays, on which everything is computed.
    """

    def __init__(self, of: Any) -> None:
        self.of = of

    def __repr__(self) -> str:
        return repr(self.of)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *dir(self.of)})

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name == "of":
            raise AttributeError(name)
        found = getattr(self.of, name)
        plain = callable(found) and not isinstance(found, Operator)
        return giving(found) if plain else given(found)
