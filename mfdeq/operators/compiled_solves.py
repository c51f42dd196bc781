"""Whole Krylov solves that the source of an operator's products has compiled.

A source of derivatives that compiles its products (JAX) can compile a Krylov method around them,
which saves a call of the source for every iteration. It registers that for its class of operators::

    @compiled_krylov.register(Jacobian)
    def _(J: Jacobian, method: str, identity_minus: bool = False) -> CompiledSolve | None: ...

`mfdeq.Krylov` asks for it without knowing the source, and operators know nothing of solvers.
"""

from __future__ import annotations

import functools
from typing import Any, Protocol

from ..arrays.backend import Array
from .operator import IdentityMinus


class CompiledSolve(Protocol):
    """A Krylov solve with one operator or its adjoint, without a preconditioner."""

    def __call__(
        self, B: Array, rtol: float, max_iterations: int, restart: int, adjoint: bool
    ) -> tuple[Array, Array, Array, Array]:
        """Solve for the columns of B, each by itself.

        Parameters
        ----------
        B : (N, k) array
        rtol : float
            Residual of each column, relative to its norm.
        max_iterations : int
            Of each column.
        restart : int
            Vectors that a cycle of "gmres" keeps.
        adjoint : bool
            Solve with the adjoint.

        Returns
        -------
        X : (N, k) array
        residuals : (k,) array
            Norms of the residuals at the end.
        iterations : (k,) array of int
        definite : (k,) array of bool
            Whether "cg" has met positive curvature only; True for other methods.
        """
        ...


@functools.singledispatch
def compiled_krylov(A: Any, method: str, identity_minus: bool = False) -> CompiledSolve | None:
    """A compiled solve with A, or with I - A; None where its source compiles none.

    Parameters
    ----------
    A : Operator, (N, N)
    method : {"gmres", "cg"}
    identity_minus : bool, optional
        Solve with I - A.
    """
    return None


@compiled_krylov.register(IdentityMinus)
def _(A: IdentityMinus, method: str, identity_minus: bool = False) -> CompiledSolve | None:
    return None if identity_minus else compiled_krylov(A.of, method, True)
