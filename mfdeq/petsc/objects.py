"""What is given to users of PETSc: its Vecs and Mats in place of arrays and operators."""

from __future__ import annotations

import atexit
import functools
import gc
import weakref
from collections.abc import Callable, Mapping
from typing import Any

from ..operators import Operator
from .arrays import Distributed
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


def as_mat(operator: Operator) -> Any:
    """The Mat of an operator: the user's own, or one that calls it.

    What the operator has beside its products (``gauss_newton``, ``terms``, ``adjoint_state``) the
    Mat has, too, as Mats and Vecs.
    """
    if isinstance(operator, FromMat):
        return operator.mat
    ranks = operator.backend.device
    sizes = [(ranks.rows(n).count(ranks.rank), n) for n in operator.shape]
    mat = _mat_class()()
    mat.createPython(sizes, Context(operator), comm=ranks.comm)
    mat.setUp()
    before_the_end(mat)
    return mat


def before_the_end(of_python: Any) -> None:
    """Have an object that calls Python destroyed before PETSc ends, after which it crashes."""
    atexit.register(_destroy, weakref.ref(of_python))


def _destroy(reference: weakref.ref) -> None:
    if (found := reference()) is not None:
        found.destroy()
        gc.collect()  # what frames of an error still hold of it


@functools.cache
def _mat_class() -> type:
    from petsc4py import PETSc

    class OperatorMat(PETSc.Mat):
        """A Mat of Python that has the attributes of the operator it calls."""

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
