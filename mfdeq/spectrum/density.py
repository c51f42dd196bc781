"""Spectral densities and traces of functions of H, by stochastic Lanczos quadrature.

For z uniform on the sphere z' R z = 1 of n dimensions, n E[z' R f(R^-1 H) z] = tr f(R^-1 H), and m
steps of Lanczos from z, T = S diag(t) S', give z' R f(R^-1 H) z = sum_i S_1i^2 f(t_i), exactly for
polynomials of degree 2m - 1 (Golub and Meurant 2010; Ubaru, Chen and Saad 2017). The three-term
recurrence is not orthogonalized again: copies of eigenvalues that have converged share their
weight (Greenbaum 1989; Chen, Trogdon and Ubaru 2021), and all probes go through H as one block.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ..arguments import at_least, count
from ..arrays.backend import Array, array_on_host, host
from ..arrays.memory import translate_memory_errors
from ..errors import ArgumentError
from ..operators.user_operators import as_symmetric, backend_of
from ..priors.metric import Metric
from ..priors.precision import metric_of
from .eigenpairs import Eigenpairs
from .extreme import check_operator
from .products import Products

FEWEST = 4  # probes, from whose scatter an error is estimated
BROKEN = 1e-10  # of the largest eigenvalue seen, or 100 roundings: where a recurrence has ended


@dataclass(frozen=True)
class Estimate:
    """A number from random samples.

    Attributes
    ----------
    value : float
    standard_error : float
        Two of them hold the truth in 95 of 100 cases: the scatter of the samples, widened for their
        small number, and what the quadrature is off by.
    products : int
        With H, counted by columns.
    """

    value: float
    standard_error: float
    products: int

    def __float__(self) -> float:
        return self.value


@dataclass(frozen=True)
class SpectralDensity:
    """How the eigenvalues of H (of R^-1 H) are distributed, P of them in all.

    Attributes
    ----------
    size : int
        P.
    nodes, weights : (probes, steps) host arrays
        Quadratures of the part that no eigenpair was given of; weights add up to 1 for each probe.
    exact : (k,) host array
        Eigenvalues that were given.
    products : int
    """

    size: int
    nodes: Any = field(repr=False)
    weights: Any = field(repr=False)
    exact: Any = field(repr=False)
    products: int
    _shorter: Any = field(repr=False)  # the same, of fewer steps

    def sum(self, f: Callable[[Any], Any]) -> Estimate:
        """tr f(H), the sum of f over all eigenvalues.

        Parameters
        ----------
        f : callable
            Of a host (numpy) array, elementwise; finite on the spectrum.
        """
        known = float(host.sum(f(self.exact))) if self.exact.size else 0.0
        rest = self.size - self.exact.size
        samples = _quadrature(f, self.nodes, self.weights)
        if not host.isfinite(samples).all():
            least, most = self.nodes.min(), self.nodes.max()
            raise ArgumentError(
                f"f is not finite on the spectrum, which reaches from {least:.3g} to {most:.3g}"
            )
        value = float(samples.mean())
        off = max(abs(float(_quadrature(f, *s).mean()) - value) for s in self._shorter)
        error = rest * math.hypot(standard_error(samples), 0.5 * off)
        return Estimate(known + rest * value, error, self.products)

    def cumulative(self, x: Any) -> Any:
        """How many eigenvalues are at most x, estimated: a host array like x."""
        x = host.asarray(x, dtype="float64")
        below = self.nodes[..., None] <= x.reshape(-1)
        part = (self.weights[..., None] * below).sum(axis=1).mean(axis=0)
        exact = (self.exact[:, None] <= x.reshape(-1)).sum(axis=0)
        return ((self.size - self.exact.size) * part + exact).reshape(x.shape)

    def __call__(self, x: Any, width: float) -> Any:
        """Eigenvalues per unit of x, smoothed by Gaussians of that standard deviation."""
        x, width = host.asarray(x, dtype="float64"), at_least(1e-300, width, "width")
        nodes = host.concatenate([self.nodes.reshape(-1), self.exact])
        share = (self.size - self.exact.size) / self.nodes.shape[0]
        weights = host.concatenate([share * self.weights.reshape(-1), host.ones(self.exact.size)])
        bumps = host.exp(-0.5 * ((x.reshape(-1, 1) - nodes) / width) ** 2)
        return (bumps @ weights / (width * math.sqrt(2 * math.pi))).reshape(x.shape)


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
    """The distribution of all eigenvalues of a symmetric operator, by Lanczos quadrature.

    Parameters
    ----------
    H : LinearOperator, (P, P)
        Symmetric.
    M : Precision, (P, P) matrix or (P,) array, optional
        Of H x = mu M x; a Precision that has samples.
    probes : int, optional
        Random vectors, at least 4, all in one block; errors fall as their root.
    steps : int, optional
        Products with each: the degree of the quadrature.
    pairs : Eigenpairs, optional
        Some that are known, of the same H and M: they count exactly, and the probes are of the
        rest. Where a few eigenvalues are large, errors are much smaller.
    seed : int, optional
    progress : bool, optional

    Returns
    -------
    SpectralDensity
    """
    P = check_operator(H, 1)
    backend = backend_of(H)
    metric = metric_of(M, backend, P)
    if count(probes, "probes") < FEWEST:
        raise ArgumentError(f"probes is {probes}; at least {FEWEST} are needed for an error")
    exact = host.zeros(0) if pairs is None else array_on_host(pairs.values).astype("float64")
    if exact.size >= P:
        raise ArgumentError(f"pairs are all {P} eigenvalues: nothing is left to estimate")
    products = Products(as_symmetric(backend, H, (P, P), "H"), progress, metric)
    try:
        basis = None if pairs is None else pairs.vectors
        start = sphere(metric, P, probes, seed, basis)
        most = min(count(steps, "steps"), P - exact.size)
        T = _tridiagonals(products, start, most, basis, float(abs(exact).max(initial=0.0)))
    finally:
        products.close()
    lengths = sorted({max(1, most - 1), max(1, most - 2), max(1, (2 * most) // 3)})
    nodes, weights = _nodes(*T, most)
    shorter = [_nodes(*T, m) for m in lengths]
    return SpectralDensity(P, nodes, weights, exact, products.count, shorter)


def log_determinant(H: Any, **options: Any) -> Estimate:
    """log det H of a positive definite H, by `spectral_density` (whose options it takes).

    With ``M=R``: log det H - log det R.

    Raises
    ------
    ArgumentError
        Where H is seen not to be positive definite.
    """
    density = spectral_density(H, **options)
    least = min(density.nodes.min(), density.exact.min(initial=math.inf))
    if not least > 0.0:
        raise ArgumentError(
            f"H is not positive definite: {least:.3g} is in the range of its eigenvalues. The "
            "log-determinant of H + R is that of `mfdeq.LowRank`, or density.sum of log(1 + mu) "
            "with M=R"
        )
    return density.sum(host.log)


def numerical_rank(H: Any, rtol: float | None = None, **options: Any) -> Estimate:
    """How many eigenvalues are larger than rtol times the largest, in magnitude.

    Parameters
    ----------
    H : LinearOperator, (P, P)
    rtol : float, optional
        By default P times the rounding unit.
    **options
        Of `spectral_density`.
    """
    density = spectral_density(H, **options)
    largest = max(abs(density.nodes).max(), abs(density.exact).max(initial=0.0))
    eps = backend_of(H).eps
    level = largest * (density.size * eps if rtol is None else at_least(0.0, rtol, "rtol"))
    return density.sum(lambda x: (abs(x) > level).astype("float64"))


def standard_error(samples: Any) -> float:
    """Of the mean of n samples; widened so that two of it are Student's 95 per cent.

    By the expansion of his quantile at two (Abramowitz and Stegun 1964, 26.7.5).
    """
    n = samples.shape[0]
    widened = 1.0 + 1.25 / (n - 1) + 1.53 / (n - 1) ** 2
    return widened * float(samples.std(ddof=1)) / math.sqrt(n)


def sphere(metric: Metric, P: int, n: int, seed: int, basis: Array | None = None) -> Array:
    """n random vectors of length one, orthogonal to an orthonormal basis."""
    x = metric.gaussian(P, n, seed)
    if basis is not None:
        for _ in range(2):
            x = x - basis @ (basis.T @ metric.apply(x))
    return x / metric.norms(x, metric.apply(x))


def _tridiagonals(
    H: Products, start: Array, steps: int, basis: Array | None, norm: float
) -> tuple[Any, Any]:
    """Diagonals and off-diagonals of each probe's T, (probes, steps); zeros beyond its end."""
    backend, metric = H.backend, H.metric
    broken = max(BROKEN, 100.0 * backend.eps)
    x, before, b = start, 0.0, 0.0
    dual = metric.apply(x)
    diagonal, beside = [], []
    for _ in range(steps):
        w = H(x) - b * before
        a = backend.column_dots(x, w)
        w = w - a * dual
        if basis is not None:  # rounding brings them back
            w = w - metric.apply(basis) @ (basis.T @ w)
        ahead = metric.solve(w)
        b = metric.norms(ahead, w)
        norm = max(norm, float(backend.xp.max(backend.xp.abs(a) + b)))
        ended = b <= broken * norm  # what is left is rounding, and of directions known
        scale = backend.xp.where(ended, 0.0 * b, 1.0 / backend.xp.where(ended, b + 1.0, b))
        b = backend.xp.where(ended, 0.0 * b, b)
        diagonal.append(array_on_host(a))
        beside.append(array_on_host(b))
        x, before, dual = ahead * scale, dual, w * scale
    return host.stack(diagonal, axis=1), host.stack(beside, axis=1)


def _nodes(diagonal: Any, beside: Any, steps: int) -> tuple[Any, Any]:
    """Nodes and weights of each probe's quadrature after so many steps."""
    nodes, weights = [], []
    for a, b in zip(diagonal.astype("float64"), beside.astype("float64"), strict=True):
        ended = host.nonzero(b[: steps - 1] == 0.0)[0]
        m = int(ended[0]) + 1 if ended.size else steps
        T = host.diag(a[:m]) + host.diag(b[: m - 1], 1) + host.diag(b[: m - 1], -1)
        values, S = host.linalg.eigh(T)
        nodes.append(host.concatenate([values, host.full(steps - m, values[0])]))
        weights.append(host.concatenate([S[0] ** 2, host.zeros(steps - m)]))
    return host.stack(nodes), host.stack(weights)


def _quadrature(f: Callable[[Any], Any], nodes: Any, weights: Any) -> Any:
    """Sum over each probe's nodes."""
    return (weights * f(nodes)).sum(axis=1)
