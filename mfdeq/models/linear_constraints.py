"""Linear constraints C h = total, and several constraints as one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..arrays.backend import Array, Backend, host, is_sparse, shape_of
from ..arrays.library import library_of
from ..errors import ArgumentError, DerivativeError, ModelError
from ..operators.dot_tests import check_symmetric
from ..operators.user_operators import as_operator
from .constraints import MAX_CHANGE_ROUNDINGS, ConstraintBase, described, matrix_of
from .curvature import BlockCurvature, CurvatureOperator, add_curvatures
from .losses import nearby_point
from .quadratic_losses import copy_of_matrix, copy_of_numbers


class LinearConstraint(ConstraintBase):
    """Linear equations C h = total: conserved totals, a mean, a reference value.

    Parameters
    ----------
    matrix : (m, N) array, sparse matrix or LinearOperator, or (N,) array
        C.
    total : float or (m,) array or callable, optional
        The right-hand side, by default zero; ``total(theta)`` if it depends on the parameters.
    d_total : callable, optional
        ``d_total(theta)`` returns the (m, P) derivative of ``total(theta)``, a (P,) array if m = 1.
    curvature : callable, optional
        ``curvature(theta, nu)`` returns the (P, P) Hessian of nuᵀtotal for an (m,) array nu. Omit
        it if total is linear in theta.

    Raises
    ------
    ModelError
        If an array has a wrong shape or dtype or non-finite entries.

    See Also
    --------
    Constraint : A nonlinear constraint.
    constrain : The model with its constraints.

    Examples
    --------
    The total of two species that turn into each other is the last parameter:

    >>> import mfdeq, numpy as np
    >>> def residual(h, theta):
    ...     rate = theta[0] * h[0] - theta[1] * h[1]
    ...     return rate * np.array([1.0, -1.0])
    >>> model = mfdeq.from_function(residual, 2, 3, "residual")
    >>> total = mfdeq.LinearConstraint(
    ...     np.ones(2), lambda theta: theta[2], d_total=lambda theta: np.array([0.0, 0.0, 1.0])
    ... )
    >>> eq = mfdeq.solve(mfdeq.constrain(model, total), np.array([1.0, 3.0, 8.0]))
    >>> print(eq.state.round(4))
    [6. 2.]
    """

    is_linear = True

    def __init__(
        self,
        matrix: Any,
        total: Any = 0.0,
        d_total: Callable[[Array], Any] | None = None,
        curvature: Callable[[Array, Array], Any] | None = None,
    ) -> None:
        for name, function in (("d_total", d_total), ("curvature", curvature)):
            if function is not None and not callable(function):
                raise ModelError(
                    f"{name} of the LinearConstraint: expected a function of theta, got "
                    f"{type(function).__name__}"
                )
        shape: tuple[int, ...]
        rows = list(matrix) if isinstance(matrix, (list, tuple)) else None
        if rows and library_of(rows[0]).distributed:
            self.matrix, shape = [copy_of_matrix(row) for row in rows], (len(rows), -1)
        else:
            matrix = matrix if rows is None else host.asarray(rows)
            self.matrix, shape = copy_of_matrix(matrix), shape_of(matrix)
        if len(shape) not in (1, 2):
            raise ModelError(
                "matrix of the LinearConstraint: expected an array, a sparse matrix or a "
                f"LinearOperator of shape (m, N), got {described(matrix)}"
            )
        self.size = 1 if len(shape) == 1 else int(shape[0])
        self._d_total, self._curvature = d_total, curvature
        if not callable(total):
            total = copy_of_numbers(total, "total of the LinearConstraint")
            shape = tuple(getattr(total, "shape", ()))
            if shape not in ((), (self.size,)):
                raise ModelError(
                    f"total of the LinearConstraint: expected a number or an array of shape "
                    f"({self.size},), got shape {shape}"
                )
        self.total = total
        self._known_zero = set()
        self._cache: tuple[Backend, int, Any] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_cache": None}

    def value(self, h: Array, theta: Array) -> Array:
        """Return C h − total(theta), (m,)."""
        return self.d_state(h, theta) @ h - self._total(theta)

    def _total(self, theta: Array) -> Array:
        backend = Backend.of(theta)
        if callable(self.total):
            return self._sized(backend, self._call("total", self.total, theta), "total")
        if isinstance(self.total, float):
            return backend.coefficients(host.full(self.known_size, self.total))
        total = backend.vector(self.total, self.known_size, self._name("total"), convert=True)
        return backend.replicated(total)

    def d_state(self, h: Array, theta: Array) -> Any:
        """Return C, (m, N)."""
        backend, n = Backend.of(h), h.shape[0]
        latest = self._cache  # which another thread may replace
        if latest is None or latest[:2] != (backend, n):
            shape = self.known_size, n
            matrix = matrix_of(backend, self.matrix, shape, self._name("matrix"))
            latest = self._cache = backend, n, matrix
        return latest[2]

    def d_params(self, h: Array, theta: Array) -> Any:
        """Return −∂total/∂θ, (m, P), or None."""
        if not callable(self.total):
            return None
        if self._d_total is not None:
            given = self._call("d_total", self._d_total, theta)
            shape = self.known_size, theta.shape[0]
            return -matrix_of(Backend.of(theta), given, shape, self._name("d_total"))
        self._check_no_params("d_total", "total", self._total, theta)
        return None

    def curvature(self, h: Array, theta: Array, nu: Array) -> CurvatureOperator | None:
        """Return the Hessian of −νᵀtotal, or None."""
        if not callable(self.total):
            return None
        backend, P, N = Backend.of(h), theta.shape[0], h.shape[0]
        if self._curvature is not None:
            given = self._call("curvature", self._curvature, theta, nu)
            name = self._name("curvature")
            block = -as_operator(backend, given, (P, P), name, convert=True)
            check_symmetric(block, name, "it")
            return BlockCurvature(backend, P, N, [block, None, None])
        if "curvature" not in self._known_zero and self._d_total is not None:
            x = backend.random(P, seed=11)
            here, there = (self.d_params(h, y) @ x for y in (theta, nearby_point(theta)))
            limit = MAX_CHANGE_ROUNDINGS * backend.eps * backend.norm(here)
            if backend.norm(here - there) > limit:
                raise DerivativeError(
                    "curvature of the LinearConstraint is missing, but d_total depends on the "
                    "parameters: pass curvature=lambda theta, nu: ..., the (P, P) Hessian of nu "
                    "times total",
                    field="curvature",
                )
            self._known_zero.add("curvature")
        return None


class Constraints:
    """Several constraints as one of m equations; see `ConstraintBase`.

    Parameters
    ----------
    parts : tuple of Constraint or LinearConstraint
    """

    def __init__(self, parts: tuple[ConstraintBase, ...]) -> None:
        self.parts = parts

    @classmethod
    def of(cls, given: Any) -> Constraints:
        """Return the constraints that a user passes: one, or a sequence of them."""
        parts = tuple(given) if isinstance(given, (list, tuple)) else (given,)
        for part in parts:
            if not isinstance(part, ConstraintBase):
                raise ArgumentError(
                    "constraints: expected an mfdeq.Constraint, an mfdeq.LinearConstraint or a "
                    f"list of them, got {described(part)}"
                )
        if not parts:
            raise ArgumentError("constraints: expected at least one constraint, got an empty list")
        return cls(parts)

    @property
    def is_linear(self) -> bool:
        """Whether all of them are linear in the state."""
        return all(part.is_linear for part in self.parts)

    def value(self, h: Array, theta: Array) -> Array:
        """Return c(h, theta), (m,)."""
        return _concatenated([part.value(h, theta) for part in self.parts])

    def d_state(self, h: Array, theta: Array) -> Any:
        """Return C = ∂c/∂h as an (m, N) array, or as a sparse matrix if all parts are."""
        return _stack(Backend.of(h), [part.d_state(h, theta) for part in self.parts])

    def d_params(self, h: Array, theta: Array) -> Any:
        """Return ∂c/∂θ as an (m, P) array or sparse matrix, or None if it is zero."""
        blocks = [part.d_params(h, theta) for part in self.parts]
        if all(block is None for block in blocks):
            return None
        sizes = [part.known_size for part in self.parts]
        backend, P = Backend.of(theta), theta.shape[0]
        some_dense = any(block is not None and not is_sparse(block) for block in blocks)
        for k, block in enumerate(blocks):
            if block is not None:
                continue
            if some_dense:
                blocks[k] = backend.row_vectors(sizes[k], P)
            else:
                blocks[k] = backend.sparse.csr_matrix((sizes[k], P), dtype=backend.dtype)
        return _stack(backend, blocks)

    def _split(self, x: Array) -> list[Array]:
        """Split an (m,) array among the parts."""
        pieces, start = [], 0
        for part in self.parts:
            pieces.append(x[start : start + part.known_size])
            start += part.known_size
        return pieces

    def curvature(self, h: Array, theta: Array, nu: Array) -> CurvatureOperator | None:
        """Return ∇²_(θ,h) (νᵀc), or None if it is zero."""
        total: CurvatureOperator | None = None
        for part, own in zip(self.parts, self._split(nu), strict=True):
            K = part.curvature(h, theta, own)
            if K is not None:
                total = K if total is None else add_curvatures(total, K)
        return total

    def second(self, h: Array, theta: Array, a: Array, b: Array) -> Array:
        """Return c''[a, b], (m,)."""
        return _concatenated([part.second(h, theta, a, b) for part in self.parts])


def _concatenated(values: list[Array]) -> Array:
    return values[0] if len(values) == 1 else Backend.of(values[0]).xp.concat(values)


def _stack(backend: Backend, blocks: list[Any]) -> Any:
    if len(blocks) == 1:
        return blocks[0]
    if all(is_sparse(block) for block in blocks):
        return backend.sparse.vstack(blocks).tocsr()
    dense = [block.toarray() if is_sparse(block) else block for block in blocks]
    return backend.xp.concat(dense, axis=0)
