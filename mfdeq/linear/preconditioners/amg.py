"""Algebraic multigrid: PyAMG builds the hierarchy on the host, the cycle runs where A is."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from scipy import sparse

from ...arguments import count, one_of
from ...arrays.backend import (
    Array,
    Backend,
    array_on_host,
    check_block,
    host,
    is_dense,
    is_sparse,
)
from ...arrays.kernels import scale_rows
from ...arrays.memory import reserve
from ...arrays.seeding import seed_numpy
from ...arrays.sparse import sparse_on_host, stored_bytes
from ...errors import ArgumentError
from ...operators.dot_tests import is_symmetric
from ...operators.matrix_operator import Matrix
from ...operators.operator import Operator
from ..operands import matrix_of, operator_of
from ..protocols import Preconditioner, PreconditionerOperator
from ..scaling import Scaling
from .cycle import (
    Collapsed,
    Smoothed,
    collapsed,
    composed_smoother,
    damped_interval,
    largest_eigenvalue,
    v_cycle,
)
from .jacobi import inverse_block_diagonal, inverse_diagonal
from .unsmoothed import (
    Smoothing,
    eigenvalue_bound,
    scaled_diagonals,
    smoothing_of,
    unsmoothed,
)

MAX_COARSE = 400  # unknowns of a level that PyAMG does not coarsen further
# Couplings of coarse levels below this part of the diagonal do not make aggregates. In three
# dimensions all couplings together would: aggregates of forty points, too large to interpolate.
COARSE_STRENGTH = 0.03
MAX_DENSE_COARSE = 1500  # unknowns of a coarsest level with a dense inverse; larger ones have an LU
SMOOTHED = "smoothed_aggregation"
# Ratio to the next larger one of singular values of a coarsest matrix that is known to be singular,
# below which they are rounding: of entries in float32, for example.
MAX_ZERO_RATIO = 0.03
SHIFT = 1e-6  # relative to the diagonal, of one that has an LU
METHODS = (None, SMOOTHED, "ruge_stuben", "air")
LEVELS = (None, "float32", "float64")


@dataclass(frozen=True)
class AMG(Preconditioner):
    """One V-cycle of algebraic multigrid.

    Parameters
    ----------
    method : {None, "smoothed_aggregation", "ruge_stuben", "air"}, optional
        How the coarse levels are made. "smoothed_aggregation" suits diffusion and elasticity;
        "ruge_stuben" (classical multigrid) has coarse levels that stay stable under advection;
        "air" (approximate ideal restriction) is for advection with very little diffusion. None is
        "smoothed_aggregation" for a symmetric A, or if `near_nullspace` or `block_size` is passed,
        and "ruge_stuben" otherwise.
    degree : int, optional
        Degree of the Chebyshev smoother before and after each coarse correction. Degree 1 is damped
        Jacobi, which is multiplied into the transfers once. "air" ignores the degree: it relaxes by
        Jacobi on the fine and then on the coarse points.
    near_nullspace : (N,) or (N, m) array, optional
        Vectors that the coarse levels must represent, such as the rigid motions of elasticity. None
        is the constant vector. Only for smoothed aggregation.
    block_size : int, optional
        Number of unknowns per point, which must be numbered consecutively. They are aggregated
        together, and the smoother is block Jacobi. Only for smoothed aggregation.
    levels : {None, "float32", "float64"}, optional
        Precision of the cycle. float32 halves the memory that it reads, and is enough inside a
        float64 Krylov method that recomputes its residual. The cycle is then linear only to the
        rounding of float32, so that GMRES stores twice as many vectors. None is float32 for a
        symmetric A, and float64 otherwise or in an `mfdeq.FieldSplit`.

    Raises
    ------
    ArgumentError
        If a value is not one of those above, or options exclude each other.

    Notes
    -----
    Multigrid assumes that unknowns are in the same unit. Where they are not, let the model define
    `state_scale` and `residual_scale`: the hierarchy is then that of the matrix in these units.

    Levels in float32 are those of A divided by its largest diagonal entry, to avoid overflow.

    References
    ----------
    P. Vaněk, J. Mandel and M. Brezina, Algebraic multigrid by smoothed aggregation for second and
    fourth order elliptic problems, Computing 56 (1996).

    J. W. Ruge and K. Stüben, Algebraic multigrid, in: S. F. McCormick (ed.), Multigrid Methods,
    SIAM (1987).

    T. A. Manteuffel, S. Münzenmaier, J. Ruge and B. S. Southworth, Nonsymmetric reduction-based
    algebraic multigrid, SIAM J. Sci. Comput. 41 (2019).

    N. Bell, L. N. Olson, J. Schroder and B. S. Southworth, PyAMG: algebraic multigrid solvers in
    Python, J. Open Source Softw. 8 (2023).

    Examples
    --------
    The number of iterations is nearly independent of the size of a diffusion problem:

    >>> import mfdeq, numpy as np, scipy.sparse as sp
    >>> T = sp.diags([-1.0, 2.0, -1.0], [-1, 0, 1], shape=(40, 40))
    >>> A = sp.kronsum(T, T).tocsr()
    >>> factor = mfdeq.Krylov("cg", preconditioner=mfdeq.AMG()).setup(A)
    >>> x = factor.solve(np.ones(1600))
    >>> bool(np.linalg.norm(A @ x - 1) < 1e-8), factor.counts.iterations < 20
    (True, True)
    """

    method: str | None = None
    degree: int = 1
    near_nullspace: Any = None
    block_size: int = 1
    levels: str | None = None

    follows_scale = True
    suits_singular = True
    # With so few iterations, a search space shared by columns costs more than it saves.
    columns_per_space = 1

    def __post_init__(self) -> None:
        one_of(self.method, METHODS, "method of mfdeq.AMG")
        one_of(self.levels, LEVELS, "levels of mfdeq.AMG")
        count(self.degree, "degree of mfdeq.AMG")
        count(self.block_size, "block_size of mfdeq.AMG")
        if self.method in ("ruge_stuben", "air"):
            if self.near_nullspace is not None:
                raise ArgumentError(
                    f"near_nullspace is for smoothed aggregation, not {self.method}"
                )
            if self.block_size != 1:
                raise ArgumentError(f"block_size is for smoothed aggregation, not {self.method}")

    @property
    def description(self) -> str:
        """The name in reports: AMG, with the method if one was passed."""
        return f"AMG ({self.method})" if self.method else "AMG"

    @property
    def never_symmetric(self) -> bool:
        """Whether the cycle is not symmetric even if A is: True for "air"."""
        return self.method == "air"

    def linear(self) -> AMG:
        """Return this description, with levels in float64 unless it says otherwise."""
        return self if self.levels else replace(self, levels="float64")

    def method_for(self, symmetric: bool) -> str:
        """Return the method, by default one that suits the symmetry of A."""
        systems = self.near_nullspace is not None or self.block_size > 1
        chosen = SMOOTHED if symmetric or systems else "ruge_stuben"
        return self.method or chosen

    def setup(self, A: Operator) -> PreconditionerOperator:
        """Build the hierarchy for A.

        Raises
        ------
        ArgumentError
            If A is dense or only products with it are available, if its diagonal has a zero, or if
            it does not fit the options.
        """
        A = operator_of(A)
        array = matrix_of(A, "mfdeq.AMG()")
        if not is_sparse(array):
            raise ArgumentError("mfdeq.AMG() needs a sparse A; for a dense one use mfdeq.Direct()")
        inverse_diagonal(A.backend, array, "mfdeq.AMG()")  # PyAMG would only warn about zeros
        if A.shape[0] % self.block_size:
            raise ArgumentError(
                f"block_size {self.block_size} of mfdeq.AMG does not divide N = {A.shape[0]}"
            )
        if (B := self.near_nullspace) is not None:
            B = Backend.of(B).check_array(B, None, "near_nullspace of mfdeq.AMG", ArgumentError)
            check_block(B, Backend.of(B), A.shape[0], "near_nullspace of mfdeq.AMG")
            if not bool(Backend.of(B).xp.all(Backend.of(B).column_norms(B) > 0)):
                raise ArgumentError("near_nullspace of mfdeq.AMG has a column of zeros")
        scaling = Scaling.from_scales(A)
        options = self
        if B is None and A.null_space is not None and self.method_for(is_symmetric(A)) == SMOOTHED:
            B = A.null_space.candidates()
            options = replace(self, near_nullspace=B)
        if scaling.rows is None:
            return _Cycle(A, array, options)
        # In the model's own units, the errors that relaxation leaves are smooth.
        scaled = Matrix(A.backend, scaling.apply(array))
        scaled.null_space = A.null_space
        if B is not None:
            options = replace(options, near_nullspace=_in_units(scaling, B))
        return _RescaledCycle(A, _Cycle(scaled, scaled.array, options), scaling)


def _in_units(scaling: Scaling, B: Array) -> Array:
    """Return vectors of unknowns in the units of R A C."""
    assert scaling.columns is not None
    return scale_rows(Backend.of(B).xp.asarray(1.0 / scaling.columns, dtype=B.dtype), B)


class _RescaledCycle(PreconditionerOperator):
    """A V-cycle for R A C in place of the inverse of A."""

    def __init__(self, A: Operator, cycle: _Cycle, scaling: Scaling) -> None:
        super().__init__(A, A.shape)
        self.cycle, self.scaling = cycle, scaling
        self.description, self.flexible = cycle.description, cycle.flexible
        self.linear_alternative = cycle.linear_alternative

    @property
    def nbytes(self) -> int:
        """Bytes of the levels."""
        return self.cycle.nbytes

    @property
    def row_growth(self) -> float:
        """Entries per row of the first coarse level, over those of A."""
        return self.cycle.row_growth

    def application_cost(self, product_entry: float, triangular_entry: float) -> float:
        """Estimate the cost of a cycle."""
        return self.cycle.application_cost(product_entry, triangular_entry)

    def refresh(self, A: Operator) -> bool:
        """Become the cycle of another matrix in its own scales, with the same transfers."""
        scaling = Scaling.from_scales(A)
        matrix = scaling.apply(matrix_of(A, "mfdeq.AMG()"))
        cycle, scaled = copy.copy(self.cycle), Matrix(A.backend, matrix)
        scaled.null_space = A.null_space
        if not cycle.refresh(scaled):
            return False
        self.cycle, self.scaling = cycle, scaling
        return True

    def _apply(self, x: Array) -> Array:
        return self.scaling.solve(self._cycle, x, False)

    def _apply_adjoint(self, y: Array) -> Array:
        return self.scaling.solve(self._cycle, y, True)

    def _cycle(self, x: Array, adjoint: bool) -> Array:
        return self.cycle._apply_adjoint(x) if adjoint else self.cycle._apply(x)


class _Cycle(PreconditionerOperator):
    """One V-cycle for A in place of its inverse.

    It is `flexible` if it computes in float32 for a float64 A.
    """

    linear_alternative = "mfdeq.AMG(levels='float64')"

    def __init__(self, A: Operator, matrix: Any, options: AMG) -> None:
        super().__init__(A, A.shape)
        xp = self.backend.xp
        self.description = options.description
        self.options, self.symmetric = options, is_symmetric(A)
        asked = options.levels or ("float32" if self.symmetric else "float64")
        self.flexible = asked == "float32" and self.dtype == xp.float64
        self._inner = replace(self.backend, dtype=xp.float32) if self.flexible else self.backend
        fine = sparse_on_host(matrix).astype("float64")
        self._scale = float(abs(fine.diagonal()).max())
        with seed_numpy():  # PyAMG draws from numpy's global random generator.
            built = _hierarchy(fine / self._scale, options, self.symmetric).levels
        reserve(
            self.backend,
            sum(level.A.nnz for level in built) * self._inner.itemsize / self.backend.itemsize,
            "a multigrid hierarchy",
            "use mfdeq.AMG(levels='float32'), or a smaller problem",
        )
        self.levels: list[Any] = []
        self.transfers: list[Any] = []
        for level in built[:-1]:
            self._add_level(level)
        rows = [level.A.nnz / level.A.shape[0] for level in built[:2]]
        self.row_growth = rows[1] / rows[0] if len(built) > 2 else 1.0
        self._finish(built[-1].A, A)

    def _add_level(self, level: Any) -> None:
        """Add a level of PyAMG, and what another matrix needs of it: P, and R unless it is P'."""
        A, P, R, size, splitting = _parts(level)
        scaled = scaled_diagonals(self._inner, A) if self._smooths_constants else None
        if scaled is not None:
            bound = eigenvalue_bound(A)
            smoothing = smoothing_of(A, level.T, P, bound)
            if smoothing is not None:
                found = unsmoothed(self._inner, A, scaled, smoothing, bound)
                self.levels.append(_on_device(self._inner, found))
                self.transfers.append(smoothing)
                return
        self.levels.append(_level(self._inner, self.options, A, P, R, size, splitting))
        transposed = self.symmetric or not self._smooths
        P, R = (self.backend.sparse.csr_matrix(part.astype(self._inner.dtype)) for part in (P, R))
        self.transfers.append((P, None if transposed else R))

    @property
    def _smooths(self) -> bool:
        return self.options.method_for(self.symmetric) == SMOOTHED

    @property
    def _smooths_constants(self) -> bool:
        """Return whether levels may be `Unsmoothed`."""
        options = self.options
        return self.symmetric and self._smooths and options.degree == 1 and options.block_size == 1

    def _finish(self, coarsest: Any, A: Operator) -> None:
        nullity = 0 if A.null_space is None else A.null_space.left.shape[1]
        self.coarse = _inverse(self._inner, coarsest, nullity)
        cycle = _replayed(self._inner, self.levels, self.coarse)
        # The cycle of a symmetric A is symmetric, unless the smoother visits points in one order.
        if self.symmetric and self.options.method != "air":
            self._cycles = cycle, cycle
        else:
            transposed = [level.T for level in self.levels]
            self._cycles = cycle, _replayed(self._inner, transposed, self.coarse.T)

    def refresh(self, A: Operator) -> bool:
        """Become the cycle of another matrix, with the same transfers.

        The aggregates stay the same, and only the coarsest matrix leaves the device. False if the
        symmetry of A has changed, or if the transfers depend on the entries, as with "air" and
        with blocks.
        """
        options, backend = self.options, self.backend
        array = matrix_of(A, "mfdeq.AMG()")
        if options.method == "air" or options.block_size > 1 or is_symmetric(A) != self.symmetric:
            return False
        inverse_diagonal(backend, array, "mfdeq.AMG()")
        scale = float(backend.xp.max(backend.xp.abs(array.diagonal())))
        matrix, levels = array.tocsr() / scale, []
        for transfers in self.transfers:
            scaled = None
            if isinstance(transfers, Smoothing):
                bound = eigenvalue_bound(matrix)
                P = transfers.prolongation(matrix, bound)
                R = P.T.tocsr()
                scaled = scaled_diagonals(self._inner, matrix)
            else:
                P = transfers[0].astype(matrix.dtype)
                R = P.T.tocsr() if transfers[1] is None else transfers[1].astype(matrix.dtype)
            if scaled is None:
                levels.append(_level(self._inner, options, matrix, P, R))
            else:
                level = unsmoothed(self._inner, matrix, scaled, transfers, bound)
                levels.append(_on_device(self._inner, level))
            matrix = R @ (matrix @ P)
        # Assigned last, so that the old cycle survives a failure (of memory, say).
        self._scale, self.levels = scale, levels
        self._finish(sparse_on_host(matrix), A)
        return True

    @property
    def nbytes(self) -> int:
        """Bytes of the levels and their transfers."""
        parts = [part for level in self.levels for part in vars(level).values()]
        for transfers in self.transfers:
            parts += [transfers.T] if isinstance(transfers, Smoothing) else list(transfers)
        return sum(stored_bytes(part) for part in [*parts, self.coarse])

    def _apply(self, x: Array) -> Array:
        return self._cycle(self._cycles[0], x)

    def _apply_adjoint(self, y: Array) -> Array:
        return self._cycle(self._cycles[1], y)

    def _cycle(self, cycle: Callable[[Array], Array], b: Array) -> Array:
        xp, converted = self.backend.xp, self.backend.kernels.converted
        x = cycle(converted(xp, b, self._inner.dtype))
        return converted(xp, x, self.dtype, self._scale)


