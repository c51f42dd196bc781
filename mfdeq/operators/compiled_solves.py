"""Krylov solves that are compiled together with the products of an operator.

A source of derivatives that compiles its products (JAX) can compile a whole Krylov method, which
saves a call for every iteration. It registers a function for its class of operators::

    @compiled_krylov.register(Jacobian)
    def _(J: Jacobian, method: str, identity_minus: bool = False) -> CompiledSolve | None: ...

Thus `mfdeq.Krylov` does not depend on the source, and operators do not depend on solvers.
"""

from __future__ import annotations

import functools
from typing import Any, Protocol

from ..arrays.backend import Array
from .operator import IdentityMinus


class CompiledSolve(Protocol):
    """A Krylov solve with one operator or its adjoint, without a preconditioner."""

    def __call__(
        self,
        B: Array,
        weights: Array,
        rtol: float,
        max_iterations: int,
        restart: int,
        adjoint: bool,
    ) -> tuple[Array, Array, Array, Array]:
        """Solve W A X = B for each column of B independently.

        Parameters
        ----------
        B : (N, k) array
            Right-hand sides.
        weights : (N,) array
            The diagonal of W.
        rtol : float
            Tolerance of the residual of each column, relative to the norm of the column.
        max_iterations : int
            Maximum number of iterations for each column.
        restart : int
            Number of vectors in a cycle of "gmres".
        adjoint : bool
            Whether to solve with the adjoint.

        Returns
        -------
        X : (N, k) array
            Solutions.
        residuals : (k,) array
            Norms of the final residuals.
        iterations : (k,) array of int
            Number of iterations for each column.
        definite : (k,) array of bool
            Whether "cg" met only positive curvature; True for other methods.
        """
        ...


@functools.singledispatch
def compiled_krylov(A: Any, method: str, identity_minus: bool = False) -> CompiledSolve | None:
    """Return a compiled solve with A or I - A, or None if its source compiles none.

    Parameters
    ----------
    A : Operator, (N, N)
    method : {"gmres", "cg"}
    identity_minus : bool, optional
        Whether to solve with I - A. The default is False.
    """
    return None


@compiled_krylov.register(IdentityMinus)
def _(A: IdentityMinus, method: str, identity_minus: bool = False) -> CompiledSolve | None:
    return None if identity_minus else compiled_krylov(A.of, method, True)
