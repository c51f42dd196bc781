"""Precisions of Gaussian priors: an inner product x' R y, and covariances R^-1 with their roots.

Of a sparse R all comes from one multifrontal factorization: solves, samples (half a solve), exact
variances (the diagonal of the inverse) and the determinant.
"""

from __future__ import annotations

import functools
from typing import Any

from ..arrays.backend import Array, Backend, check_block, is_dense, is_sparse, native, shape_of
from ..arrays.kernels import scale_rows
from ..errors import ArgumentError, SingularStateError
from ..linear import Direct, Factor
from ..linear.direct.package import UnsuitableMatrixError
from ..operators.dot_tests import check_symmetric
from ..operators.operator import Diagonal, Operator, SelfAdjoint, columnwise
from ..operators.user_operators import as_operator, as_symmetric, backend_of, check_home

AGREE = 1e-6  # to which R of the solve given for R must be the identity


class Euclidean:
    """The inner product x' y, whose dual vectors are the vectors."""

    trivial = True

    def __init__(self, backend: Backend) -> None:
        self.backend = backend

    def apply(self, x: Array) -> Array:
        """R x, of (P,) and (P, k) arrays."""
        return x

    def solve(self, b: Array) -> Array:
        """R^-1 b, of (P,) and (P, k) arrays."""
        return b

    def norms(self, x: Array, dual: Array) -> Array:
        """Lengths of the columns of x, dual = R x."""
        return self.backend.column_norms(x)

    def white(self, size: int, n: int, seed: int) -> Array:
        """n Gaussian columns x with E[x x'] = R^-1."""
        return self.backend.random(size, n, seed=seed)

    def dual_norms(self, dual: Array) -> Array:
        """Lengths of the columns of R^-1 of a block."""
        return self.norms(self.solve(dual), dual)


class Precision(SelfAdjoint, Euclidean):
    """R, symmetric and positive definite, (P, P): the precision of a Gaussian prior.

    An operator: it goes into `mfdeq.QuadraticPrior` and, as ``M``, into `mfdeq.eigsh`.

    Parameters
    ----------
    R : (P, P) sparse matrix, array, LinearOperator or Mat, or (P,) array or Vec
        Of a vector, the diagonal. A LinearOperator needs `solve`, a shell Mat, too.
    solve : LinearOperator or callable, optional
        R^-1 b of (P,) arrays; of (P, k) too, if it is a LinearOperator.
    root : LinearOperator, (P, m), optional
        G with G G' = R^-1: a sample is G times white noise. Only for an R that is a
        LinearOperator; of others it is known.

    Raises
    ------
    ArgumentError
        If R is not symmetric and positive definite, or `solve` or `root` are not R's.
    """

    trivial = False

    def __new__(cls, R: Any, *args: Any, **kwargs: Any) -> Any:
        """On the library of R."""
        return super().__new__(cls, backend_of(native(R)))

    def __init__(self, R: Any, *, solve: Any = None, root: Any = None) -> None:
        R = native(R)
        shape = _size(R)
        SelfAdjoint.__init__(self, self, shape)
        backend, matrix = self.backend, is_sparse(R) or is_dense(R)
        if matrix and (solve is not None or root is not None):
            raise ArgumentError("solve and root of Precision are for an R that is a LinearOperator")
        if is_dense(R) and R.ndim == 1:
            self.R: Operator = Diagonal(backend, backend.vector(R, shape[0], "R of Precision"))
            self._covariance: Any = _OfDiagonal(self.R)
            return
        self.R = as_symmetric(backend, R, shape, "R of Precision")
        check_symmetric(self.R, "R of Precision", "it")
        if matrix:
            self._covariance = _OfSparse(self.R) if is_sparse(R) else _OfDense(self.R)
            return
        solver = backend.library.definite_solver() if self.R.has_entries else None
        if solve is None and solver is not None:
            self._covariance = _OfFactor(solver.setup(self.R))
        else:
            self._covariance = _Given(self.R, solve, root)

    @functools.cached_property
    def array(self) -> Any:
        """The entries of R; None where only products are known."""
        if isinstance(self.R, Diagonal):
            return self.backend.sparse.diags(self.R.diagonal).tocsr()
        return self.R.array

    def _apply(self, x: Array) -> Array:
        return self.R._apply(x)

    def apply(self, x: Array) -> Array:
        """R x, of (P,) and (P, k) arrays."""
        return self.R._apply(x)

    def solve(self, b: Array) -> Array:
        """R^-1 b, of (P,) and (P, k) arrays."""
        b = check_block(b, self.backend, self.shape[0], "the right-hand side")
        return self._covariance.solve(b)

    def norms(self, x: Array, dual: Array) -> Array:
        """Lengths of the columns of x in the inner product, dual = R x."""
        backend = self.backend
        squares = backend.column_dots(x, dual)
        least = -(backend.eps**0.5) * backend.column_norms(x) * backend.column_norms(dual)
        if bool(backend.xp.any(squares < least)):
            raise indefinite(f"x' R x is {float(backend.xp.min(squares)):.3g} for some x")
        return backend.xp.sqrt(backend.xp.maximum(squares, 0.0 * squares))

    @functools.cached_property
    def covariance(self) -> Operator:
        """R^-1, (P, P)."""
        return _Covariance(self)

    def samples(self, n: int | None = None, seed: int = 0) -> Array:
        """Samples of N(0, R^-1), (P,), or n of them as columns, (P, n).

        Raises
        ------
        ArgumentError
            For an R known by its products only, without a root.
        """
        shape = (self._covariance.noise,) if n is None else (self._covariance.noise, n)
        return self._covariance.root(self.backend.random(*shape, seed=seed))

    def white(self, size: int, n: int, seed: int) -> Array:
        """n Gaussian columns x with E[x x'] = R^-1."""
        return self.samples(n, seed)

    def variances(self) -> Array:
        """The diagonal of R^-1, (P,), exact; of an R without entries an `ArgumentError`."""
        return self._covariance.variances()

    def log_determinant(self) -> float:
        """log det R; of an R without entries an `ArgumentError`."""
        return self._covariance.log_determinant()


