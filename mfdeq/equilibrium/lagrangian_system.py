"""Solves with H - sigma I, for a Hessian by the sparse KKT system.

A symmetric matrix H is factorized as it is. For the Hessian of an equilibrium, let C = [-B, A], for
which C T = 0, and E the identity (or the M of a generalized problem) on the parameter block:

    (H - sigma E) x = b   <=>   [[K - sigma E, C'], [C, 0]] (x, y; nu) = (b, 0; 0),   y = Z x.

H is dense and never formed. This matrix of size P + 2N, the Lagrangian system, is sparse if K, A
and B are. Its inertia is the sum of that of H - sigma E and (N, N, 0): the number of its negative
pivots, minus N, is the number of eigenvalues of H below sigma.

The cost and the counts depend on the ordering. The unknowns theta_i, h_i and nu_i of a node stay
together, and the nodes are ordered by nested dissection of their graph. No separator then comes
between a constraint and its unknowns, and the interior of a front is itself a Lagrangian system. It
is regular if the blocks of A are and the data in it determine its parameters; otherwise pivots have
to be exchanged between fronts (`mfdeq.linear.direct.symmetric`).

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
from ..arrays.backend import Array, Backend, array_on_host, host, is_dense, is_sparse
from ..arrays.library import ArrayLibrary, native, shape_of
from ..arrays.sparse import sparse_on_host
from ..errors import ArgumentError, ConvergenceError, SingularStateError
from ..linear.direct.symmetric import (
    MAX_COUNTING_RESIDUAL,
    SymmetricFactor,
    symmetric_scaling,
)
from ..linear.scaling import Scaling, weigh
from ..locks import cached_property
from ..operators.matrix_operator import Matrix
from ..operators.operator import Operator, Scaled, SelfAdjoint, Sum
from ..operators.user_operators import as_symmetric, backend_of
from .lagrangian_scaling import system_scaling
from .reduced_curvature import ReducedCurvature
from .reduced_operator import ReducedOperator

# Limit on the relative residual of a solve without refinement, for a random b. It is about the
# perturbation of the system relative to the distance to a singular one. Below the limit iterative
# refinement converges.
MAX_REFINABLE_RESIDUAL = 1e-2
MAX_DENSE_SIZE = 2_000  # rows or columns of a dense matrix that is factorized as a sparse one
MAX_DENSE_PARAMS = 300  # parameters up to which a dense H takes the place of a failed system


class ShiftedInverse(SelfAdjoint):
    """The operator (H - sigma I)^-1, (P, P), by one factorization.

    For a Hessian, the Lagrangian system is factorized, and H is never formed. If that system is
    singular to rounding, H is, for up to 300 parameters.

    Parameters
    ----------
    H : ReducedHessian, ReducedCurvature, SumHessian or (P, P) matrix
        A Hessian for which A, B and the blocks of K are matrices, or a symmetric matrix, sparse (in
        any format) or dense.
    sigma : float, optional
        The shift.
    M : (P, P) matrix, Precision or (P,) array, optional
        A symmetric matrix in place of the identity, for (H - sigma M)^-1; an array is its diagonal.

    Attributes
    ----------
    below : int or None
        The number of eigenvalues of H below sigma; with M, of H x = mu M x for a positive definite
        M.

    Raises
    ------
    ArgumentError
        If A, B or a block of K is known by its products only, or a matrix is not symmetric.
    SingularStateError
        If H - sigma M is singular, because sigma is an eigenvalue.

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

    The number of eigenvalues of a matrix below 1.5:

    >>> ShiftedInverse(sp.diags(np.arange(5.0)), 1.5).below
    2
    """

    def __new__(cls, H: Any, *args: Any, **kwargs: Any) -> Any:
        """Create an instance that is also a LinearOperator of the array library of H."""
        return super().__new__(cls, backend_of(native(H)))

    def __init__(self, H: Any, sigma: float = 0.0, M: Any = None) -> None:
        backend, shape = self.backend, shape_of(H)
        if not isinstance(self, (expected := solver_for(backend).shifted_inverse)):
            raise ArgumentError(
                f"H uses arrays of {backend.library_name}: use {expected.__module__}."
                f"{expected.__name__} for them"
            )
        if len(shape) != 2 or shape[0] != shape[1]:
            raise ArgumentError(f"H: expected a square matrix or Hessian, got shape {shape}")
        super().__init__(H, shape)
        self.sigma = real(sigma, "sigma")
        # The columns and rows of the system are scaled, so that those of H are in these units.
        self.scale: Array | None = None
        H = require_entries(as_symmetric(backend, native(H), shape, "H"))
        failure = self._attempt(self._factorize, H, M)
        few = self.shape[0] <= MAX_DENSE_PARAMS and not backend.library.distributed
        if failure and few and isinstance(H, ReducedOperator):
            failure = self._attempt(self._factorize_dense, H, M)
        if failure:
            raise self._singular_error(failure)

    def _attempt(self, factorize: Callable[..., Any], H: Operator, M: Any) -> str:
        """Set the factor, and return why it cannot be used, if so."""
        try:
            self.factor: Any = factorize(H, M)
        except ZeroDivisionError:
            return "a pivot is zero"
        except ArithmeticError as error:
            raise factorization_error(str(error)) from error
        residual = self.factor.unrefined_residual
        if residual <= MAX_REFINABLE_RESIDUAL:
            return ""
        return f"a solve leaves a relative residual of {residual:.0e}"

    def _factorize(self, H: Any, M: Any) -> Any:
        """Return a `Factor` of the system, with `unrefined_residual` and `negative_pivots()`."""
        if isinstance(H, ReducedOperator):
            return self._scaled_factor(*_system(H, self.sigma, self._metric(M)))
        matrix = assemble(H, "H")
        if abs(matrix - matrix.T).max() > self.backend.eps**0.5 * abs(matrix).max():
            raise ArgumentError("H: expected a symmetric matrix, got one that is not symmetric")
        shifted = sparse.csr_matrix(matrix - self.sigma * self._metric(M))
        return self._scaled_factor(shifted, symmetric_scaling(shifted))

    def _factorize_dense(self, H: Any, M: Any) -> Any:
        """Return a factor of the dense H - sigma M, if that is regular beside its own error."""
        eye = self.backend.eye(*self.shape)
        dense, error = (array_on_host(x).astype("float64") for x in H.with_error(eye))
        dense = 0.5 * (dense + dense.T) - self.sigma * self._metric(M)
        values = abs(host.linalg.eigvalsh(dense))
        rounding = self.backend.eps * self.shape[0] * values.max()
        if not values.min() > host.linalg.norm(error) + rounding:
            raise ZeroDivisionError("an eigenvalue is smaller than the error of H")
        shifted = sparse.csr_matrix(dense)
        return self._scaled_factor(shifted, symmetric_scaling(shifted))

    def _scaled_factor(self, system: Any, D: Any) -> SymmetricFactor:
        """Factorize D S D for the system S."""
        backend = self.backend
        self.scale = backend.from_host(D[: self.shape[0]])
        scaled = Scaling(D, D).apply(system).astype(backend.dtype)
        return SymmetricFactor(Matrix(backend, backend.sparse.csr_matrix(scaled)))

    def _metric(self, M: Any) -> Any:
        """Return the entries of M on the host, or the identity."""
        P = self.shape[0]
        if M is None:
            return sparse.identity(P, format="csr")
        if is_dense(M) and M.ndim == 1:
            return sparse.diags(array_on_host(self.backend.vector(M, P, "M"))).tocsr()
        if sparse.issparse(M) and M.shape == (P, P):  # on the host, whatever the library of H
            return sparse.csr_matrix(M)
        return assemble(as_symmetric(self.backend, M, (P, P), "M"), "M")

    @cached_property
    def below(self) -> int | None:
        """The number of eigenvalues of H below sigma; None if the signs of pivots may be wrong."""
        if not self.factor.unrefined_residual <= MAX_COUNTING_RESIDUAL:
            return None
        negative, size = self.factor.negative_pivots(), self.factor.A.shape[0]
        return None if negative is None else negative - (size - self.shape[0]) // 2

    def _apply(self, x: Array) -> Array:
        backend, P = self.backend, self.shape[0]
        rhs, states = weigh(self.scale, x), (self.factor.A.shape[0] - P) // 2
        if states:
            zero = backend.zeros(states, *x.shape[1:])
            rhs = backend.xp.concat([rhs, zero, zero], axis=0)
        try:
            solution = self.factor.solve(rhs)
        except (ConvergenceError, SingularStateError) as error:
            raise self._singular_error(f"{error}") from error
        return weigh(self.scale, solution[:P, ...] if states else solution)

    def _singular_error(self, how: str) -> SingularStateError:
        hint = ""
        if self.sigma == 0.0:
            hint = " Zero is one of a Hessian if the data do not determine all parameters."
        return SingularStateError(
            f"H - {self.sigma:g} I is singular to working precision ({how}): sigma is an "
            f"eigenvalue of H.{hint} Move sigma slightly to one side",
            digits=0.0,
        )


def require_entries(H: Operator) -> Any:
    """Return H if it is a Hessian or has entries, or raise an `ArgumentError`."""
    if isinstance(H, ReducedOperator) or H.has_entries:
        return H
    if isinstance(H, Sum | Scaled):
        raise ArgumentError(
            "H: expected an mfdeq Hessian or a matrix, for sigma or certify, got a sum or a "
            "multiple of operators. Of matrices, pass their sum as a matrix. For the precision R "
            "of a prior, add mfdeq.QuadraticPrior(R) to the loss of the Hessian instead, as in "
            "eq.hessian(loss + mfdeq.QuadraticPrior(R)); its .gauss_newton includes R. "
            "Otherwise pass preconditioner= to mfdeq.eigsh"
        )
    raise ArgumentError(
        "H: expected an mfdeq Hessian or a matrix, for sigma or certify, got a "
        f"{type(H).__name__}. For the eigenvalues of another operator nearest to sigma, pass "
        "preconditioner= to mfdeq.eigsh, or (H - sigma I)^-1 in place of H"
    )


def assemble_blocks(H: ReducedOperator) -> tuple[Any, ...]:
    """Return A, B and the blocks of K as sparse matrices on the host.

    Of a sum, A is block diagonal and B is stacked.

    Raises
    ------
    ArgumentError
        If one of these is not a sparse matrix.
    """
    parts = [(weight, _blocks_of_one(part)) for weight, part in H.parts]
    if len(parts) == 1 and parts[0][0] == 1.0 and H.params_term is None:
        return parts[0][1]
    As, Bs, pps, sps, sss = zip(*(blocks for _, blocks in parts), strict=True)
    weights = [weight for weight, _ in parts]
    pp, sp, ss = (
        [weight * block for weight, block in zip(weights, blocks, strict=True)]
        for blocks in (pps, sps, sss)
    )
    if H.params_term is not None:
        pp.append(assemble(H.params_term, "the precision of the prior"))
    diagonal = functools.partial(sparse.block_diag, format="csr")
    stacked = functools.partial(sparse.vstack, format="csr")
    return diagonal(As), stacked(Bs), sum(pp[1:], pp[0]), stacked(sp), diagonal(ss)


def _blocks_of_one(H: ReducedCurvature) -> tuple[Any, ...]:
    A, B = assemble(H.eq.linearized.A, "A"), assemble(H.eq.forcing, "B")
    N, P = B.shape
    return A, B, *_curvature_blocks(H, (P, P), (N, P), (N, N))


def _system(H: ReducedOperator, sigma: float, E: Any) -> tuple[Any, Any]:
    """Assemble the system, with the sparsity pattern of the graph of nodes, and its scaling D."""
    A, B, pp, sp, ss = assemble_blocks(H)
    N, P = B.shape
    pp = sparse.csr_matrix(pp - sigma * E)
    M = sparse.bmat([[pp, sp.T, -B.T], [sp, ss, A.T], [-B, A, None]], format="coo")
    node = host.concatenate([_nodes(A, B, sp), host.arange(N), host.arange(N)])
    members = sparse.csr_matrix((host.ones(P + 2 * N), (host.arange(P + 2 * N), node)))
    marks = sparse.csr_matrix((host.ones(M.nnz), (M.row, M.col)), shape=M.shape)
    # Store zeros, too, so that all unknowns of a node have the same neighbours.
    pattern = (members @ (members.T @ marks @ members) @ members.T).tocoo()
    both = (host.concatenate([getattr(M, i), getattr(pattern, i)]) for i in ("row", "col"))
    values = host.concatenate([M.data, 0.0 * pattern.data])
    system = sparse.coo_matrix((values, tuple(both)), shape=M.shape).tocsr()
    return system, system_scaling(A, B, pp, sp, ss)


def _nodes(A: Any, B: Any, sp: Any) -> Any:
    """Assign each parameter to a node, in the middle of those that it is coupled with.

    These are its equations in B, or else its states in K_(h,theta). The chosen one is adjacent to
    most of the others in A. This leaves the graph of nodes as sparse as it can be. Of several, the
    one with the largest entry is taken.
    """
    N, P = B.shape
    nodes = N + host.arange(P)  # a parameter without entries in either is a node of its own
    graph = _pattern(A) + sparse.identity(N)
    for block in (sp, B):
        coupling = sparse.csr_matrix(block)
        pattern = _pattern(coupling)
        adjacent = (graph @ pattern).multiply(pattern).tocsr()  # with the pattern of the coupling
        size = abs(coupling).tocoo()
        count = adjacent[size.row, size.col].A1 if size.nnz else size.data
        order = host.lexsort((size.data, count, size.col))
        nodes[size.col[order]] = size.row[order]  # the last one is kept
    return nodes


def _pattern(A: Any) -> Any:
    """Return the number 1 for each stored entry."""
    return sparse.csr_matrix((host.ones(A.nnz), A.indices, A.indptr), shape=A.shape)


def _curvature_blocks(H: ReducedCurvature, *shapes: tuple[int, int]) -> list[Any]:
    K = H.K.assembled()
    if K is None:
        raise factorization_error("the curvature is known by its products only: pass its blocks")
    return [
        sparse.csr_matrix(shape) if block is None else assemble(block, "a block of the curvature")
        for block, shape in zip(K.blocks, shapes, strict=True)
    ]


def assemble(op: Operator, name: str) -> Any:
    """Return the matrix of an operator as a sparse one on the host, or raise an `ArgumentError`."""
    array = op.assembled_entries()
    if not (is_sparse(array) or is_dense(array)):
        raise factorization_error(f"{name} is not a sparse matrix")
    if is_dense(array) and max(array.shape) > MAX_DENSE_SIZE:
        raise factorization_error(
            f"{name} is not a sparse matrix, and too large for a dense one ({array.shape[0]} x "
            f"{array.shape[1]})"
        )
    return sparse_on_host(array)


def factorization_error(why: str) -> ArgumentError:
    """Make the error for a system that cannot be factorized."""
    return ArgumentError(
        f"H - sigma M, or the Lagrangian system of a Hessian, cannot be factorized: {why}. Methods "
        "by products need no matrices: method='newton-cg' of mfdeq.minimize, mfdeq.eigsh without "
        "sigma and certify, and mfdeq.condition_number with preconditioner="
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
    assemble_blocks: Callable[[ReducedOperator], tuple[Any, ...]]
    assemble: Callable[[Any, str], Any]


ON_HOST = LagrangianSolver(ShiftedInverse, assemble_blocks, assemble)
_solvers: dict[ArrayLibrary, LagrangianSolver] = {}


def register_solver(library: ArrayLibrary, solver: LagrangianSolver) -> None:
    """Register the solver for the arrays of a library; by default it is `ON_HOST`."""
    _solvers[library] = solver


def solver_for(backend: Backend) -> LagrangianSolver:
    """Return the solver for the arrays of a backend."""
    return _solvers.get(backend.library, ON_HOST)