def _replayed(backend: Backend, levels: list[Any], coarse: Any) -> Callable[[Array], Array]:
    def cycle(b: Array) -> Array:
        return v_cycle(levels, coarse, b)

    # Solves with an LU wait for the host, so they cannot be captured and replayed.
    launches_only = not isinstance(coarse, _FactoredInverse)
    return backend.kernels.capture_launches(cycle) if launches_only else cycle


def _hierarchy(matrix: Any, options: AMG, symmetric: bool) -> Any:
    import pyamg

    method = options.method_for(symmetric)
    if method == "ruge_stuben":
        return pyamg.ruge_stuben_solver(matrix, max_coarse=MAX_COARSE)
    if method == "air":
        return pyamg.air_solver(matrix, max_coarse=MAX_COARSE)
    size, B = options.block_size, options.near_nullspace
    return pyamg.smoothed_aggregation_solver(
        matrix.tobsr((size, size)) if size > 1 else matrix,
        B=array_on_host(B) if is_dense(B) else B,
        symmetry="hermitian" if symmetric else "nonsymmetric",
        strength=[("symmetric", {"theta": theta}) for theta in (0.0, COARSE_STRENGTH)],
        improve_candidates=None,
        max_coarse=MAX_COARSE,
        keep=True,
    )


def air_complexity(A: Operator) -> float:
    """Predict the entries of the levels of AMG("air") for A, over those of A.

    The first coarse level is made. Those below are expected to have as many fewer unknowns, and
    rows that grow as much, up to dense ones.
    """
    import pyamg

    matrix = sparse_on_host(matrix_of(A, "mfdeq.AMG()")).astype("float64")
    with seed_numpy():
        built = pyamg.air_solver(matrix, max_coarse=MAX_COARSE, max_levels=2).levels
    sizes = [level.A.shape[0] for level in built]
    rows = [level.A.nnz / size for level, size in zip(built, sizes, strict=True)]
    if len(built) < 2:
        return 1.0
    share, growth = sizes[1] / sizes[0], rows[1] / rows[0]
    entries, size, row = 0.0, float(sizes[0]), rows[0]
    while size > MAX_COARSE and share < 1.0:
        entries += size * min(row, size)
        size, row = share * size, growth * row
    return entries / built[0].A.nnz if share < 1.0 else math.inf


