"""Solves with H - sigma I by the sparse KKT system.

With C = [-B, A], for which C T = 0, and E the identity (or the M of a generalized problem) on the
parameter block,

    (H - sigma E) x = b   <=>   [[K - sigma E, C'], [C, 0]] (x, y; nu) = (b, 0; 0),   y = Z x.

H is dense and never formed. This matrix of size P + 2N, the Lagrangian system, is sparse if K, A
and B are. Its inertia is the sum of that of H - sigma E and (N, N, 0): the number of its negative
pivots, minus N, is the number of eigenvalues of H below sigma.

The cost and the counts depend on the ordering. The unknowns theta_i, h_i and nu_i of a node stay
together, and the nodes are ordered by nested dissection of their graph. No separator then comes
between a constraint and its unknowns, and the interior of a front is itself a Lagrangian system,
regular if the blocks of A are.

References
----------
N. I. M. Gould, On practical conditions for the existence and uniqueness of solutions to the general
equality quadratic programming problem, Math. Programming 32 (1985), for the inertia.

A. George, Nested dissection of a regular finite element mesh, SIAM J. Numer. Anal. 10 (1973).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import scipy.sparse as sparse

from ..arguments import real
from ..arrays.backend import Array, Backend, host, is_sparse
from ..arrays.library import ArrayLibrary
from ..arrays.sparse import sparse_on_host
from ..errors import ArgumentError, ConvergenceError, SingularStateError
from ..linear.direct.package import trial_residual
from ..linear.factor import Factor
from ..linear.multifrontal.multifrontal import Multifrontal
from ..linear.scaling import Scaling
from ..models.curvature import BlockCurvature
from ..operators.operator import Matrix, Operator, SelfAdjoint
from ..operators.user_operators import backend_of
from .reduced_curvature import ReducedCurvature

# Limits on the relative residual of a solve without refinement, for a random b. There is no
# pivoting between fronts, so the factors are those of a perturbed matrix, and the residual is about
# the size of the perturbation relative to the distance to a singular matrix. Below the first limit
# iterative refinement converges; below the second the signs of the pivots are correct.
MAX_REFINABLE_RESIDUAL = 1e-2
MAX_COUNTING_RESIDUAL = 1e-3


class ShiftedInverse(SelfAdjoint):
    """The operator (H - sigma I)^-1, (P, P), by one factorization of the Lagrangian system.

    Parameters
    ----------
    H : ReducedHessian or ReducedCurvature
        A Hessian for which A, B and the blocks of K are sparse matrices.
    sigma : float, optional
        The shift.
    M : sparse matrix, (P, P), optional
        A matrix in place of the identity, for (H - sigma M)^-1.

    Attributes
    ----------
    below : int or None
        The number of eigenvalues of H below sigma.

    Raises
    ------
    ArgumentError
        If A, B or a block of K is not a sparse matrix, or the graph has no small separators.
    SingularStateError
        If the system is singular, because sigma is an eigenvalue.

    Examples
    --------
    A Newton step, and a proof that H is positive definite:

    >>> import mfdeq, numpy as np, scipy.sparse as sp
    >>> from mfdeq.equilibrium.lagrangian_system import ShiftedInverse
    >>> class Cubic(mfdeq.ResidualModel):
    ...     state_size = param_size = 3
    ...
    ...     def residual(self, h, theta):
    ...         return h + h**3 - theta
    ...
    ...     def linearize(self, h, theta):
    ...         return mfdeq.Linearization(
    ...             sp.diags(1 + 3 * h**2).tocsr(),
    ...             -sp.identity(3, format="csr"),
    ...             lambda lam: mfdeq.Curvature(state_state=sp.diags(6 * lam * h).tocsr()),
    ...         )
    >>> loss = mfdeq.LeastSquares(np.arange(3), np.zeros(3)) + mfdeq.QuadraticPrior(1.0)
    >>> eq = mfdeq.solve(Cubic(), np.array([0.0, 2.0, 10.0]))
    >>> H, g = eq.hessian(loss), eq.gradient(loss)
    >>> inverse = ShiftedInverse(H)
    >>> inverse.below
    0
    >>> bool(np.allclose(H @ (inverse @ g), g))
    True
    """

    def __init__(self, H: ReducedCurvature, sigma: float = 0.0, M: Any = None) -> None:
        backend = backend_of(H)
        if not isinstance(self, (expected := solver_for(backend).shifted_inverse)):
            raise ArgumentError(
                f"H uses arrays of {backend.library_name}: use {expected.__module__}."
                f"{expected.__name__} for them"
            )
        super().__init__(H, H.shape)
        self.sigma = real(sigma, "sigma")
        try:
            self.factor: Any = self._factorize(H, M)
        except ZeroDivisionError as error:
            raise self._singular_error("a pivot is zero") from error
        except ArithmeticError as error:
            raise factorization_error(str(error)) from error
        if not self.factor.unrefined_residual <= MAX_REFINABLE_RESIDUAL:
            raise self._singular_error(
                f"a solve leaves a relative residual of {self.factor.unrefined_residual:.0e}"
            )

    def _factorize(self, H: ReducedCurvature, M: Any) -> Any:
        """Return a `Factor` of the system, with the attribute `unrefined_residual`."""
        return _FrontalFactor(Matrix(H.backend, _system(H, self.sigma, M)))

    @functools.cached_property
    def below(self) -> int | None:
        """The number of eigenvalues of H below sigma; None if the signs of pivots may be wrong."""
        if not self.factor.unrefined_residual <= MAX_COUNTING_RESIDUAL:
            return None
        negative, states = self.factor.fronts.negative_pivots(), self.factor.A.shape[0]
        return None if negative is None else negative - (states - self.shape[0]) // 2

    def _apply(self, x: Array) -> Array:
        backend, P = self.backend, self.shape[0]
        zero = backend.zeros((self.factor.A.shape[0] - P) // 2, *x.shape[1:])
        try:
            return self.factor.solve(backend.xp.concat([x, zero, zero], axis=0))[:P, ...]
        except (ConvergenceError, SingularStateError) as error:
            raise self._singular_error(f"{error}") from error

    def _singular_error(self, how: str) -> SingularStateError:
        return SingularStateError(
            f"H - {self.sigma:g} I is singular to working precision (in the Lagrangian system, "
            f"{how}): sigma is an eigenvalue of H or of a part of it. Zero is an eigenvalue if the "
            "data do not determine all parameters. Move sigma slightly to one side",
            digits=0.0,
        )


class _FrontalFactor(Factor):
    """A multifrontal factorization of the system, with iterative refinement of solutions.

    Attributes
    ----------
    unrefined_residual : float
        The relative residual of a solve without refinement.
    """

    name = "the Lagrangian system"

    def __init__(self, A: Matrix) -> None:
        super().__init__(A, None, None)
        self.scaling = Scaling.by_sums(A.array)
        scaled = self.scaling.apply(A.array)
        self.fronts = Multifrontal(scaled, A.backend, symmetric=True)
        self.unrefined_residual = trial_residual(
            A.backend, lambda x: scaled @ x, self.fronts.solve, A.shape[0]
        )

    def _attempt(self, b: Array, rtol: float, adjoint: bool) -> Array:
        return self.scaling.solve(self.fronts.solve, b, adjoint)


def assemble_blocks(H: ReducedCurvature) -> tuple[Any, ...]:
    """Return A, B and the blocks of K as sparse matrices on the host.

    Raises
    ------
    ArgumentError
        If one of these is not a sparse matrix.
    """
    A, B = assemble(H.eq.state_operator, "A"), assemble(H.eq.param_operator, "B")
    N, P = B.shape
    return A, B, *_curvature_blocks(H, (P, P), (N, P), (N, N))


def _system(H: ReducedCurvature, sigma: float, E: Any) -> Any:
    """Assemble the system, with the sparsity pattern of the graph of nodes."""
    A, B, pp, sp, ss = assemble_blocks(H)
    N, P = B.shape
    shifted = pp - sigma * (sparse.identity(P, format="csr") if E is None else sparse.csr_matrix(E))
    M = sparse.bmat([[shifted, sp.T, -B.T], [sp, ss, A.T], [-B, A, None]], format="coo")
    node = host.concatenate([_nodes(B, sp), host.arange(N), host.arange(N)])
    members = sparse.csr_matrix((host.ones(P + 2 * N), (host.arange(P + 2 * N), node)))
    marks = sparse.csr_matrix((host.ones(M.nnz), (M.row, M.col)), shape=M.shape)
    # Store zeros, too, so that all unknowns of a node have the same neighbours.
    pattern = (members @ (members.T @ marks @ members) @ members.T).tocoo()
    both = (host.concatenate([getattr(M, i), getattr(pattern, i)]) for i in ("row", "col"))
    values = host.concatenate([M.data, 0.0 * pattern.data])
    system = sparse.coo_matrix((values, tuple(both)), shape=M.shape).tocsr()
    return H.backend.sparse.csr_matrix(system.astype(H.backend.dtype))


def _nodes(B: Any, sp: Any) -> Any:
    """Assign each parameter to a node: that of its largest entry in B, or else in K_(h,theta)."""
    N, P = B.shape
    nodes = N + host.arange(P)  # a parameter without entries in either is a node of its own
    for coupling in (sp.tocoo(), B.tocoo()):
        order = host.lexsort((abs(coupling.data), coupling.col))
        nodes[coupling.col[order]] = coupling.row[order]  # the largest entry is written last
    return nodes


def _curvature_blocks(H: ReducedCurvature, *shapes: tuple[int, int]) -> list[Any]:
    if not isinstance(H.K, BlockCurvature):
        raise factorization_error("the curvature is known by its products only: pass its blocks")
    return [
        sparse.csr_matrix(shape) if block is None else assemble(block, "a block of the curvature")
        for block, shape in zip(H.K.blocks, shapes, strict=True)
    ]


def assemble(op: Operator, name: str) -> Any:
    """Return the sparse matrix of an operator on the host, or raise an `ArgumentError`."""
    array = op.array
    if not is_sparse(array):
        raise factorization_error(f"{name} is not a sparse matrix")
    return sparse_on_host(array)


def factorization_error(why: str) -> ArgumentError:
    """Make the error for a system that cannot be factorized."""
    return ArgumentError(
        f"the Lagrangian system cannot be factorized: {why}. For extreme eigenvalues without it, "
        "leave sigma out of mfdeq.eigsh"
    )


@dataclass(frozen=True)
class LagrangianSolver:
    """The functions that factorize the Lagrangian system on the arrays of one library.

    Attributes
    ----------
    shifted_inverse : type
        The subclass of `ShiftedInverse`.
    assemble_blocks : callable
        ``assemble_blocks(H)`` returns the matrices of A, B and the blocks of K, or raises an
        `ArgumentError`.
    assemble : callable
        ``assemble(op, name)`` returns the matrix of one operator, or raises an `ArgumentError`.
    """

    shifted_inverse: type[ShiftedInverse]
    assemble_blocks: Callable[[ReducedCurvature], tuple[Any, ...]]
    assemble: Callable[[Any, str], Any]


ON_HOST = LagrangianSolver(ShiftedInverse, assemble_blocks, assemble)
_solvers: dict[ArrayLibrary, LagrangianSolver] = {}


def register_solver(library: ArrayLibrary, solver: LagrangianSolver) -> None:
    """Register the solver for the arrays of a library; by default it is `ON_HOST`."""
    _solvers[library] = solver


def solver_for(backend: Backend) -> LagrangianSolver:
    """Return the solver for the arrays of a backend."""
    return _solvers.get(backend.library, ON_HOST)
