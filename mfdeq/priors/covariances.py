"""The covariance R⁻¹ of each kind of precision R: solves, a root, variances and the determinant.

A root is a matrix G with G G' = R⁻¹. If w is white noise, G w has the covariance R⁻¹.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from ..arrays.backend import Array, Backend
from ..arrays.kernels import scale_rows
from ..errors import ArgumentError, SingularStateError
from ..linear import Direct, Factor
from ..linear.direct.package import UnsuitableMatrixError
from ..operators.matrix_operator import Diagonal
from ..operators.operator import Operator, SelfAdjoint, columnwise
from ..operators.user_operators import as_operator, as_symmetric

# Allowed relative difference between x and solve(R x), and between x and G G' R x, for a random x.
INVERSE_RTOL = 1e-6


class Covariance(ABC):
    """The covariance R⁻¹. By default, all but `solve` raise an `ArgumentError`."""

    @property
    def noise_size(self) -> int:
        """The number of columns of the root G."""
        raise self._unavailable("samples", "root=, a LinearOperator G with G G' = R^-1")

    @abstractmethod
    def solve(self, b: Array) -> Array:
        """Return R⁻¹ b for a (P,) or (P, k) array b."""

    def apply_root(self, white: Array) -> Array:
        """Return G w for a (noise_size,) or (noise_size, k) array w."""
        raise self._unavailable("samples", "root=, a LinearOperator G with G G' = R^-1")

    def variances(self) -> Array:
        """Return the diagonal of R⁻¹, (P,)."""
        raise self._unavailable("variances", "R as a sparse matrix, array or diagonal")

    def log_determinant(self) -> float:
        """Return log det R."""
        raise self._unavailable("the determinant", "R as a sparse matrix, array or diagonal")

    @staticmethod
    def _unavailable(quantity: str, needed: str) -> ArgumentError:
        return ArgumentError(
            f"{quantity} of a Precision: expected {needed}, got an R that is known by its products "
            "and solves only"
        )


class DiagonalCovariance(Covariance):
    """The covariance of independent parameters."""

    def __init__(self, R: Diagonal) -> None:
        self.backend, self.diagonal, self._size = R.backend, R.diagonal, R.shape[0]
        if not bool(self.backend.xp.all(self.diagonal > 0.0)):
            least = float(self.backend.xp.min(self.diagonal))
            raise indefinite(f"its smallest diagonal entry is {least:.3g}")

    @property
    def noise_size(self) -> int:
        """The number of columns of G, which is P."""
        return self._size

    def solve(self, b: Array) -> Array:
        """Return b divided by the diagonal."""
        return scale_rows(1.0 / self.diagonal, b)

    def apply_root(self, white: Array) -> Array:
        """Return w divided by the square root of the diagonal."""
        return scale_rows(1.0 / self.backend.xp.sqrt(self.diagonal), white)

    def variances(self) -> Array:
        """Return the reciprocals of the diagonal."""
        return 1.0 / self.diagonal

    def log_determinant(self) -> float:
        """Return the sum of the logarithms of the diagonal."""
        return float(self.backend.xp.sum(self.backend.xp.log(self.diagonal)))


class SparseCovariance(Covariance):
    """The inverse of a sparse R, by a multifrontal factorization of C R C with C diagonal."""

    def __init__(self, R: Operator) -> None:
        self._size = R.shape[0]
        try:
            factor: Any = Direct(package="multifrontal").setup(R)
        except UnsuitableMatrixError as error:
            if error.singular:
                raise indefinite(error.reason) from error
            raise ArgumentError(
                f"the precision R cannot be factorized: {error.reason}. Pass R as a "
                "LinearOperator, with solve="
            ) from error
        except SingularStateError as error:
            raise indefinite("it is singular") from error
        self.factor, self.fronts = factor, factor.factorization
        self.scale = factor.scaling.rows  # the diagonal of C, or None for the identity
        if (negative := self.fronts.negative_pivots()) != 0:
            raise indefinite(
                "it is singular to working precision"
                if negative is None
                else f"{negative} of its eigenvalues are negative"
            )

    @property
    def noise_size(self) -> int:
        """The number of columns of G, which is P."""
        return self._size

    def solve(self, b: Array) -> Array:
        """Return R⁻¹ b, with iterative refinement."""
        return self.factor.solve(b)

    def apply_root(self, white: Array) -> Array:
        """Return G w, with G from the factorization, by half of a solve."""
        return self._scaled(self.fronts.apply_inverse_root(white))

    def variances(self) -> Array:
        """Return the exact diagonal of R⁻¹, from the factors."""
        return self._scaled(self._scaled(self.fronts.inverse_diagonal()))

    def log_determinant(self) -> float:
        """Return log det (C R C) - 2 log det C."""
        scaled = self.fronts.log_determinant()
        if self.scale is None:
            return scaled
        xp = self.fronts.backend.xp
        return scaled - 2.0 * float(xp.sum(xp.log(self.scale)))

    def _scaled(self, x: Array) -> Array:
        return x if self.scale is None else scale_rows(self.scale, x)


class DenseCovariance(Covariance):
    """The inverse of a dense R, by its Cholesky factorization R = L L' with G = L⁻ᵀ.

    C R C with unit diagonal is what is judged and factorized, so that units do not matter.
    """

    def __init__(self, R: Any) -> None:
        self.backend, self.R, self._size = R.backend, R, R.shape[0]
        xp = R.backend.xp
        diagonal = xp.linalg.diagonal(R.array)
        if not (least := float(xp.min(diagonal))) > 0.0:
            raise indefinite(f"its smallest diagonal entry is {least:.3g}")
        scale = 1.0 / xp.sqrt(diagonal)  # the diagonal of C
        scaled = scale[:, None] * R.array * scale
        values = xp.linalg.eigvalsh(scaled)
        least, largest = float(xp.min(values)), float(xp.max(values))
        if not least > R.backend.eps * largest:
            raise indefinite(
                f"with rows and columns scaled to a unit diagonal, its smallest eigenvalue is "
                f"{least:.3g}"
            )
        L = xp.linalg.cholesky(scaled)
        self.L, self.inverse = L / scale[:, None], xp.linalg.inv(L) * scale

    @property
    def noise_size(self) -> int:
        """The number of columns of G, which is P."""
        return self._size

    def solve(self, b: Array) -> Array:
        """Return R⁻¹ b, with one step of refinement."""
        x = self.inverse.T @ (self.inverse @ b)
        return x + self.inverse.T @ (self.inverse @ (b - self.R._apply(x)))

    def apply_root(self, white: Array) -> Array:
        """Return L⁻ᵀ w."""
        return self.inverse.T @ white

    def variances(self) -> Array:
        """Return the squared lengths of the columns of L⁻¹."""
        return self.backend.xp.sum(self.inverse**2, axis=0)

    def log_determinant(self) -> float:
        """Return twice the sum of the logarithms of the diagonal of L."""
        xp = self.backend.xp
        return 2.0 * float(xp.sum(xp.log(xp.linalg.diagonal(self.L))))


class FactorCovariance(Covariance):
    """The inverse of an R that another library (PETSc) factorizes; it has no root."""

    def __init__(self, factor: Factor) -> None:
        self.factor = factor

    def solve(self, b: Array) -> Array:
        """Return R⁻¹ b by the factor."""
        return self.factor.solve(b)


class UserCovariance(Covariance):
    """The inverse of an R known by its products, from the user's solve and optional root."""

    def __init__(self, R: Operator, solve: Any, root: Any) -> None:
        backend, shape = R.backend, R.shape
        if solve is None:
            raise ArgumentError(
                "solve of Precision: expected R^-1 as a LinearOperator or a function, since R is a "
                "LinearOperator, got None. Pass solve=, or pass R as a sparse matrix"
            )
        if hasattr(solve, "matvec"):
            self.inverse: Operator = as_symmetric(backend, solve, shape, "solve of Precision")
        else:
            self.inverse = _UserSolve(backend, solve, shape)
        x = backend.random(shape[0], 2, seed=17)
        dual = R._apply(x)
        if not float(backend.xp.min(backend.column_dots(x, dual))) > 0.0:
            raise indefinite("x' R x is not positive for a random x")
        _check_inverse(backend, x, self.inverse._apply(dual), "solve(R x)")
        self.root: Operator | None = None
        if root is not None:
            root_shape = tuple(getattr(root, "shape", ()))
            if len(root_shape) != 2 or root_shape[0] != shape[0]:
                raise ArgumentError(
                    f"root of Precision: expected the shape ({shape[0]}, m), got {root_shape}"
                )
            self.root = as_operator(backend, root, root_shape, "root of Precision")
            image = self.root._apply(self.root._apply_adjoint(dual))
            _check_inverse(backend, x, image, "G G' R x, with G = root,")

    @property
    def noise_size(self) -> int:
        """The number of columns of the user's root."""
        return super().noise_size if self.root is None else self.root.shape[1]

    def solve(self, b: Array) -> Array:
        """Return R⁻¹ b by the user's solve."""
        return self.inverse._apply(b)

    def apply_root(self, white: Array) -> Array:
        """Return G w by the user's root."""
        return super().apply_root(white) if self.root is None else self.root._apply(white)