def _parts(level: Any) -> tuple[Any, ...]:
    """Return A, P and R of a level of PyAMG, the block size of A, and which points are coarse."""
    size = level.A.blocksize[0] if level.A.format == "bsr" else 1
    A, P, R = (part.tocsr() for part in (level.A, level.P, level.R))
    return A, P, R, size, getattr(level, "splitting", None)


def _level(
    backend: Backend, options: AMG, A: Any, P: Any, R: Any, size: int = 1, splitting: Any = None
) -> Collapsed | Smoothed:
    """Build a level of the cycle with its smoother, on the device and in the dtype of `backend`."""
    here = Backend.of(A.data)
    if options.method == "air":
        diagonal = A.diagonal()
        coarse, fine = (
            here.sparse.diags(points / diagonal).tocsr() for points in (splitting, ~splitting)
        )
        return _on_device(
            backend, collapsed(A, P, R, None, composed_smoother(A, [fine, fine, coarse]))
        )
    inverse = inverse_block_diagonal(A, size if options.block_size > 1 else 1)
    largest = largest_eigenvalue(here, A, inverse)
    if options.degree == 1:
        S = inverse / damped_interval(largest)[0]
        return _on_device(backend, collapsed(A, P, R, S, S))
    D = inverse if options.block_size > 1 else inverse.diagonal()
    kernels = backend.kernels
    return _on_device(backend, Smoothed(kernels, A, P, R, D, largest, options.degree))


