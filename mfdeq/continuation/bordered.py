"""Where the bordered matrix M of `curve` is singular, and how many null vectors it has there.

With m vectors in the columns of B and of C, near the left and the right singular vectors of M for
its smallest singular values, the m x m matrix

    G(s) = (C' M^-1 B)^-1

has as many zero eigenvalues at s as M has null vectors, however many become zero together. Between
two points G is nearly linear, and the roots of det (G0 + x (G1 - G0)) in 0 < x < 1 predict where
another branch crosses. There must be more vectors than singular values that can become zero within
the step: they are added until the largest of the singular values is above the change of G.

All of these are in the units of `inner_product`.

References
----------
W. Govaerts, Numerical Methods for Bifurcations of Dynamical Equilibria, SIAM (2000), for borders
of several columns.

A. Ruhe, "Algorithms for the nonlinear eigenvalue problem", SIAM Journal on Numerical Analysis
10(4), 1973, for the method of successive linear problems.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from scipy.linalg import eigvals

from ..arrays.backend import Array, host
from ..errors import ConvergenceError
from .curve import Curve
from .point import Point

MIN_VECTORS, MAX_VECTORS = 2, 32
SPARE_VECTORS = 2  # in addition, which let other singular vectors come in
FIRST_SEED = 100  # of the random parts of the spare vectors
FIRST_ITERATIONS = 3  # of block inverse iteration, for vectors that are random
UPDATE_RTOL = 1e-3  # of solves for the vectors; those for G are as accurate as the solver allows
CHANGE_FACTOR = 1.5  # of the change of G within a step: what the largest singular value must exceed

Vector = tuple[Array, float]  # (h, t)


class Borders:
    """The vectors B and C of a curve, and G with them.

    Parameters
    ----------
    curve : Curve
    """

    def __init__(self, curve: Curve) -> None:
        self.curve, self.backend, self.inner = curve, curve.backend, curve.inner
        self._begin()

    def _begin(self) -> None:
        self.left: list[Vector] = self._random(MIN_VECTORS + SPARE_VECTORS, 11)
        self.right: list[Vector] = []
        self._across: Vector = (self.left[0][0], 1.0)
        self._needed, self._updates = MIN_VECTORS, 0

    @property
    def memory(self) -> dict[str, Any]:
        """B, for a checkpoint."""
        return {"left": self.left, "needed": self._needed, "updates": self._updates}

    def resume(self, memory: dict[str, Any]) -> None:
        """Restore B from a checkpoint."""
        put, size = self.backend.from_host, self.curve.size
        self.left = [(put(h, size), float(t)) for h, t in memory["left"]]
        self.right = self.left
        self._needed, self._updates = int(memory["needed"]), int(memory["updates"])

    def between(self, here: Point, there: Point, across: Point) -> tuple[Any, Any]:
        """Move B and C to the singular vectors at `there`, and return G at both points.

        The last row of M is the tangent at `across`, which is not that of a crossing nearby: the
        tangent there is not accurate.
        """
        self._across = self.inner.weights * across.tangent, across.slope
        for _ in range(1 if self._updates else FIRST_ITERATIONS):
            singular, at_there = self._update(there)
        while True:
            ends = self.matrix(here), at_there
            change = CHANGE_FACTOR * float(host.linalg.norm(ends[1] - ends[0], 2))
            count = len(singular)
            needed = int((singular <= change).sum()) + 1
            if needed + SPARE_VECTORS <= count or count >= min(self.curve.size + 1, MAX_VECTORS):
                break
            self.left += self._random(count, 51)
            for _ in range(FIRST_ITERATIONS):
                singular, at_there = self._update(there)
        self._needed = max(MIN_VECTORS, needed)
        return ends

    def trim(self) -> None:
        """Drop the vectors that the last step did not need."""
        count = self._needed + SPARE_VECTORS
        self.left, self.right = self.left[:count], self.right[:count]

    def matrix(self, point: Point) -> Any:
        """Compute G at a point, on the host."""
        return _inverse(self._products(self.right, self._solve(point, self.left)))

    def null_vectors(self, point: Point, count: int) -> tuple[list[Vector], list[Array]]:
        """Compute right null vectors of M beside a crossing, and left ones of [A, -B d]."""
        self._across = self.inner.weights * point.tangent, point.slope
        missing = count + SPARE_VECTORS - len(self.left)
        self.left += self._random(max(0, missing), 51)
        for _ in range(FIRST_ITERATIONS):
            self._update(point)
        inner = self.inner
        right = [(h * inner.columns, t * inner.unit) for h, t in self.right[:count]]
        return right, [h / inner.rows for h, _ in self.left[:count]]

    def _update(self, point: Point) -> tuple[Any, Any]:
        """Take a step of block inverse iteration; return the singular values, ascending, and G.

        New random parts join the spare vectors first: what is left of other singular vectors after
        many steps may be too little, and none by symmetry. The same random part each time would
        bring in only one direction of a null space.
        """
        left = list(self.left[: self.curve.size + 1])
        self._updates += 1
        random = self._random(SPARE_VECTORS, FIRST_SEED + SPARE_VECTORS * self._updates)
        for j, (h, t) in enumerate(random[: len(left)], start=len(left) - len(random)):
            left[j] = left[j][0] + h, left[j][1] + t
        left, _ = self._orthonormal(left)
        Y, R = self._orthonormal(self._solve(point, left, UPDATE_RTOL))
        self.right = _combine(Y, host.linalg.svd(R)[0])
        Z, R = self._orthonormal(self._solve_adjoint(point, self.right))
        U, growth, _ = host.linalg.svd(R)
        self.left = _combine(Z, U)
        return 1.0 / growth, _inverse(R.T @ U)  # C' M^-1 B = (M'^-1 C)' B = R' Z' B

    def _solve(
        self, point: Point, sides: Sequence[Vector], rtol: float | None = None
    ) -> list[Vector]:
        """Solve with M at a point."""
        curve, inner, xp = self.curve, self.inner, self.backend.xp
        linearized = curve.linearized(point)
        *U, a = curve.solve_linear(
            linearized, *(h / inner.rows for h, _ in sides), linearized.B._apply(curve.d), rtol=rtol
        )
        k, tau = self._across
        along = float(xp.vecdot(k, a)) + tau
        solutions = []
        for u, (_, t) in zip(U, sides, strict=True):
            dt = (t * inner.unit - float(xp.vecdot(k, u))) / along
            solutions.append(((u + dt * a) / inner.columns, dt / inner.unit))
        return solutions

    def _solve_adjoint(self, point: Point, sides: Sequence[Vector]) -> list[Vector]:
        """Solve with M' at a point."""
        curve, inner, xp = self.curve, self.inner, self.backend.xp
        linearized = curve.linearized(point)
        k, tau = self._across
        *P, p = curve.solve_linear(
            linearized, *(h / inner.columns for h, _ in sides), k, adjoint=True
        )
        Bd = linearized.B._apply(curve.d)
        along = tau + float(xp.vecdot(Bd, p))
        solutions = []
        for y, (_, t) in zip(P, sides, strict=True):
            z = (t / inner.unit + float(xp.vecdot(Bd, y))) / along
            solutions.append(((y - z * p) / inner.rows, z * inner.unit))
        return solutions

    def _random(self, count: int, seed: int) -> list[Vector]:
        """Return vectors of about unit length; t of the first is its mean size."""
        backend, n = self.backend, self.curve.size
        share = 1.0 / math.sqrt(n)
        return [(share * backend.random(n, seed=seed + j), share) for j in range(count)]

    def _orthonormal(self, vectors: Sequence[Vector]) -> tuple[list[Vector], Any]:
        """Return the factors Q and R of a block, by the modified Gram-Schmidt method, twice."""
        count = len(vectors)
        Q: list[Vector] = []
        R = host.zeros((count, count))
        for j, (h, t) in enumerate(vectors):
            for _ in range(2):
                for i, (q, u) in enumerate(Q):
                    along = self._dot((q, u), (h, t))
                    h, t = h - along * q, t - along * u
                    R[i, j] += along
            R[j, j] = length = math.hypot(self.backend.norm(h), t)
            if not 0.0 < length < math.inf:
                raise ConvergenceError("the borders of a test for crossings depend on each other")
            Q.append((h / length, t / length))
        return Q, R

    def _products(self, X: Sequence[Vector], Y: Sequence[Vector]) -> Any:
        return host.asarray([[self._dot(x, y) for y in Y] for x in X])

    def _dot(self, x: Vector, y: Vector) -> float:
        return float(self.backend.xp.vecdot(x[0], y[0])) + x[1] * y[1]


def _combine(vectors: Sequence[Vector], coefficients: Any) -> list[Vector]:
    """Return the products of a block with the columns of a matrix."""
    combined = []
    for column in coefficients.T.tolist():
        h, t = 0.0 * vectors[0][0], 0.0
        for x, (k, u) in zip(column, vectors, strict=True):
            h, t = h + x * k, t + x * u
        combined.append((h, t))
    return combined


def _inverse(matrix: Any) -> Any:
    try:
        return host.linalg.inv(matrix)
    except host.linalg.LinAlgError as error:
        raise ConvergenceError("the bordered matrix of a test for crossings is singular") from error


def predicted_roots(G0: Any, G1: Any) -> Any:
    """Return the finite x at which G0 + x (G1 - G0) is singular, complex in general."""
    with host.errstate(divide="ignore", invalid="ignore"):
        roots = eigvals(G0, G0 - G1)
    return roots[host.isfinite(roots)]
