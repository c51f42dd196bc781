"""The vectors of a block Lanczos process: their storage, and orthonormal blocks beside them."""

from __future__ import annotations

from typing import Any

from ..arrays.backend import Array, Backend
from ..arrays.memory import reserve
from ..linear.krylov.columns import gram_basis, read_together, reorthonormalize_in, times
from ..priors.metric import Metric

METRIC_RTOL = 1e-4  # relative difference up to which products with M are taken as of the same M


class LanczosBasis:
    """The orthonormal vectors V, followed by those of the next block Q, and their duals.

    `LanczosProcess` sets the attributes, of which it has the description.
    """

    backend: Backend
    metric: Metric
    basis: Array
    dual_basis: Array
    size: int
    width: int
    random_blocks: int

    def _allocate(self, rows: int, n: int) -> None:
        reserve(
            self.backend,
            rows * n * (1 if self.metric.is_identity else 2),
            f"a basis of {rows} vectors",
            "use a smaller basis= of mfdeq.eigsh, or fewer eigenpairs",
        )
        self.basis = self.backend.row_vectors(rows, n)
        self.dual_basis = self.basis
        if not self.metric.is_identity:
            self.dual_basis = self.backend.row_vectors(rows, n)

    def vectors(self, Y: Any) -> Array:
        """Return V Y."""
        return self.basis[: self.size, :].T @ self.backend.coefficients(Y)

    def duals(self, Y: Any) -> Array:
        """Return R V Y."""
        return self.dual_basis[: self.size, :].T @ self.backend.coefficients(Y)

    @property
    def next_duals(self) -> Array:
        """Return R Q, (n, b)."""
        return self.dual_basis[self.size : self.size + self.width, :].T

    def has_metric(self, metric: Metric) -> bool:
        """Return whether V belongs to the inner product of `metric`, by one product."""
        first, dual = self.basis[0, :], self.dual_basis[0, :]
        norm = self.backend.norm
        return norm(metric.apply(first) - dual) <= METRIC_RTOL * norm(dual)

    def _random_block(self, width: int) -> tuple[Array, Array]:
        """Return orthonormal random columns that are orthogonal to V, and their duals."""
        n = self.basis.shape[1]
        self.random_blocks += 1
        if not width:
            empty = self.backend.random(n, width)
            return empty, empty
        # A block without samples of the metric takes two seeds.
        pair = self.metric.random_pair(n, width, 100 + 2 * self.random_blocks)
        X, W = self._project_out(*self._project_out(*pair))
        return self._orthonormalize(X, W)

    def _project_out(self, X: Array, W: Array) -> tuple[Array, Array]:
        """Remove the part along V from X, and the corresponding part from its dual W."""
        V, dual = self.basis[: self.size, :], self.dual_basis[: self.size, :]
        h = V @ W
        X, W = X - V.T @ h, None if self.metric.is_identity else W - dual.T @ h
        return X, X if W is None else W

    def _orthonormalize(
        self, X: Array, W: Array, sizes: Array | None = None
    ) -> tuple[Array, Array]:
        """Return an orthonormal basis of the columns of X, and its dual."""
        backend = self.backend
        small = [X.T @ W] if sizes is None else [X.T @ W, sizes[None, :]]
        gram, *known = read_together(backend, *small)
        C, _ = gram_basis(backend.eps, gram, known[0][0, :] if known else None)
        columns, X = X.shape[1], times(backend, X, C)
        W = X if self.metric.is_identity else times(backend, W, C)
        return (X, W) if columns == 1 else reorthonormalize_in(backend, X, W)[:2]