Metric = Euclidean  # a Precision is one


def metric_of(M: Any, backend: Backend, size: int) -> Metric:
    """The inner product that a caller means by `M`; None is the Euclidean one."""
    if M is None:
        return Euclidean(backend)
    found = M if isinstance(M, Precision) else Precision(M)
    check_home(backend, found, "M", ArgumentError)
    if found.shape[0] != size:
        raise ArgumentError(f"M has shape {found.shape}; ({size}, {size}) was expected")
    return found


class _Covariance(SelfAdjoint):
    """R^-1."""

    def __init__(self, precision: Precision) -> None:
        super().__init__(precision, precision.shape)
        self.precision = precision

    def _apply(self, x: Array) -> Array:
        return self.precision.solve(x)


class _OfDiagonal:
    """Of independent parameters."""

    def __init__(self, R: Diagonal) -> None:
        self.xp, self.diagonal, self.noise = R.backend.xp, R.diagonal, R.shape[0]
        if not bool(self.xp.all(self.diagonal > 0.0)):
            raise indefinite(f"an entry is {float(self.xp.min(self.diagonal)):.3g}")

    def solve(self, b: Array) -> Array:
        return scale_rows(1.0 / self.diagonal, b)

    def root(self, white: Array) -> Array:
        return scale_rows(1.0 / self.xp.sqrt(self.diagonal), white)

    def variances(self) -> Array:
        return 1.0 / self.diagonal

    def log_determinant(self) -> float:
        return float(self.xp.sum(self.xp.log(self.diagonal)))


class _OfSparse:
    """Of one multifrontal factorization."""

    def __init__(self, R: Operator) -> None:
        self.noise = R.shape[0]
        try:
            factor: Any = Direct(package="multifrontal").setup(R)
        except UnsuitableMatrixError as error:
            if error.singular:
                raise indefinite(error.reason) from error
            raise ArgumentError(
                f"the precision R cannot be factorized: {error.reason}. Give R as a "
                "LinearOperator with solve="
            ) from error
        except SingularStateError as error:
            raise indefinite("it is singular") from error
        self.factor, self.fronts, self.scaling = factor, factor.factorization, factor.scaling
        if (negative := self.fronts.negative_pivots()) != 0:
            raise indefinite(
                "it is singular to working precision"
                if negative is None
                else f"{negative} eigenvalues are negative"
            )

    def solve(self, b: Array) -> Array:
        return self.factor.solve(b)

    def root(self, white: Array) -> Array:
        return self._scaled(self.fronts.apply_inverse_root(white))

    def variances(self) -> Array:
        return self._scaled(self._scaled(self.fronts.inverse_diagonal()))

    def log_determinant(self) -> float:
        found, scale = self.fronts.log_determinant(), self.scaling.rows
        if scale is None:
            return found
        xp = self.fronts.backend.xp
        return found - 2.0 * float(xp.sum(xp.log(scale)))

    def _scaled(self, x: Array) -> Array:
        return x if self.scaling.rows is None else scale_rows(self.scaling.rows, x)


