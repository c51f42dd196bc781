"""Over a thousand eigenvalue problems whose spectra are known, and what came of each of them."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from scipy.sparse.linalg import aslinearoperator

import mfdeq

from .spectra import symmetric_matrix

TRUTH_ROUNDING = {"float64": 1e-14, "float32": 1e-6}  # of a dense eigenvalue and a sum, over ||H||
WHICH = ("LM", "LA", "SA", "BE")
COUNTS = (1, 2, 3, 5, 6, 8, 13, 21, 34, 50)
RTOLS = (1e-6, 1e-10)


def cycle(n: int) -> sp.csr_array:
    """Return the Laplacian of a cycle, which has double eigenvalues."""
    ones = np.ones
    diagonals = [-ones(1), -ones(n - 1), 2.0 * ones(n), -ones(n - 1), -ones(1)]
    return sp.diags_array(diagonals, offsets=[1 - n, -1, 0, 1, n - 1]).tocsr()


def path(n: int) -> sp.csr_array:
    """Return the matrix of second differences."""
    return sp.diags_array([-np.ones(n - 1), 2.0 * np.ones(n), -np.ones(n - 1)], offsets=[-1, 0, 1])


def grid(n: int) -> sp.csr_array:
    """Return a Schrödinger operator on a square with the symmetries of the square."""
    x = np.linspace(-1.0, 1.0, n)
    potential = np.add.outer(x**2, x**2).ravel()
    return (sp.kronsum(path(n), path(n)) + sp.diags_array(potential)).tocsr()


def torus(n: int) -> sp.csr_array:
    """Return the Laplacian of a grid with periodic boundaries: up to eight copies."""
    return sp.csr_array(sp.kronsum(cycle(n), cycle(n)))


def wilkinson(m: int) -> np.ndarray:
    """Return Wilkinson's matrix of size 2 m + 1, with pairs of eigenvalues that nearly agree."""
    diagonal, ones = abs(np.arange(-m, m + 1.0)), np.ones(2 * m)
    return np.diag(diagonal) + np.diag(ones, 1) + np.diag(ones, -1)


def golub_kahan(n: int, seed: int) -> np.ndarray:
    """Return [[0, B], [B', 0]] of a bidiagonal B: every eigenvalue has a negative twin."""
    rng = np.random.default_rng(seed)
    B = np.diag(rng.uniform(0.1, 1.0, n)) + np.diag(rng.uniform(0.1, 1.0, n - 1), 1)
    return np.block([[np.zeros((n, n)), B], [B.T, np.zeros((n, n))]])


def two_graphs(m: int, seed: int) -> sp.csr_array:
    """Return the normalized adjacency matrix of two random graphs, with a double eigenvalue 1."""
    rng = np.random.default_rng(seed)
    parts = []
    for _ in range(2):
        G = np.triu((rng.random((m, m)) < 0.1).astype(float), 1)
        G = G + G.T + np.eye(m)
        d = G.sum(axis=1) ** -0.5
        parts.append(d[:, None] * G * d)
    return sp.block_diag(parts, format="csr")


def gram(n: int, rank: int, seed: int) -> np.ndarray:
    """Return X X' of a random X, which has a null space."""
    X = np.random.default_rng(seed).standard_normal((n, rank))
    return X @ X.T


def tough_diagonal(n: int) -> np.ndarray:
    """Return multiples of a few values, a dense part, and outliers at either end."""
    return np.r_[
        np.full(4, -5.0), np.repeat([-1.0, 0.0, 1.0, 2.0], 5), np.linspace(-0.9, 1.9, n - 31),
        np.full(3, 4.0), 4.0 + 1e-7, 30.0, 30.0, 31.0,
    ]  # fmt: skip


def clusters(n: int, width: float) -> np.ndarray:
    """Return two clusters of ten eigenvalues above many that are smaller."""
    rng = np.random.default_rng(11)
    upper = [1.0 + width * rng.random(10), 2.0 + width * rng.random(10)]
    return np.r_[*upper, rng.uniform(-0.5, 0.5, n - 20)]


