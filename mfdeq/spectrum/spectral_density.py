"""Spectral densities and traces of functions of H, by stochastic Lanczos quadrature.

For z uniform on the sphere z' R z = 1 in n dimensions, n E[z' R f(R^-1 H) z] = tr f(R^-1 H). With
m steps of Lanczos from z, T = S diag(t) S', z' R f(R^-1 H) z is approximated by
sum_i S_1i^2 f(t_i), which is exact for polynomials of degree 2m - 1. The three-term recurrence is
not reorthogonalized, since copies of converged eigenvalues share their weight. All probes are
multiplied by H as one block.

References
----------
G. H. Golub and G. Meurant, "Matrices, Moments and Quadrature with Applications", 2010. S. Ubaru,
J. Chen and Y. Saad, "Fast estimation of tr(f(A)) via stochastic Lanczos quadrature", 2017. L. Lin,
Y. Saad and C. Yang, "Approximating spectral densities of large matrices", 2016. A. Greenbaum,
"Behavior of slightly perturbed Lanczos and conjugate-gradient recurrences", 1989. T. Chen,
T. Trogdon and S. Ubaru, "Analysis of stochastic Lanczos quadrature for spectrum approximation",
2021.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ..arguments import at_least, count
from ..arrays.backend import Array, array_on_host, host
from ..arrays.collective import collective
from ..arrays.memory import translate_memory_errors
from ..arrays.powers_of_two import scaled_by
from ..errors import ArgumentError
from ..operators.user_operators import as_symmetric, backend_of
from ..priors.precision import metric_of
from .arguments import check_operator
from .counted_operator import CountedOperator
from .eigenpairs import Eigenpairs, vectors_of
from .estimate import MIN_SAMPLES, Estimate, random_unit_vectors, standard_error

# A recurrence ends with an off-diagonal below these multiples of the largest eigenvalue so far, and
# of its rounding.
BREAKDOWN_RTOL, BREAKDOWN_ROUNDINGS = 1e-10, 100.0


@dataclass(frozen=True)
class SpectralDensity:
    """The distribution of the P eigenvalues of H (or of R^-1 H), by stochastic quadrature.

    `mfdeq.spectral_density` returns it. It consists of nodes on the real axis with weights. A call
    evaluates the density, smoothed by Gaussians; `cumulative` and `sum` need no smoothing.

    Attributes
    ----------
    size : int
        The number P of eigenvalues.
    nodes, weights : (probes, steps) host arrays
        The quadrature of each probe, for the part of the spectrum without the known eigenvalues.
        The weights of a probe add up to 1.
    exact : (k,) host array
        The known eigenvalues.
    products : int
        The number of products with H; a block of b columns counts as b.
    shorter : list of pairs
        Nodes and weights after fewer steps, for the error estimate of the quadrature.

    Examples
    --------
    >>> import numpy as np
    >>> import mfdeq
    >>> H = np.diag(np.r_[np.zeros(150), np.ones(50)])
    >>> density = mfdeq.spectral_density(H, probes=40, steps=10)
    >>> bool(abs(density.cumulative(0.5) - 150) < 15)  # eigenvalues of at most 0.5
    True
    >>> density.sum(np.exp).value > 200
    True
    """

    size: int
    nodes: Any = field(repr=False)
    weights: Any = field(repr=False)
    exact: Any = field(repr=False)
    products: int
    shorter: Any = field(repr=False)

    def sum(self, f: Callable[[Any], Any]) -> Estimate:
        """Estimate tr f(H), the sum of f over all eigenvalues.

        Parameters
        ----------
        f : callable
            An elementwise function of numpy arrays that is finite on the spectrum.

        Returns
        -------
        Estimate
            Its standard error includes the change of the quadrature with fewer steps.

        Raises
        ------
        ArgumentError
            If f is not finite on the spectrum.

        Examples
        --------
        >>> import numpy as np
        >>> import mfdeq
        >>> density = mfdeq.spectral_density(3.0 * np.eye(100), steps=5)
        >>> round(float(density.sum(np.log).value / np.log(3.0)), 6)
        100.0
        """
        known = float(host.sum(f(self.exact))) if self.exact.size else 0.0
        rest = self.size - self.exact.size
        samples = _quadrature(f, self.nodes, self.weights)
        if not host.isfinite(samples).all():
            least, most = self.nodes.min(), self.nodes.max()
            raise ArgumentError(
                "f: expected finite values on the spectrum, got NaN or infinity. The spectrum "
                f"extends from {least:.3g} to {most:.3g}"
            )
        value = float(samples.mean())
        changes = (float(_quadrature(f, *s).mean()) - value for s in self.shorter)
        change = max(abs(x) for x in changes)
        error = rest * math.hypot(standard_error(samples), 0.5 * change)
        return Estimate(known + rest * value, error, self.products)

    def cumulative(self, x: Any) -> Any:
        """Estimate the number of eigenvalues that are at most x.

        Parameters
        ----------
        x : array_like
            The points, in an array of any shape.

        Returns
        -------
        host array
            The estimates, from 0 to P, with the shape of x.
        """
        x = host.asarray(x, dtype="float64")
        below = self.nodes[..., None] <= x.reshape(-1)
        part = (self.weights[..., None] * below).sum(axis=1).mean(axis=0)
        exact = (self.exact[:, None] <= x.reshape(-1)).sum(axis=0)
        return ((self.size - self.exact.size) * part + exact).reshape(x.shape)

    def __call__(self, x: Any, width: float) -> Any:
        """Estimate the density of eigenvalues at x, smoothed by Gaussians.

        Parameters
        ----------
        x : array_like
            The points, in an array of any shape.
        width : float
            The standard deviation of the Gaussians, in the units of x.

        Returns
        -------
        host array
            The number of eigenvalues per unit of x, with the shape of x. Its integral is P.
        """
        x, width = host.asarray(x, dtype="float64"), at_least(1e-300, width, "width")
        nodes = host.concatenate([self.nodes.reshape(-1), self.exact])
        share = (self.size - self.exact.size) / self.nodes.shape[0]
        weights = host.concatenate([share * self.weights.reshape(-1), host.ones(self.exact.size)])
        bumps = host.exp(-0.5 * ((x.reshape(-1, 1) - nodes) / width) ** 2)
        return (bumps @ weights / (width * math.sqrt(2 * math.pi))).reshape(x.shape)


@collective
@translate_memory_errors
def spectral_density(
    H: Any,
    *,
    M: Any = None,
    probes: int = 16,
    steps: int = 50,
    pairs: Eigenpairs | None = None,
    seed: int = 0,
    progress: bool = False,
) -> SpectralDensity:
    """Estimate the distribution of all eigenvalues of a symmetric operator.

    Parameters
    ----------
    H : LinearOperator, (P, P)
        A symmetric operator.
    M : Precision, (P, P) matrix or (P,) array, optional
        The matrix of the generalized problem H x = mu M x. An `mfdeq.Precision` must have samples.
    probes : int, optional
        The number of random vectors, at least 4 and by default 16, which are multiplied as one
        block. The error is inversely proportional to the square root of their number.
    steps : int, optional
        The number of Lanczos steps, 50 by default, each with one product for each probe.
    pairs : Eigenpairs, optional
        Known eigenpairs of the same H and M. Their contribution is exact and only the rest is
        sampled, which reduces the error if a few eigenvalues are large.
    seed : int, optional
        The seed of the random vectors, 0 by default.
    progress : bool, optional
        Show a progress bar of the products.

    Returns
    -------
    SpectralDensity

    Raises
    ------
    ArgumentError
        If there are fewer than 4 probes, or if all P pairs are known.

    Notes
    -----
    In stochastic Lanczos quadrature with m steps from a random unit vector z, T = S diag(t) S',

        z' f(H) z  ~  sum_i S_1i^2 f(t_i),    P E[z' f(H) z] = tr f(H),

    where the quadrature is exact for polynomials f of degree 2 m - 1.

    References
    ----------
    L. Lin, Y. Saad and C. Yang, "Approximating spectral densities of large matrices", 2016.
    S. Ubaru, J. Chen and Y. Saad, "Fast estimation of tr(f(A)) via stochastic Lanczos quadrature",
    2017.

    Examples
    --------
    >>> import numpy as np
    >>> import mfdeq
    >>> H = np.diag(np.linspace(-1.0, 1.0, 300))
    >>> density = mfdeq.spectral_density(H)
    >>> bool(abs(density.cumulative(0.0) - 150) < 15)  # half of them are negative
    True
    """
    P = check_operator(H, 1)
    backend = backend_of(H)
    metric = metric_of(M, backend, P)
    if count(probes, "probes") < MIN_SAMPLES:
        raise ArgumentError(
            f"probes: expected at least {MIN_SAMPLES}, for an error estimate, got {probes}"
        )
    exact = host.zeros(0) if pairs is None else array_on_host(pairs.values).astype("float64")
    if exact.size >= P:
        raise ArgumentError(f"pairs: expected fewer than P = {P} pairs, got {exact.size}")
    operator = as_symmetric(backend, H, (P, P), "H")
    products = CountedOperator(operator, progress, metric, scaled=True, title="density")
    try:
        basis = None if pairs is None else vectors_of(pairs)
        start = random_unit_vectors(metric, P, probes, seed, basis)
        m = min(count(steps, "steps"), P - exact.size)
        T = _tridiagonals(products, start, m, basis, float(abs(exact).max(initial=0.0)))
    finally:
        products.close()
    shorter = sorted({max(1, m - 1), max(1, m - 2), max(1, (2 * m) // 3)})
    exponent = products.exponent or 0
    quadratures = [_nodes_and_weights(*T, length, exponent) for length in shorter]
    whole = _nodes_and_weights(*T, m, exponent)
    return SpectralDensity(P, *whole, exact, products.count, quadratures)


@collective
def log_determinant(H: Any, **options: Any) -> Estimate:
    """Estimate log det H of a positive definite H.

    Parameters
    ----------
    H : LinearOperator, (P, P)
        A symmetric and positive definite operator.
    **options
        Options of `spectral_density`. With ``M=R`` the result is log det H - log det R.

    Returns
    -------
    Estimate

    Raises
    ------
    ArgumentError
        If a node of the quadrature is not positive.

    Notes
    -----
    The estimate is ``spectral_density(H, **options).sum(np.log)``. For the log-determinant of H + R
    with H of low rank, see `mfdeq.LowRank`.

    References
    ----------
    S. Ubaru, J. Chen and Y. Saad, "Fast estimation of tr(f(A)) via stochastic Lanczos quadrature",
    2017.

    Examples
    --------
    >>> import numpy as np
    >>> import mfdeq
    >>> d = np.linspace(1.0, 2.0, 200)
    >>> estimate = mfdeq.log_determinant(np.diag(d))
    >>> bool(abs(estimate.value - np.log(d).sum()) < 4 * estimate.standard_error)
    True
    """
    density = spectral_density(H, **options)
    least = min(density.nodes.min(), density.exact.min(initial=math.inf))
    if not least > 0.0:
        raise ArgumentError(
            f"H: expected a positive definite operator, got one with eigenvalues down to "
            f"{least:.3g}. For the log-determinant of H + R use mfdeq.LowRank, or the sum "
            "of np.log1p over mfdeq.spectral_density(H, M=R)"
        )
    return density.sum(host.log)


@collective
def numerical_rank(H: Any, rtol: float | None = None, **options: Any) -> Estimate:
    """Estimate the number of eigenvalues larger than rtol times the largest, in magnitude.

    Parameters
    ----------
    H : LinearOperator, (P, P)
        A symmetric operator.
    rtol : float, optional
        The relative tolerance, by default P times the rounding unit of the dtype.
    **options
        Options of `spectral_density`.

    Returns
    -------
    Estimate

    References
    ----------
    S. Ubaru and Y. Saad, "Fast methods for estimating the numerical rank of large matrices", 2016.

    Examples
    --------
    >>> import numpy as np
    >>> import mfdeq
    >>> H = np.diag(np.r_[np.zeros(180), np.ones(20)])
    >>> estimate = mfdeq.numerical_rank(H, probes=40, steps=10)
    >>> abs(estimate.value - 20) < 4 * estimate.standard_error
    True
    """
    density = spectral_density(H, **options)
    largest = max(abs(density.nodes).max(), abs(density.exact).max(initial=0.0))
    eps = backend_of(H).eps
    level = largest * (density.size * eps if rtol is None else at_least(0.0, rtol, "rtol"))
    return density.sum(lambda x: (abs(x) > level).astype("float64"))


def _tridiagonals(
    H: CountedOperator, start: Array, steps: int, basis: Array | None, norm: float
) -> tuple[Any, Any]:
    """Compute the diagonals and off-diagonals of each probe's T, (probes, steps), zero-padded.

    They are those of 2^e H, with the exponent e of the products; `norm` is a bound for H itself.
    """
    backend, metric = H.backend, H.metric
    rtol = max(BREAKDOWN_RTOL, BREAKDOWN_ROUNDINGS * backend.eps)
    x, before, b = start, 0.0, 0.0
    dual = metric.apply(x)
    diagonal, off_diagonal = [], []
    for step in range(steps):
        w = H(x) - b * before
        if step == 0:
            norm = scaled_by(norm, H.exponent or 0)
        a = backend.column_dots(x, w)
        w = w - a * dual
        if basis is not None:  # rounding reintroduces its directions
            w = w - metric.apply(basis) @ (basis.T @ w)
        ahead = metric.solve(w)
        b = metric.norms(ahead, w)
        norm = max(norm, float(backend.xp.max(backend.xp.abs(a) + b)))
        ended = b <= rtol * norm  # the remainder is rounding, along directions already in T
        scale = backend.xp.where(ended, 0.0 * b, 1.0 / backend.xp.where(ended, b + 1.0, b))
        b = backend.xp.where(ended, 0.0 * b, b)
        diagonal.append(array_on_host(a))
        off_diagonal.append(array_on_host(b))
        x, before, dual = ahead * scale, dual, w * scale
    return host.stack(diagonal, axis=1), host.stack(off_diagonal, axis=1)


def _nodes_and_weights(
    diagonal: Any, off_diagonal: Any, steps: int, exponent: int
) -> tuple[Any, Any]:
    """Compute the nodes and weights of each probe's quadrature after `steps` steps, from 2^e T."""
    nodes, weights = [], []
    for a, b in zip(diagonal.astype("float64"), off_diagonal.astype("float64"), strict=True):
        ended = host.nonzero(b[: steps - 1] == 0.0)[0]
        m = int(ended[0]) + 1 if ended.size else steps
        T = host.diag(a[:m]) + host.diag(b[: m - 1], 1) + host.diag(b[: m - 1], -1)
        values, S = host.linalg.eigh(T)
        nodes.append(host.concatenate([values, host.full(steps - m, values[0])]))
        weights.append(host.concatenate([S[0] ** 2, host.zeros(steps - m)]))
    return host.ldexp(host.stack(nodes), -exponent), host.stack(weights)


def _quadrature(f: Callable[[Any], Any], nodes: Any, weights: Any) -> Any:
    """Compute the weighted sum of f over the nodes of each probe, (probes,)."""
    return (weights * f(nodes)).sum(axis=1)
