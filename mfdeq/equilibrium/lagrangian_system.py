"""The other way to the same Hessian: solves with H - sigma I by the Lagrangian system.

With C = [-B, A], C T = 0, and E the identity (or the M of a generalized problem) on the parameter
block,

    (H - sigma I) x = b   <=>   [[K - sigma E, C'], [C, 0]] (x, y; nu) = (b, 0; 0),   y = Z x.

H is dense and never formed; this matrix of size P + 2N is sparse wherever K, A and B are. Its
inertia is that of H - sigma I and (N, N, 0): the number of eigenvalues of H below sigma.

The ordering decides everything. The theta_i, h_i and nu_i of a node stay together, and nodes are
ordered by nested dissection of their graph: no separator parts a constraint from what it
constrains, and what is inside of a front is a Lagrangian system itself, regular with A's blocks.
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
from ..linear.direct.scaling import Scaling
from ..linear.factor import Factor
from ..linear.multifrontal.multifrontal import Multifrontal
from ..models.curvature import BlockCurvature
from ..operators.operator import Matrix, Operator, SelfAdjoint
from ..operators.user_operators import backend_of
from .reduced_hessian import ReducedCurvature

# Of a solve without refinement for a random b. There is no pivoting between fronts: the factors are
# those of a matrix that is off by about that share of the distance to a singular one, since
# |x| ~ |b| / that distance. Refinement still converges, and the signs of the pivots are right.
REFINABLE, BELIEVED = 1e-2, 1e-3


class ShiftedInverse(SelfAdjoint):
    """(H - sigma I)^-1, (P, P), by one factorization of the Lagrangian system.

    Parameters
    ----------
    H : ReducedCurvature
        With A, B and the blocks of K as sparse matrices.
    sigma : float
    M : sparse matrix, (P, P), optional
        In place of the identity: (H - sigma M)^-1.

    Raises
    ------
    ArgumentError
        If something is known by its products only, or the graph has no small separators.
    SingularStateError
        If the system is singular: sigma is an eigenvalue.
    """

    def __init__(self, H: ReducedCurvature, sigma: float = 0.0, M: Any = None) -> None:
        backend = backend_of(H)
        if not isinstance(self, (expected := solver_for(backend).shifted_inverse)):
            raise ArgumentError(
                f"H is on arrays of {backend.library_name}: use {expected.__module__}."
                f"{expected.__name__}"
            )
        super().__init__(H, H.shape)
        self.sigma = real(sigma, "sigma")
        try:
            self.factor: Any = self._factorized(H, M)
        except ZeroDivisionError as error:
            raise self._on_an_eigenvalue("a pivot is zero") from error
        except ArithmeticError as error:
            raise unsuited(str(error)) from error
        if not self.factor.off <= REFINABLE:
            raise self._on_an_eigenvalue(f"a solve leaves {self.factor.off:.0e}")

    def _factorized(self, H: ReducedCurvature, M: Any) -> Any:
        """A `Factor` of the system, with its `off`."""
        return _Factor(Matrix(H.backend, _system(H, self.sigma, M)))

    @functools.cached_property
    def below(self) -> int | None:
        """The number of eigenvalues of H below sigma; None where the pivots' signs may be wrong."""
        if not self.factor.off <= BELIEVED:
            return None
        negative, states = self.factor.fronts.negative_pivots(), self.factor.A.shape[0]
        return None if negative is None else negative - (states - self.shape[0]) // 2

    def _apply(self, x: Array) -> Array:
        backend, P = self.backend, self.shape[0]
        zero = backend.zeros((self.factor.A.shape[0] - P) // 2, *x.shape[1:])
        try:
            return self.factor.solve(backend.xp.concat([x, zero, zero], axis=0))[:P, ...]
        except (ConvergenceError, SingularStateError) as error:
            raise self._on_an_eigenvalue(f"{error}") from error

    def _on_an_eigenvalue(self, how: str) -> SingularStateError:
        return SingularStateError(
            f"H - {self.sigma:g} I is singular to working precision (in the Lagrangian system "
            f"{how}): sigma is an eigenvalue of H, as zero is of a Hessian that the data do not "
            "determine, or of a part of it. Move sigma a little to one side",
            digits=0.0,
        )


class _Factor(Factor):
    """The system's fronts; solves are refined to the true residual, as all are.

    Attributes
    ----------
    off : float
        The relative residual of a solve without refinement.
    """

    name = "the Lagrangian system"

    def __init__(self, A: Matrix) -> None:
        super().__init__(A, None, None)
        self.scaling = Scaling.of(A.array)
        scaled = self.scaling.apply(A.array)
        self.fronts = Multifrontal(scaled, A.backend, symmetric=True)
        b = A.backend.random(A.shape[0], seed=5)
        self.off = A.backend.norm(b - scaled @ self.fronts.solve(b)) / A.backend.norm(b)

    def _attempt(self, b: Array, rtol: float, adjoint: bool) -> Array:
        return self.scaling.solve(self.fronts.solve, b, adjoint)


def parts(H: ReducedCurvature) -> tuple[Any, ...]:
    """A, B and the blocks of K as sparse matrices on the host, or an `ArgumentError`."""
    A, B = entries(H.eq.state_operator, "A"), entries(H.eq.param_operator, "B")
    N, P = B.shape
    return A, B, *_blocks_of(H, (P, P), (N, P), (N, N))


def _system(H: ReducedCurvature, sigma: float, E: Any) -> Any:
    """The matrix, its pattern that of the nodes' graph."""
    A, B, pp, sp, ss = parts(H)
    N, P = B.shape
    shifted = pp - sigma * (sparse.identity(P, format="csr") if E is None else sparse.csr_matrix(E))
    M = sparse.bmat([[shifted, sp.T, -B.T], [sp, ss, A.T], [-B, A, None]], format="coo")
    node = host.concatenate([_nodes(B, sp), host.arange(N), host.arange(N)])
    members = sparse.csr_matrix((host.ones(P + 2 * N), (host.arange(P + 2 * N), node)))
    marks = sparse.csr_matrix((host.ones(M.nnz), (M.row, M.col)), shape=M.shape)
    # Zeros that are stored count: the unknowns of a node then have the same neighbours.
    alike = (members @ (members.T @ marks @ members) @ members.T).tocoo()
    both = (host.concatenate([getattr(M, i), getattr(alike, i)]) for i in ("row", "col"))
    values = host.concatenate([M.data, 0.0 * alike.data])
    found = sparse.coo_matrix((values, tuple(both)), shape=M.shape).tocsr()
    return H.backend.sparse.csr_matrix(found.astype(H.backend.dtype))


def _nodes(B: Any, sp: Any) -> Any:
    """The node of each parameter: the equation that it is largest in, else the state."""
    N, P = B.shape
    found = N + host.arange(P)  # one of its own where there is neither
    for coupling in (sp.tocoo(), B.tocoo()):
        order = host.lexsort((abs(coupling.data), coupling.col))
        found[coupling.col[order]] = coupling.row[order]  # the last of a column stays
    return found


def _blocks_of(H: ReducedCurvature, *shapes: tuple[int, int]) -> list[Any]:
    if not isinstance(H.K, BlockCurvature):
        raise unsuited("the curvature is known by its product only: give its blocks")
    return [
        sparse.csr_matrix(shape) if block is None else entries(block, "a block of the curvature")
        for block, shape in zip(H.K.blocks, shapes, strict=True)
    ]


def entries(op: Operator, name: str) -> Any:
    """The sparse matrix of an operator, on the host, or an `ArgumentError`."""
    array = op.array
    if not is_sparse(array):
        raise unsuited(f"{name} is not a sparse matrix")
    return sparse_on_host(array)


def unsuited(why: str) -> ArgumentError:
    """The error for a system that cannot be factorized."""
    return ArgumentError(
        f"the Lagrangian system cannot be factorized: {why}. For extreme eigenvalues without it, "
        "leave sigma out of mfdeq.eigsh"
    )


@dataclass(frozen=True)
class LagrangianSolver:
    """How the Lagrangian system is factorized on the arrays of one library.

    Attributes
    ----------
    shifted_inverse : type
        The subclass of `ShiftedInverse`.
    parts : callable
        ``parts(H)`` returns A, B and the blocks of K by their entries, or raises `ArgumentError`.
    entries : callable
        ``entries(op, name)`` returns the entries of one operator, or raises `ArgumentError`.
    """

    shifted_inverse: type[ShiftedInverse]
    parts: Callable[[ReducedCurvature], tuple[Any, ...]]
    entries: Callable[[Any, str], Any]


ON_HOST = LagrangianSolver(ShiftedInverse, parts, entries)
_of_libraries: dict[ArrayLibrary, LagrangianSolver] = {}


def register_solver(library: ArrayLibrary, solver: LagrangianSolver) -> None:
    """Factorize the systems on a library's arrays by a solver of its own."""
    _of_libraries[library] = solver


def solver_for(backend: Backend) -> LagrangianSolver:
    """Return the solver for the arrays of a backend."""
    return _of_libraries.get(backend.library, ON_HOST)