def random_matrix(n: int, seed: int) -> np.ndarray:
    """Return a matrix of the Gaussian orthogonal ensemble."""
    G = np.random.default_rng(seed).standard_normal((n, n))
    return (G + G.T) / (2.0 * n) ** 0.5


def random_values(n: int, seed: int) -> np.ndarray:
    """Return uniform values, some of which are repeated."""
    rng = np.random.default_rng(seed)
    return rng.choice(np.r_[rng.uniform(-1, 1, n // 2), rng.uniform(-2, 2, 4)], n)


def _rotated(values: np.ndarray) -> np.ndarray:
    return symmetric_matrix(values, seed=len(values))


FAMILIES: dict[str, Callable[[], np.ndarray | sp.csr_array]] = {
    "cycle": lambda: cycle(150),
    "tough diagonal": lambda: sp.diags_array(tough_diagonal(160)).tocsr(),
    "tough, rotated": lambda: _rotated(tough_diagonal(120)),
    "grid": lambda: grid(13),
    "torus": lambda: torus(12),
    "Wilkinson": lambda: wilkinson(60),
    "Golub-Kahan": lambda: golub_kahan(70, 3),
    "graded": lambda: _rotated(np.repeat(10.0 ** -np.arange(0, 10, 0.25), 3)),
    "low rank": lambda: _rotated(np.r_[np.full(3, 7.0), -2.0, 5.0, 5.0, np.zeros(110)]),
    "two graphs": lambda: two_graphs(70, 140),
    "null space": lambda: gram(130, 40, 0),
    "small null space": lambda: gram(110, 100, 1),
    "close clusters": lambda: _rotated(clusters(120, 1e-9)),
    "clusters": lambda: _rotated(clusters(120, 1e-4)),
    "random": lambda: random_matrix(140, 4),
    "random copies": lambda: _rotated(random_values(140, 5)),
    "few values": lambda: _rotated(np.repeat([-1.0, 0.5, 1.0], 40)),
    "inverse squares": lambda: sp.diags_array(1.0 / np.arange(1.0, 301.0) ** 2).tocsr(),
}


@functools.cache
def matrix(family: str) -> np.ndarray | sp.csr_array:
    """Return the matrix of a family."""
    return FAMILIES[family]()


def dense(family: str) -> np.ndarray:
    """Return the matrix of a family as an array."""
    A = matrix(family)
    return A.toarray() if sp.issparse(A) else A


@functools.cache
def truth(family: str, dtype: str) -> np.ndarray:
    """Return the eigenvalues of the matrix of a family, ascending."""
    return np.linalg.eigvalsh(dense(family).astype(dtype).astype(float))


@functools.cache
def precision(n: int) -> tuple[sp.csr_array, np.ndarray]:
    """Return a precision M of size n and its Cholesky factor."""
    M = (path(n) + 0.5 * sp.eye_array(n)).tocsr()
    return M, np.linalg.cholesky(M.toarray())


@dataclass(frozen=True)
class Case:
    """One call of `mfdeq.eigsh`.

    Attributes
    ----------
    family : str
        A key of `FAMILIES`.
    kind : str
        How it is called: "plain", "M", "blocks", "resumed", "products", "small basis" or "shift".
    """

    family: str
    which: str
    k: int
    rtol: float
    kind: str = "plain"
    dtype: str = "float64"

    def __str__(self) -> str:
        return f"{self.family}, {self.which}, {self.k}, {self.rtol:.0e}, {self.kind}, {self.dtype}"

    @property
    def matrix(self) -> np.ndarray | sp.csr_array:
        """The matrix of the family."""
        return matrix(self.family).astype(self.dtype)

    @property
    def values(self) -> np.ndarray:
        """Its eigenvalues, ascending."""
        return truth(self.family, self.dtype)

    def solve(self) -> tuple[mfdeq.Eigenpairs, float]:
        """Return the pairs, and the shift for the kind "shift"."""
        A, shift = self.matrix, 0.0
        options = {"k": self.k, "which": self.which, "rtol": self.rtol}
        if self.kind == "M":
            M, L = precision(A.shape[0])
            A = L @ dense(self.family) @ L.T
            return mfdeq.eigsh(0.5 * (A + A.T), M=M, **options), shift
        if self.kind == "blocks":
            return mfdeq.eigsh(A, block=3, **options), shift
        if self.kind == "small basis":
            return mfdeq.eigsh(A, basis=self.k + 8, **options), shift
        if self.kind == "products":
            return mfdeq.eigsh(aslinearoperator(A), **options), shift
        if self.kind == "resumed":
            other = {"k": max(1, self.k // 2), "which": "LA", "rtol": 1e-4}
            return mfdeq.eigsh(A, resume=mfdeq.eigsh(A, **other), **options), shift
        if self.kind == "shift":
            values = self.values
            gaps = np.diff(values)
            widest = int(np.argmax(gaps))  # two thirds of the way across the widest gap
            shift = float(values[widest] + 0.66 * gaps[widest])
            return mfdeq.eigsh(A, sigma=shift, **options), shift
        return mfdeq.eigsh(A, **options), shift

    def outcome(self) -> str:
        """Return "right", "missed", "no eigenvalue" or "refused"."""
        values = self.values
        off = TRUTH_ROUNDING[self.dtype] * len(values) ** 0.5 * abs(values).max()
        try:
            found, shift = self.solve()
        except mfdeq.ConvergenceError:
            return "refused"
        got, bounds = np.asarray(found.values, float), np.asarray(found.error_bounds, float)
        if np.any(abs(got[:, None] - values).min(axis=1) > bounds + off):
            return "no eigenvalue"
        missed = missing(
            got, bounds + off, values, self.which, found.report,
            shift if self.kind == "shift" else None,
        )  # fmt: skip
        return "missed" if missed else "right"


def missing(
    got: np.ndarray,
    bounds: np.ndarray,
    values: np.ndarray,
    which: str,
    report: mfdeq.EigenReport,
    shift: float | None = None,
) -> bool:
    """Return whether there are more eigenvalues beyond the last wanted one than were found there.

    "Beyond" is by more than its bound, and by more than the gap that the report states.
    """
    gap = 0.0 if report.miss_gap is None else report.miss_gap * report.norm
    if shift is not None:  # the gap is one of the inverse
        gap = 0.0 if report.miss_gap is None else report.miss_gap / abs(values - shift).min()
        nearest = np.maximum(abs(got - shift) - bounds, 0.0)
        with np.errstate(divide="ignore"):
            farther = 1.0 / nearest - 1.0 / abs(got - shift)
        got, values, bounds = 1.0 / (got - shift), 1.0 / (values - shift), farther
    k, ascending = len(got), np.argsort(got)
    got, bounds = got[ascending], bounds[ascending]
    if which == "LM":
        sides = [(abs(got), bounds, abs(values))]
    elif which == "LA":
        sides = [(got, bounds, values)]
    elif which == "SA":
        sides = [(-got, bounds, -values)]
    else:
        below = k // 2
        sides = [(got[below:], bounds[below:], values)]
        if below:
            sides.append((-got[:below], bounds[:below], -values))
    for ours, margins, all_values in sides:
        last = int(np.argmin(ours))
        end = ours[last] + max(margins[last], gap)
        if (all_values > end).sum() > (ours + margins > end).sum():
            return True
    return False


def cases() -> Iterator[Case]:
    """Generate all cases, always in the same order."""
    counts = itertools.cycle(COUNTS)
    for family, which, rtol in itertools.product(FAMILIES, WHICH, RTOLS):
        for _ in range(4):
            yield Case(family, which, next(counts), rtol)
    kinds = ("M", "blocks", "resumed", "products", "small basis", "shift")
    for family, which, kind in itertools.product(FAMILIES, WHICH, kinds):
        yield Case(family, which, next(counts), RTOLS[kind in ("M", "resumed")], kind)
        next(counts)
    for family, which in itertools.product(FAMILIES, WHICH):
        yield Case(family, which, next(counts), 1e-4, "plain", "float32")
        yield Case(family, which, next(counts), 1e-6, "plain", "float32")
