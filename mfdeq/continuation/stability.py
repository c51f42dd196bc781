"""The eigenvalues that determine the stability of an equilibrium, and how many are unstable.

All eigenvalues of a small matrix are computed. Those of a larger one nearest to zero are found by
shift-invert Arnoldi, which does not show how many are unstable farther from zero. If A is symmetric
in some units, its inertia is that number. Otherwise Arnoldi's method for (A + a I)^-1, a > 0, finds
the others, by the Cayley transform: lambda has a negative real part if and only if

    mu = (lambda - a) / (lambda + a) = 1 - 2 a / (lambda + a)

is outside of the unit circle, and the eigenvalues mu farthest out are found first.

References
----------
K. A. Cliffe, T. J. Garratt and A. Spence, "Eigenvalues of block matrices arising from problems in
fluid mechanics", SIAM Journal on Matrix Analysis and Applications 15(4), 1994.

A. G. Salinger et al., "Bifurcation tracking algorithms and software for large scale applications",
International Journal of Bifurcation and Chaos 15(3), 2005.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from scipy import sparse
from scipy.linalg import matrix_balance

from ..arrays.backend import Array, array_on_host, host, is_dense, is_sparse
from ..arrays.sparse import sparse_on_host
from ..equilibrium.dynamics import dynamics_of
from ..errors import ArgumentError, ConvergenceError, SingularStateError
from ..linear import Reused
from ..linear.factor import Factor
from ..models.checked_linearization import CheckedLinearization
from ..operators.matrix_operator import Matrix
from ..operators.operator import Operator
from ..report import LinearCounts
from .inner_product import InnerProduct
from .symmetrized import Symmetrized, symmetrize

MAX_DENSE_SIZE = 200  # unknowns up to which all eigenvalues are computed
ROUNDINGS = 10.0  # of the norm of A: the error of its eigenvalues, for each
MIN_NEAREST, MAX_NEAREST = 4, 96  # eigenvalues nearest to zero that are computed
MAX_ARNOLDI_STEPS = 240
ARNOLDI_CHECKS = 40  # steps between checks of convergence
OUTSIDE_RTOL = 1e-7  # distance of a Ritz value from the unit circle at which it counts as outside
CONVERGED_SHARE = 0.1  # of that distance: the residual of a Ritz value that has converged


def computes_all(n: int, k: int) -> bool:
    """Return whether all n eigenvalues are computed if k are requested."""
    return n <= max(2 * k + 2, MAX_DENSE_SIZE)


@dataclass(frozen=True)
class Spectrum:
    """Eigenvalues at a point, and the margins by which they are stable.

    Attributes
    ----------
    values : (k,) array of complex, on the host
        Eigenvalues of A by increasing magnitude; for a map, those of J by decreasing magnitude.
    margins : (m,) array of float, ascending
        Negative for unstable eigenvalues: ± the real part, for a map 1 - |mu|. Those nearest to
        zero are among them.
    shifts : (m,) array of complex
        The eigenvalues of A to which the margins belong, up to positive factors.
    unstable : int or None
        The number of unstable eigenvalues, computed or not; None if it is not certain.
    """

    values: Any
    margins: Any
    shifts: Any
    unstable: int | None

    def _position(self, j: int) -> int:
        """Return the position of the margin that is the j-th of all, from the most unstable one."""
        assert self.unstable is not None
        return int((self.margins < 0.0).sum()) - self.unstable + j

    def level(self, j: int) -> float:
        """Return the j-th margin of all, from the most unstable one, or a value of its sign.

        It is a continuous function of the point, and zero where the number of unstable eigenvalues
        changes from j to j + 1 or back.
        """
        position, largest = self._position(j), float(abs(self.margins).max())
        if position < 0:
            return -largest
        return float(self.margins[position]) if position < self.margins.size else largest

    def shift_at(self, j: int) -> complex:
        """Return the eigenvalue of A at a level."""
        return complex(self.shifts[min(max(self._position(j), 0), self.shifts.size - 1)])


@dataclass
class Stability:
    """Computes the spectra of points.

    Parameters
    ----------
    solver : Reused
        Solves with A.
    k : int
        The number of eigenvalues that are requested.
    is_map : bool
    sign : {1, -1}
        -1 if a residual is stable where its eigenvalues have negative real parts.
    inner : InnerProduct
        Has the units of equations and unknowns.
    """

    solver: Reused
    k: int
    is_map: bool
    sign: int
    inner: InnerProduct

    @property
    def _balance(self) -> Any:
        """Diagonal E with which E^-1 A E is balanced: with R A C, E^2 = C R^-1.

        Eigenvalues in these units do not depend on those of the unknowns.
        """
        return (array_on_host(self.inner.columns) / array_on_host(self.inner.rows)) ** 0.5

    def spectrum(self, linearized: CheckedLinearization, counts: LinearCounts) -> Spectrum:
        """Compute the spectrum at a point, given its linearization."""
        A = dynamics_of(linearized)
        if computes_all(A.shape[0], self.k):
            return self._of_small(A)
        if not A.backend.library.on_host:
            raise ArgumentError(
                f"eigenvalues: expected a model on the host, or at most {MAX_DENSE_SIZE} unknowns, "
                f"got {A.shape[0]} unknowns with arrays of {A.backend.library_name}"
            )
        if self.is_map:
            return self._of_large_map(A)
        factor = self.solver.setup_for_equilibrium(A, counts)
        has_entries = is_sparse(A.array) or is_dense(A.array)
        symmetric = symmetrize(A.array) if has_entries else None
        if symmetric is not None:
            negative = symmetric.negative()
            if negative is not None:
                return self._of_symmetric(A, factor, symmetric, negative)
        return self._of_large(A, factor, counts)

    def _make(self, values: Any, unstable: Any, noise: float = 0.0) -> Spectrum:
        """Sort eigenvalues; the number of unstable ones is None if a margin may be rounding."""
        margins = 1.0 - abs(values) if self.is_map else self.sign * values.real
        order = host.argsort(margins, kind="stable")
        shifts = 1.0 - values if self.is_map else values
        if unstable is not None and (abs(margins) < noise).any():
            unstable = None
        outwards = -abs(values) if self.is_map else abs(values)
        values = values[host.argsort(outwards, kind="stable")]
        return Spectrum(values, margins[order], shifts[order], unstable)

    def _of_small(self, A: Operator) -> Spectrum:
        dense = array_on_host(A.toarray()).astype("float64")
        symmetric = None if self.is_map else symmetrize(dense)
        if symmetric is not None:
            form = symmetric.roots[:, None] * dense / symmetric.roots
            values = host.linalg.eigvalsh(0.5 * (form + form.T)).astype(complex)
            # In these units the small ones of a badly scaled matrix are accurate.
            margins = host.sort(self.sign * host.linalg.eigvalsh(symmetric.balanced.toarray()))
            values = values[host.argsort(abs(values), kind="stable")]
            unstable = int((margins < 0.0).sum())
            return Spectrum(values, margins, self.sign * margins.astype(complex), unstable)
        matrix = host.eye(dense.shape[0]) - dense if self.is_map else dense
        balanced = matrix_balance(matrix)[0]
        values = host.linalg.eigvals(balanced).astype(complex)
        noise = ROUNDINGS * A.backend.eps * float(host.linalg.norm(balanced, 2))
        margins = 1.0 - abs(values) if self.is_map else self.sign * values.real
        return self._make(values, int((margins < 0.0).sum()), noise)

    def _of_large_map(self, A: Operator) -> Spectrum:
        n, k = A.shape[0], self.k
        while True:
            values = _arpack(A, lambda x: x - A._apply(x), k, self._balance)
            unstable = int((abs(values) > 1.0).sum())
            if unstable < len(values):
                return self._make(values, unstable)
            if computes_all(n, 2 * k):
                return self._of_small(A)
            k *= 2

    def _of_symmetric(
        self, A: Operator, factor: Factor, symmetric: Symmetrized, negative: int
    ) -> Spectrum:
        values = _arpack(A, factor.solve, self.k, 1.0 / symmetric.roots, symmetric=True)
        unstable = negative if self.sign > 0 else A.shape[0] - negative
        return self._make((1.0 / values).astype(complex), unstable)

    def _of_large(self, A: Operator, factor: Factor, counts: LinearCounts) -> Spectrum:
        reach, count = self._reach(A), max(self.k, MIN_NEAREST)
        while True:
            nearest = 1.0 / _arpack(A, factor.solve, count, self._balance)
            radius = float(abs(nearest).max())
            if radius > reach or 2 * count > min(MAX_NEAREST, A.shape[0] // 3):
                break
            count *= 2
        unstable = int((self.sign * nearest.real < 0.0).sum())
        if radius > reach:
            return self._make(nearest, unstable)
        others = self._unstable_beyond(A, radius, counts)
        if others is None:
            return self._make(nearest, None)
        return self._make(host.concatenate([nearest, others]), unstable + len(others))

    def _reach(self, A: Operator) -> float:
        """Return a number above the magnitude of all unstable eigenvalues, infinity if unknown.

        The real part of an eigenvalue is one of the field of values of A, of its symmetric part;
        the imaginary part is one of its skew part. Gershgorin's circles bound both.
        """
        if not (is_sparse(A.array) or is_dense(A.array)):
            return math.inf
        E, ones = sparse.diags(self._balance), host.ones(A.shape[0])
        matrix = sparse.diags(1.0 / self._balance) @ sparse_on_host(A.array) @ E
        symmetric, skew = 0.5 * self.sign * (matrix + matrix.T), 0.5 * (matrix - matrix.T)
        diagonal = symmetric.diagonal()
        lowest = float((diagonal - (abs(symmetric) @ ones - abs(diagonal))).min())
        return math.hypot(min(lowest, 0.0), float((abs(skew) @ ones).max()))

    def _unstable_beyond(self, A: Operator, radius: float, counts: LinearCounts) -> Any:
        """Compute the unstable eigenvalues beyond a distance from zero; None if they are not known.

        All Ritz values outside of the unit circle must have converged.
        """
        if not (is_sparse(A.array) or is_dense(A.array)):
            return None
        n, a = A.shape[0], self.sign * radius
        identity = host.eye(n) if is_dense(A.array) else A.backend.sparse.eye(n, format="csr")
        shifted = Matrix(A.backend, A.array + A.backend.asarray(host.asarray(a)) * identity)
        try:
            factor = self.solver.solver.setup(shifted, counts)
            arnoldi = _Arnoldi(_balanced(factor.solve, self._balance, A), n)
            for steps in range(ARNOLDI_CHECKS, MAX_ARNOLDI_STEPS + 1, ARNOLDI_CHECKS):
                theta, residuals = arnoldi.ritz(min(steps, n))
                outside = abs(1.0 - 2.0 * a * theta) - 1.0
                wanted = outside > OUTSIDE_RTOL
                errors = 2.0 * abs(a) * residuals[wanted]
                if (errors <= CONVERGED_SHARE * outside[wanted]).all():
                    found = 1.0 / theta[wanted] - a
                    return found[abs(found) > (1.0 + 1e-6) * radius]
                if steps >= n:
                    break
        except (ConvergenceError, SingularStateError, ArgumentError, MemoryError):
            pass
        return None


class _Arnoldi:
    """Arnoldi's method without restarts, with reorthogonalization.

    W. E. Arnoldi, "The principle of minimized iterations in the solution of the matrix eigenvalue
    problem", Quarterly of Applied Mathematics 9, 1951.
    """

    def __init__(self, apply: Callable[[Any], Any], n: int) -> None:
        self.apply = apply
        start = host.random.default_rng(5).standard_normal(n)
        self.basis = [start / host.linalg.norm(start)]
        self.H = host.zeros((1, 0))

    def ritz(self, steps: int) -> tuple[Any, Any]:
        """Extend the basis to a number of steps, and return Ritz values and their residuals."""
        while self.H.shape[1] < steps and len(self.basis) > self.H.shape[1]:
            w = host.asarray(self.apply(self.basis[-1]), dtype="float64")
            V, size = host.stack(self.basis), host.linalg.norm(w)
            column = V @ w
            w = w - column @ V
            again = V @ w
            w, column = w - again @ V, column + again
            left = float(host.linalg.norm(w))
            H = host.zeros((self.H.shape[0] + 1, self.H.shape[1] + 1))
            H[:-1, :-1], H[:-1, -1], H[-1, -1] = self.H, column, left
            self.H = H
            if left > 1e-14 * size:
                self.basis.append(w / left)
        m = self.H.shape[1]
        theta, Y = host.linalg.eig(self.H[:m])
        last = float(self.H[m, m - 1]) if len(self.basis) > m else 0.0
        return theta, last * abs(Y[-1])


def _balanced(apply: Callable[[Array], Array], E: Any, A: Operator) -> Callable[[Any], Any]:
    """Return the product with E^-1 F E on the host, for an operator F of the size of A."""
    return lambda x: array_on_host(apply(A.backend.asarray(E * x.ravel()))) / E


def _arpack(
    A: Operator, apply: Callable[[Array], Array], k: int, E: Any, symmetric: bool = False
) -> Any:
    """Compute the k eigenvalues of largest magnitude of E^-1 F E, for an F of the size of A."""
    n, linalg = A.shape[0], A.backend.sparse_linalg
    start = host.random.default_rng(0).standard_normal(n)
    operator = linalg.LinearOperator((n, n), matvec=_balanced(apply, E, A), dtype="float64")
    method = linalg.eigsh if symmetric else linalg.eigs
    try:
        return method(operator, k, which="LM", v0=start, return_eigenvectors=False)
    except linalg.ArpackError as error:  # includes ArpackNoConvergence
        raise ConvergenceError(
            f"the eigenvalues at a point did not converge: {error}. Try another number of them"
        ) from error