def _on_device(backend: Backend, level: Any) -> Any:
    """Move the matrices of a level to the device of A, in the precision of the cycle."""
    moved = {
        name: backend.kernels.products(
            backend.sparse.csr_matrix(part.tocsr().astype(backend.dtype))
        )
        if is_sparse(part)
        else backend.from_host(part)
        for name, part in vars(level).items()
        if is_sparse(part) or is_dense(part)
    }
    return replace(level, **moved)


def _inverse(backend: Backend, matrix: Any, nullity: int) -> Any:
    """Return the (pseudo)inverse of the coarsest matrix, or an LU that replaces it if large.

    Up to `nullity` singular values are taken for zero. The LU is that of a shifted matrix then.
    """
    if matrix.shape[0] <= MAX_DENSE_COARSE:
        inverse = _pseudo_inverse(matrix.toarray(), nullity)
        return backend.kernels.capturable_matrix(backend.from_host(inverse))
    if nullity:
        matrix = matrix + SHIFT * sparse.diags(abs(matrix.diagonal()))
    return _FactoredInverse(
        backend.sparse_linalg.splu(backend.sparse.csc_matrix(matrix.tocsc().astype(backend.dtype)))
    )


def _pseudo_inverse(dense: Any, nullity: int) -> Any:
    if nullity == 0:
        return host.linalg.pinv(dense)
    sizes = abs(dense.diagonal()) ** 0.5
    sizes[sizes == 0.0] = 1.0
    left, sigma, right = host.linalg.svd(dense / sizes[:, None] / sizes)
    zero = sigma <= MAX_ZERO_RATIO * sigma[max(sigma.size - nullity - 1, 0)]
    zero[:-nullity] = False
    inverse = host.where(zero, 0.0, 1.0 / host.where(zero, 1.0, sigma))
    return (right.T * inverse) @ left.T / sizes[:, None] / sizes


@dataclass(frozen=True)
class _FactoredInverse:
    """The inverse of a sparse matrix, whose products are solves with an LU."""

    lu: Any
    transposed: bool = False

    @property
    def T(self) -> _FactoredInverse:
        return replace(self, transposed=not self.transposed)

    def __matmul__(self, b: Array) -> Array:
        return self.lu.solve(b, "T" if self.transposed else "N")