class _UserSolve(SelfAdjoint):
    """The operator of a user's function b -> R⁻¹ b of (P,) arrays."""

    def __init__(self, backend: Backend, function: Any, shape: tuple[int, int]) -> None:
        if not callable(function):
            raise ArgumentError(
                "solve of Precision: expected a LinearOperator or a function, got "
                f"{type(function).__name__}"
            )
        super().__init__(backend, shape)
        self.function = function

    def _apply(self, x: Array) -> Array:
        size = self.shape[0]

        def checked_solve(b: Array) -> Array:
            return self.backend.vector(self.function(b), size, "solve of Precision")

        return columnwise(checked_solve, x, self.backend, size)


def _check_inverse(backend: Backend, x: Array, image: Array, formula: str) -> None:
    error = backend.norm(image - x) / backend.norm(x)
    if not error <= max(INVERSE_RTOL, backend.eps**0.5):
        raise ArgumentError(
            f"Precision: expected {formula} to return x, got a relative error of {error:.1e} for "
            "a random x. It may belong to another R"
        )


def indefinite(reason: str) -> ArgumentError:
    """Return the error for an R that is not positive definite."""
    return ArgumentError(
        f"the precision R is not positive definite: {reason}. If R is only semidefinite, add a "
        "multiple of the identity"
    )