class _OfDense:
    """Of a Cholesky factor L: R = L L'."""

    def __init__(self, R: Any) -> None:
        self.xp, self.R, self.noise = R.backend.xp, R, R.shape[0]
        values = self.xp.linalg.eigvalsh(R.array)
        if not float(self.xp.min(values)) > R.backend.eps * float(self.xp.max(values)):
            raise indefinite(f"an eigenvalue is {float(self.xp.min(values)):.3g}")
        self.L = self.xp.linalg.cholesky(R.array)
        self.inverse = self.xp.linalg.inv(self.L)

    def solve(self, b: Array) -> Array:
        x = self.inverse.T @ (self.inverse @ b)
        return x + self.inverse.T @ (self.inverse @ (b - self.R._apply(x)))

    def root(self, white: Array) -> Array:
        return self.inverse.T @ white

    def variances(self) -> Array:
        return self.xp.sum(self.inverse**2, axis=0)

    def log_determinant(self) -> float:
        return 2.0 * float(self.xp.sum(self.xp.log(self.xp.linalg.diagonal(self.L))))


class _Given:
    """Of the caller's solve, and root where there is one."""

    def __init__(self, R: Operator, solve: Any, root: Any) -> None:
        backend, size = R.backend, R.shape
        if solve is None:
            raise ArgumentError(
                "the precision R is known by its products only: give mfdeq.Precision(R, solve=), "
                "R^-1 as a LinearOperator or a function, or R as a sparse matrix"
            )
        known = hasattr(solve, "matvec")
        name = "solve of Precision"
        self.inverse = (
            as_symmetric(backend, solve, size, name) if known else _Function(backend, solve, size)
        )
        x = backend.random(size[0], 2, seed=17)
        dual = R._apply(x)
        if not float(backend.xp.min(backend.column_dots(x, dual))) > 0.0:
            raise indefinite("x' R x is not positive for a random x")
        _check_inverse(backend, x, self.inverse._apply(dual), "solve(R x)")
        self.given: Operator | None = None
        if root is not None:
            shape = tuple(getattr(root, "shape", ()))
            if len(shape) != 2 or shape[0] != size[0]:
                raise ArgumentError(
                    f"root of Precision has shape {shape}; ({size[0]}, m) was expected"
                )
            self.given = as_operator(backend, root, shape, "root of Precision")
            again = self.given._apply(self.given._apply_adjoint(dual))
            _check_inverse(backend, x, again, "G G' R x, G the root,")

    def solve(self, b: Array) -> Array:
        return self.inverse._apply(b)

    @property
    def noise(self) -> int:
        if self.given is None:
            raise _unknown("a sample", "its root=, G with G G' = R^-1")
        return self.given.shape[1]

    def root(self, white: Array) -> Array:
        if self.given is None:
            raise _unknown("a root", "its root=, G with G G' = R^-1")
        return self.given._apply(white)

    def variances(self) -> Array:
        raise _unknown("variances", "R as a sparse matrix")

    def log_determinant(self) -> float:
        raise _unknown("a determinant", "R as a sparse matrix")


class _OfFactor(_Given):
    """Of a factorization by a library that has its own, of which roots are not at hand."""

    def __init__(self, factor: Factor) -> None:
        self.factor, self.given = factor, None

    def solve(self, b: Array) -> Array:
        return self.factor.solve(b)


class _Function(SelfAdjoint):
    """A caller's function of (P,) arrays."""

    def __init__(self, backend: Backend, function: Any, size: tuple[int, int]) -> None:
        if not callable(function):
            raise ArgumentError(
                f"solve of Precision is a {type(function).__name__}; a LinearOperator or a "
                "function was expected"
            )
        super().__init__(backend, size)
        self.function = function

    def _apply(self, x: Array) -> Array:
        size = self.shape[0]

        def solved(b: Array) -> Array:
            return self.backend.vector(self.function(b), size, "solve of Precision")

        return columnwise(solved, x, self.backend, size)


def _size(R: Any) -> tuple[int, int]:
    shape = tuple(shape_of(R))
    if len(shape) == 1 and is_dense(R):
        shape = 2 * shape
    if len(shape) != 2 or shape[0] != shape[1] or shape[0] == 0:
        raise ArgumentError(
            f"the precision R is a {type(R).__name__} of shape {shape}; a square matrix or "
            "operator, or its diagonal, was expected"
        )
    return shape


def _check_inverse(backend: Backend, x: Array, again: Array, what: str) -> None:
    off = backend.norm(again - x) / backend.norm(x)
    if not off <= max(AGREE, backend.eps**0.5):
        raise ArgumentError(
            f"Precision: {what} is not x for a random x (off by {off:.1e}): it is not that of R"
        )


def indefinite(how: str) -> ArgumentError:
    """The error for an R that is not positive definite."""
    return ArgumentError(
        f"the precision R is not positive definite: {how}. Where a prior leaves a direction free, "
        "add a multiple of the identity"
    )


def _unknown(what: str, needed: str) -> ArgumentError:
    return ArgumentError(
        f"of a precision R that is known by its products and solve, {what} needs {needed}"
    )
