"""The other way to the same Hessian: solves with H - sigma I by the Lagrangian system.

With C = [-B, A], C T = 0, and E the identity on the parameter block,

    (H - sigma I) x = b   <=>   [[K - sigma E, C'], [C, 0]] (x, y; nu) = (b, 0; 0),   y = Z x.

H is dense and never formed; this matrix of size P + 2N is sparse wherever K, A and B are. Its
inertia is that of H - sigma I and (N, N, 0): the number of eigenvalues of H below sigma.

The ordering decides everything. The theta_i, h_i and nu_i of a node stay together, and nodes are
ordered by nested dissection of their graph: no separator parts a constraint from what it
constrains, and what is inside of a front is a Lagrangian system itself, regular with A's blocks.
"""

from __future__ import annotations

import functools
import importlib
from typing import TYPE_CHECKING, Any

from .arguments import real
from .arrays import Array, host, is_sparse, sparse_on_host
from .curvature import BlockCurvature
from .errors import ArgumentError, ConvergenceError, SingularStateError
from .linear.multifrontal import Multifrontal
from .linear.scaling import Scaling
from .operators import Operator, SelfAdjoint

if TYPE_CHECKING:
    from .hessian import Reduced

REFINEMENTS = 6  # of a solve, at most
ACCURATE = 1e-10  # relative residual of the system that a solve is refined to, or to stagnation
ENOUGH = 1e-6  # and with which it is let through
# Of a solve without refinement for a random b. There is no pivoting between fronts: the factors are
# those of a matrix that is off by about that share of the distance to a singular one, since
# |x| ~ |b| / that distance. Refinement still converges, and the signs of the pivots are right.
REFINABLE, BELIEVED = 1e-2, 1e-3


class ShiftedInverse(SelfAdjoint):
    """(H - sigma I)^-1, (P, P), by one factorization of the Lagrangian system.

    Parameters
    ----------
    H : Reduced
        With A, B and the blocks of K as sparse matrices.
    sigma : float

    Raises
    ------
    ArgumentError
        If something is known by its products only, or the graph has no small separators.
    SingularStateError
        If the system is singular: sigma is an eigenvalue.
    """

    def __init__(self, H: Reduced, sigma: float = 0.0) -> None:
        super().__init__(H, H.shape)
        self.sigma = real(sigma, "sigma")
        self.system = _system(H, self.sigma)
        self.scaling = Scaling.of(self.system)
        scaled = self.scaling.applied(self.system)
        try:
            self.factors = Multifrontal(scaled, H.backend, symmetric=True)
        except ArithmeticError as error:
            if "singular" not in str(error):
                raise _unsuited(str(error)) from error
            raise _on_an_eigenvalue(self.sigma, "a pivot is zero") from error
        b = H.backend.random(self.system.shape[0], seed=5)
        off = H.backend.norm(b - scaled @ self.factors.solve(b)) / H.backend.norm(b)
        if not off <= REFINABLE:
            raise _on_an_eigenvalue(self.sigma, f"a solve leaves {off:.0e}")
        self._believed = off <= BELIEVED

    @functools.cached_property
    def below(self) -> int | None:
        """The number of eigenvalues of H below sigma; None where the pivots' signs may be wrong."""
        negative = self.factors.negative_pivots() if self._believed else None
        return None if negative is None else negative - (self.system.shape[0] - self.shape[0]) // 2

    def _apply(self, x: Array) -> Array:
        backend, xp = self.backend, self.backend.xp
        rest = backend.zeros(self.system.shape[0] - x.shape[0], *x.shape[1:])
        b = xp.concat([x, rest], axis=0)
        size = backend.column_norms(b)
        found, left, before = 0.0 * b, b, float("inf")
        for _ in range(REFINEMENTS + 1):
            found = found + self.scaling.solve(self.factors.solve, left, False)
            left = b - self.system @ found
            off = backend.column_norms(left)
            worst = float(xp.max(off / xp.where(size > 0, size, xp.ones_like(size))))
            if worst <= ACCURATE or not worst < 0.5 * before:
                break
            before = worst
        if not worst <= ENOUGH:
            raise ConvergenceError(
                f"a solve with H - {self.sigma:g} I stopped at a relative residual of {worst:.1e} "
                "of the Lagrangian system: sigma is too near an eigenvalue, or A nearly singular",
                best=found[: x.shape[0], ...],
            )
        return found[: x.shape[0], ...]


def _system(H: Reduced, sigma: float) -> Any:
    """The matrix, its pattern that of the nodes' graph."""
    sparse = importlib.import_module("scipy.sparse")
    A, B = _entries(H.eq.state_operator, "A"), _entries(H.eq.param_operator, "B")
    N, P = B.shape
    pp, sp, ss = _blocks_of(H, (P, P), (N, P), (N, N))
    shifted = pp - sigma * sparse.identity(P, format="csr")
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


def _blocks_of(H: Reduced, *shapes: tuple[int, int]) -> list[Any]:
    sparse = importlib.import_module("scipy.sparse")
    if not isinstance(H.K, BlockCurvature):
        raise _unsuited("the curvature is known by its product only: give its blocks")
    return [
        sparse.csr_matrix(shape) if block is None else _entries(block, "a block of the curvature")
        for block, shape in zip(H.K.blocks, shapes, strict=True)
    ]


def _entries(op: Operator, name: str) -> Any:
    """The sparse matrix of an operator, on the host."""
    array = getattr(op, "array", None)
    if not is_sparse(array):
        raise _unsuited(f"{name} is not a sparse matrix")
    return sparse_on_host(array)


def _on_an_eigenvalue(sigma: float, how: str) -> SingularStateError:
    return SingularStateError(
        f"H - {sigma:g} I is singular to working precision ({how} in the Lagrangian system): "
        "sigma is an eigenvalue of H, as zero is of a Hessian that the data do not determine, or "
        "of a part of it. Move sigma a little to one side",
        digits=0.0,
    )


def _unsuited(why: str) -> ArgumentError:
    return ArgumentError(
        f"the Lagrangian system cannot be factorized: {why}. For extreme eigenvalues without it, "
        "leave sigma out of mfdeq.eigsh"
    )
