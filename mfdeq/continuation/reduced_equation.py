"""The equation of the branches through a crossing, on the kernel of the linearized equations.

Let m eigenvalues become zero at the crossing x0 = (h0, t0). The kernel of [A, -B d] there has an
orthonormal basis Phi of m + 1 vectors, the tangent and the null vectors of the matrix M of `curve`;
let Psi be the m left null vectors. For coordinates a in the kernel,

    R(x) + Psi g = 0,    Phi' (x - x0) = a

determine x(a) and g(a), and the branches through x0 are the zeros of g: m equations for m + 1
unknowns (Lyapunov-Schmidt reduction). One factor of A beside the crossing serves all of them. On a
small sphere |a| = r both sides of a branch are isolated zeros, and Newton's method looks for them
from many starts.

Between branches that symmetry makes similar, g is nearly zero, by a high power of r. Zeros that are
not isolated to rounding are called blurred, and need a larger sphere; where x(a) cannot be computed
the sphere must be smaller.

References
----------
M. Golubitsky and D. G. Schaeffer, Singularities and Groups in Bifurcation Theory, Volume I,
Springer (1985).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ..arrays.backend import Array, host
from ..errors import is_evaluation_failure
from ..locks import ignore_warnings
from .bordered import Vector
from .curve import Curve
from .point import Point

MAX_REDUCTION_STEPS = 25  # of the iteration for x(a)
REDUCTION_RTOL = 1e-13  # of its last step, relative to the radius, if that can be reached
MAX_REDUCTION_ERROR = 1e-8  # of its last step, if it cannot
MAX_DISTANCE = 2.0  # of x(a) from Phi a, relative to the radius
MAX_BLOCK = 1 << 16  # numbers in a block of right-hand sides, if it has several columns

STARTS = 12  # of Newton's method in one round, for each dimension
MAX_ROUNDS = 8  # each but the last has found a new branch
MAX_NEWTON_STEPS = 15
MAX_TURN = 0.5  # radians in one step
NEWTON_RTOL = 1e-5  # radians in the last step
NEAR_ZERO = 1e-3  # radians to the nearest zero, except in the direction in which zeros are blurred
DIFFERENCE = 1e-3  # radians between the points of a difference
FARTHER = 10.0  # differences, within which g is as linear
MAX_NONLINEARITY = 0.1
SAME_ZERO = 1e-2  # radians
GOLDEN_RATIO = 0.5 * (5.0**0.5 - 1.0)
MIN_OPPOSITE = 0.9  # cosine of the angle between one side of a branch and the opposite of the other

RADIUS_FACTOR = 4.0
MIN_RADIUS_RATIO = 1.5  # of two radii between which others are tried
MAX_RADII = 20
MAX_RADIUS = 4.0  # in units of t


@dataclass
class Search:
    """What was found on one sphere.

    Attributes
    ----------
    branches : list of list of (m + 1,) array
        The directions of both sides of each branch, or of the one that was found.
    blurred, failed : int
        The number of starts that ended at zeros that are not isolated, and of those for which x(a)
        could not be computed or the other side of a branch was not found.
    """

    branches: list[list[Any]] = field(default_factory=list)
    blurred: int = 0
    failed: int = 0


class ReducedEquation:
    """The function g(a).

    Parameters
    ----------
    curve : Curve
    crossing : Point
    beside : Point
        A point of the known branch near it, at which A is regular.
    right : sequence of (h, t)
        The null vectors of M.
    left : sequence of (N,) array
        The left null vectors of [A, -B d].
    """

    def __init__(
        self,
        curve: Curve,
        crossing: Point,
        beside: Point,
        right: Sequence[Vector],
        left: Sequence[Array],
    ) -> None:
        self.curve, self.crossing = curve, crossing
        self.basis = self._orthonormal([(crossing.tangent, crossing.slope), *right])
        linearized = curve.linearized(beside)
        self._factor = curve.solver.setup_for_equilibrium(linearized.A, curve.counts)
        self._along, *self._borders = self._solve([linearized.B._apply(curve.d), *left])
        columns = [(self._along, 1.0), *((-1.0 * y, 0.0) for y in self._borders)]
        self._matrix = host.asarray([[curve.dot(*phi, *x) for x in columns] for phi in self.basis])

    def _orthonormal(self, vectors: Sequence[Vector]) -> list[Vector]:
        curve = self.curve
        Q: list[Vector] = []
        for h, t in vectors:
            for _ in range(2):
                for k, u in Q:
                    along = curve.dot(h, t, k, u)
                    h, t = h - along * k, t - along * u
                h, t = curve.orient(h, t, None)
            Q.append((h, t))
        return Q

    def _solve(self, sides: Sequence[Array]) -> list[Array]:
        with ignore_warnings():  # of digits that are lost, as A is nearly singular here
            X = self._factor.solve(self.curve.backend.xp.stack(sides, axis=1))
        return [X[:, j] for j in range(len(sides))]

    @property
    def dimension(self) -> int:
        """The number m of equations."""
        return len(self._borders)

    def branches(self, radius: float) -> tuple[float, Search]:
        """Look for all branches, on a sphere of about a given radius if that is possible.

        Return the radius with what was found on it. If no sphere shows all of them clearly, it is
        the smallest one on which there are any.
        """
        best: tuple[float, Search] | None = None
        # The largest radius with blurred zeros, and the smallest that fails.
        blurred, failed = 0.0, math.inf
        for _ in range(MAX_RADII):
            too_large = radius > MAX_RADIUS * self.curve.inner.unit
            found = Search(failed=1) if too_large else self.search(radius)
            if found.branches:
                same = best is not None and len(best[1].branches) == len(found.branches)
                two_sided = all(len(branch) == 2 for branch in found.branches)
                if (same and two_sided) or not found.blurred + found.failed:
                    return radius, found
                if best is None or radius < best[0]:
                    best = radius, found
            if found.failed > found.blurred:
                failed = radius
            else:
                blurred = radius
            if failed == math.inf:
                radius = RADIUS_FACTOR * blurred
            elif blurred == 0.0:
                radius = failed / RADIUS_FACTOR
            elif failed < MIN_RADIUS_RATIO * blurred:
                break
            else:
                radius = math.sqrt(blurred * failed)
        return (radius, Search(blurred=int(blurred > 0.0))) if best is None else best

    def is_defined(self, radius: float) -> bool:
        """Return whether x(a) can be computed for most directions on a sphere."""
        g = self.evaluate(radius * _starts(self.dimension, 0))
        return 2 * int(host.isfinite(g[0]).sum()) > g.shape[1]

    # Zeros on a sphere.

    def search(self, radius: float) -> Search:
        """Look for the zeros of g on the sphere |a| = radius."""
        search = Search()
        tangent = host.eye(self.dimension + 1)[:, :1]
        ends = self._zeros(host.hstack([tangent, -tangent]), radius, Search())
        known = [n for n in ends if n is not None]
        for count in range(MAX_ROUNDS):
            found: list[Any] = []
            for n in self._zeros(_starts(self.dimension, count), radius, search):
                others = [known, found, *search.branches]
                if n is not None and not any(_is_among(n, x) for x in others):
                    found.append(n)
            if not found:
                return search
            for n, across in zip(found, self._opposite(found, radius), strict=True):
                if not any(_is_among(n, branch) for branch in search.branches):
                    search.branches.append([n] if across is None else [n, across])
                    search.failed += across is None
            if search.blurred >= STARTS * self.dimension // 2:
                break
        # Zeros that are found by chance among many blurred ones are not isolated, either.
        return Search([], search.blurred + search.failed + 1, search.failed)

    def _opposite(self, zeros: list[Any], radius: float) -> list[Any]:
        """Return the zeros of the other sides of branches, or None where there seem to be none.

        On the other side t may be on the other side, too, or on the same as where branches fork.
        """
        starts = -host.stack(zeros, axis=1)
        fork = starts * host.where(host.arange(self.dimension + 1) == 0, -1.0, 1.0)[:, None]
        count, sides = len(zeros), self._zeros(host.hstack([starts, fork]), radius, Search())
        pairs = zip(zeros, zip(sides[:count], sides[count:], strict=True), strict=True)
        return [next((x for x in ends if _is_opposite(n, x)), None) for n, ends in pairs]

    def _zeros(self, starts: Any, radius: float, search: Search) -> list[Any]:
        """Return the isolated zero to which Newton's method converges from each column, or None."""
        zeros: list[Any] = [None] * starts.shape[1]
        active = dict(enumerate(starts.T))
        for steps in range(1, MAX_NEWTON_STEPS + 1):
            here, active = active, {}
            if not here:
                break
            linearized = self._linearized(list(here.values()), radius)
            for (j, n), at in zip(here.items(), linearized, strict=True):
                if at is None:
                    search.failed += 1
                    continue
                x = _turned(n, at.Q @ at.step)
                if at.angle <= NEWTON_RTOL:
                    if at.is_linear and self._is_linear_farther(n, at, radius):
                        zeros[j] = x
                    else:
                        search.blurred += 1
                elif steps < MAX_NEWTON_STEPS:
                    active[j] = x
                elif at.other_angle <= NEAR_ZERO and not at.is_linear:
                    search.blurred += 1
        return zeros

    def _linearized(self, directions: list[Any], radius: float) -> list[_Linearized | None]:
        """Linearize g on a sphere by central differences; None where it has no values."""
        m, count = self.dimension, len(directions)
        bases = [_orthogonal_to(n) for n in directions]
        points = []
        for n, Q in zip(directions, bases, strict=True):
            points += [n, *(_turned(n, sign * DIFFERENCE * q) for sign in (1, -1) for q in Q.T)]
        g = self.evaluate(radius * host.stack(points, axis=1)).reshape(m, count, 2 * m + 1)
        return [
            _Linearized.from_values(Q, g[:, i]) if host.isfinite(g[:, i]).all() else None
            for i, Q in enumerate(bases)
        ]

    def _is_linear_farther(self, n: Any, at: _Linearized, radius: float) -> bool:
        """Return whether the slope of g in its weakest direction is the same farther from n."""
        turn = FARTHER * DIFFERENCE * at.Q @ at.V[:, -1]
        g = self.evaluate(radius * host.stack([_turned(n, turn), _turned(n, -turn)], axis=1))
        slope = float(at.U[:, -1] @ (g[:, 0] - g[:, 1])) / (2.0 * FARTHER * DIFFERENCE)
        return abs(slope - at.sigma[-1]) <= MAX_NONLINEARITY * at.sigma[-1]

    # Values.

    def vector(self, a: Any) -> Vector:
        """Return Phi a."""
        h, t = 0.0 * self.crossing.state, 0.0
        for x, (k, u) in zip(a.tolist(), self.basis, strict=True):
            h, t = h + x * k, t + x * u
        return h, t

    def evaluate(self, a: Any) -> Any:
        """Return g for columns of coordinates; NaN where x(a) cannot be computed."""
        count = max(1, MAX_BLOCK // self.curve.size)
        blocks = [a[:, j : j + count] for j in range(0, a.shape[1], count)]
        with host.errstate(over="ignore", invalid="ignore"):  # where the iteration diverges
            return host.concatenate([self._evaluate(block)[0] for block in blocks], axis=1)

    def point(self, a: Any) -> Vector:
        """Return x(a) - x0."""
        return self._evaluate(a[:, None])[1][0]

    def _evaluate(self, a: Any) -> tuple[Any, list[Vector]]:
        """Iterate for x(a) and g(a) with the linearization beside the crossing."""
        curve = self.curve
        g = host.full((self.dimension, a.shape[1]), math.nan)
        X = [self.vector(column) for column in a.T]
        orthogonal = [(0.0 * h, 0.0) for h, _ in X]  # the part of x that is not in the kernel
        radius, last = host.linalg.norm(a, axis=0), [math.inf] * len(X)
        active = list(range(len(X)))
        for _ in range(MAX_REDUCTION_STEPS):
            sides = {j: -1.0 * r for j in active if (r := self._residual(*X[j])) is not None}
            if not sides:
                break
            active = []
            for j, u in zip(sides, self._solve(list(sides.values())), strict=True):
                along = host.asarray([curve.dot(*phi, u, 0.0) for phi in self.basis])
                dt, *gamma = (-host.linalg.solve(self._matrix, along)).tolist()
                dh = u + dt * self._along
                for c, y in zip(gamma, self._borders, strict=True):
                    dh = dh - c * y
                X[j] = X[j][0] + dh, X[j][1] + dt
                orthogonal[j] = orthogonal[j][0] + dh, orthogonal[j][1] + dt
                step = curve.length(dh, dt) / radius[j]
                settled = step <= MAX_REDUCTION_ERROR and step >= 0.5 * last[j]
                if step <= REDUCTION_RTOL or settled:
                    g[:, j] = gamma
                elif curve.length(*orthogonal[j]) <= MAX_DISTANCE * radius[j]:
                    last[j] = step
                    active.append(j)
        return g, X

    def _residual(self, h: Array, t: float) -> Array | None:
        x = self.crossing
        try:
            return self.curve.problem(x.t + t).trial_residual(x.state + h)[0]
        except Exception as error:
            if not is_evaluation_failure(error):
                raise
            return None


@dataclass(frozen=True)
class _Linearized:
    """The function g near a direction on a sphere.

    Attributes
    ----------
    Q : (m + 1, m) array
        A basis of the directions on the sphere.
    U, sigma, V : arrays
        The singular value decomposition of the derivative of g along them, with V as columns.
    step : (m,) array
        The step of Newton's method along them.
    is_linear : bool
        Whether the slope in the weakest direction is larger than its change between the points of
        the differences, so that it is not rounding.
    """

    Q: Any
    U: Any
    sigma: Any
    V: Any
    step: Any
    is_linear: bool

    @classmethod
    def from_values(cls, Q: Any, g: Any) -> _Linearized:
        """Return the linearization by values of g at a point, and beside it."""
        m = g.shape[0]
        at, up, down = g[:, 0], g[:, 1 : m + 1], g[:, m + 1 :]
        U, sigma, W = host.linalg.svd((up - down) / (2.0 * DIFFERENCE))
        sigma = host.maximum(sigma, host.finfo(float).tiny)
        bend = U[:, -1] @ (up + down - 2.0 * at[:, None]) @ W[-1] / (2.0 * DIFFERENCE)
        step = -W.T @ ((U.T @ at) / sigma)
        return cls(Q, U, sigma, W.T, step, abs(bend) <= MAX_NONLINEARITY * sigma[-1])

    @property
    def angle(self) -> float:
        """The length of the step."""
        return float(host.linalg.norm(self.step))

    @property
    def other_angle(self) -> float:
        """The length of the step without its part along the weakest direction."""
        return float(host.linalg.norm((self.V.T @ self.step)[:-1]))


def _turned(n: Any, turn: Any) -> Any:
    """Return a unit vector turned by a vector orthogonal to it, by MAX_TURN at most."""
    angle = float(host.linalg.norm(turn))
    if angle == 0.0:
        return n
    by = min(angle, MAX_TURN)
    x = math.cos(by) * n + math.sin(by) / angle * turn
    return x / host.linalg.norm(x)


def _orthogonal_to(n: Any) -> Any:
    """Return an orthonormal basis of the complement of a unit vector, as columns."""
    return host.linalg.qr(host.column_stack([n, host.eye(n.size)]))[0][:, 1 : n.size]


def _starts(m: int, count: int) -> Any:
    """Return the starts of a round, every other one orthogonal to the tangent.

    Branches with a tangent where t is stationary, as those of pitchforks, are near the latter.
    """
    size = STARTS * m
    n = host.random.default_rng([m, count]).standard_normal((m + 1, size))
    n[0, ::2] = 0.0
    if m == 2:  # at well distributed angles
        angles = host.pi * (
            host.arange(size // 2 * count, size // 2 * (count + 1)) * GOLDEN_RATIO % 1.0
        )
        n[1:, ::2] = host.cos(angles), host.sin(angles)
    return n / host.linalg.norm(n, axis=0)


def _is_among(n: Any, others: Sequence[Any]) -> bool:
    return any(host.linalg.norm(n - other) <= SAME_ZERO for other in others)


def _is_opposite(n: Any, other: Any) -> bool:
    """Return whether two directions are nearly opposite, except for the tangent."""
    if other is None:
        return False
    x, y = n[1:], other[1:]
    return float(x @ y) < -MIN_OPPOSITE * float(host.linalg.norm(x) * host.linalg.norm(y))
