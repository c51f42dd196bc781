"""`mfdeq.Precision`: the precision R of a Gaussian prior, an operator and an inner product."""

from __future__ import annotations

from numbers import Real
from typing import Any

from ..arrays.backend import Array, Backend, check_block, is_dense, is_sparse, native, shape_of
from ..arrays.collective import collective
from ..errors import ArgumentError, short_repr
from ..locks import cached_property
from ..models.quadratic_losses import QuadraticPrior
from ..operators.dot_tests import check_symmetric
from ..operators.matrix_operator import Diagonal
from ..operators.operator import Operator, SelfAdjoint
from ..operators.user_operators import as_symmetric, backend_of, check_home
from .covariances import (
    Covariance,
    DenseCovariance,
    DiagonalCovariance,
    FactorCovariance,
    SparseCovariance,
    UserCovariance,
    indefinite,
)
from .metric import Euclidean, Metric

EXPECTED_R = "the precision R: expected a square matrix or operator, or its diagonal"


class Precision(SelfAdjoint, Metric):
    """The precision R of a Gaussian prior N(mean, R⁻¹), a LinearOperator (P, P).

    R is symmetric and positive definite. Pass it to `mfdeq.QuadraticPrior`, or as ``M`` to
    `mfdeq.eigsh` for the generalized eigenproblem H x = μ R x. R is factorized once, for solves,
    samples, variances and the determinant.

    Parameters
    ----------
    R : (P, P) sparse matrix, array, LinearOperator or Mat, or (P,) array or Vec
        A vector is the diagonal of R. A LinearOperator or a shell Mat requires `solve`.
    solve : LinearOperator or callable, optional
        R⁻¹ as a LinearOperator, or a function b -> R⁻¹ b of (P,) arrays. Only for an R that is a
        LinearOperator.
    root : LinearOperator, (P, m), optional
        G with G G' = R⁻¹; samples are G times white noise. Only for an R that is a
        LinearOperator; otherwise a root is computed from R.

    Attributes
    ----------
    covariance : LinearOperator, (P, P)
        R⁻¹.

    Raises
    ------
    ArgumentError
        If R is not symmetric positive definite, or `solve` or `root` belong to another R.

    Notes
    -----
    A sparse R is factorized once by a multifrontal method. A sample takes half of a solve; the
    variances are the exact diagonal of R⁻¹, computed from the factors [1]_; log det R is the sum
    of the logarithms of the pivots. A dense R is factorized by Cholesky's method.

    References
    ----------
    .. [1] K. Takahashi, J. Fagan and M.-S. Chen, "Formation of a sparse bus impedance matrix and
           its application to short circuit study", Power Industry Computer Applications
           Conference, 1973.
    .. [2] T. Bui-Thanh, O. Ghattas, J. Martin and G. Stadler, "A computational framework for
           infinite-dimensional Bayesian inverse problems. Part I: The linearized case, with
           application to global seismic inversion", SIAM Journal on Scientific Computing 35(6),
           A2494-A2523, 2013.

    Examples
    --------
    A smooth prior on a line, with R = κ² I - Δ:

    >>> import numpy as np
    >>> import scipy.sparse as sp
    >>> import mfdeq
    >>> laplacian = sp.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(5, 5))
    >>> R = mfdeq.Precision((laplacian + sp.identity(5)).tocsr())
    >>> (R @ np.ones(5)).tolist()
    [2.0, 1.0, 1.0, 1.0, 2.0]
    >>> np.allclose(R @ R.solve(np.ones(5)), 1.0)
    True
    >>> R.variances().round(4).tolist()
    [0.3819, 0.4375, 0.4444, 0.4375, 0.3819]
    >>> R.samples(1000).shape
    (5, 1000)
    >>> print(f"{R.log_determinant():.4f}")
    4.9698
    """

    @collective
    def __new__(cls, R: Any, *, solve: Any = None, root: Any = None) -> Any:
        """Create an instance that is also a LinearOperator of the array library of R."""
        return super().__new__(cls, backend_of(native(R)))

    @collective
    def __init__(self, R: Any, *, solve: Any = None, root: Any = None) -> None:
        R = native(R)
        SelfAdjoint.__init__(self, self, _square_shape(R))
        if (is_sparse(R) or is_dense(R)) and (solve is not None or root is not None):
            raise ArgumentError(
                "Precision: expected solve and root only for an R that is a LinearOperator, got "
                f"them for a {type(R).__name__}: omit them"
            )
        self.R = self._operator_of(R)
        self._is_matrix = is_sparse(R) or is_dense(R)
        self._solve, self._root = solve, root
        self._covariance  # noqa: B018, raises an error unless R is positive definite

    def _operator_of(self, R: Any) -> Operator:
        """Return R as an operator, checked to be symmetric."""
        backend = self.backend
        if is_dense(R) and R.ndim == 1:
            return Diagonal(backend, backend.vector(R, self.shape[0], "R of Precision"))
        op = as_symmetric(backend, R, self.shape, "R of Precision")
        check_symmetric(op, "R of Precision", "it")
        return op

    @cached_property
    def _covariance(self) -> Covariance:
        """The covariance for this kind of R. A copy or a pickle of the precision makes it again."""
        if isinstance(self.R, Diagonal):
            return DiagonalCovariance(self.R)
        if self._is_matrix:
            return (SparseCovariance if is_sparse(self.R.array) else DenseCovariance)(self.R)
        solver = self.backend.library.definite_solver() if self.R.has_entries else None
        if self._solve is None and solver is not None:
            return FactorCovariance(solver.setup(self.R))
        return UserCovariance(self.R, self._solve, self._root)

    @cached_property
    def array(self) -> Any:
        """The matrix or array of R; None if R is known by its products only."""
        if isinstance(self.R, Diagonal):
            return self.backend.sparse.diags(self.R.diagonal).tocsr()
        return self.R.array

    @cached_property
    def root_diagonal(self) -> Array | None:
        """The square roots of the diagonal of R; None if R is known by its products only."""
        R = self.R
        if isinstance(R, Diagonal):
            diagonal = R.diagonal
        elif self._is_matrix:
            sparse = is_sparse(R.array)
            diagonal = R.array.diagonal() if sparse else self.backend.xp.linalg.diagonal(R.array)
        else:
            return None
        return self.backend.xp.sqrt(self.backend.asarray(diagonal))

    def _apply(self, x: Array) -> Array:
        return self.R._apply(x)

    def apply(self, x: Array) -> Array:
        """Return R x.

        Parameters
        ----------
        x : (P,) or (P, k) array

        Returns
        -------
        (P,) or (P, k) array

        Examples
        --------
        >>> import numpy as np
        >>> import mfdeq
        >>> mfdeq.Precision(np.array([1.0, 4.0])).apply(np.ones(2)).tolist()
        [1.0, 4.0]
        """
        return self.R._apply(x)

    @collective
    def solve(self, b: Array) -> Array:
        """Return R⁻¹ b.

        Parameters
        ----------
        b : (P,) or (P, k) array

        Returns
        -------
        (P,) or (P, k) array

        Raises
        ------
        ArgumentError
            If b has another shape, dtype or array library.

        Examples
        --------
        >>> import numpy as np
        >>> import mfdeq
        >>> mfdeq.Precision(np.array([1.0, 4.0])).solve(np.ones(2)).tolist()
        [1.0, 0.25]
        """
        b = check_block(b, self.backend, self.shape[0], "the right-hand side")
        return self._covariance.solve(b)

    def norms(self, x: Array, dual: Array) -> Array:
        """Return the lengths of the columns of x in the inner product of R.

        Parameters
        ----------
        x, dual : (P, k) arrays
            The columns, and R times them.

        Returns
        -------
        (k,) array
            sqrt(x' R x) of each column.

        Raises
        ------
        ArgumentError
            If x' R x is negative beyond rounding, since R is then not positive definite.

        Examples
        --------
        >>> import numpy as np
        >>> import mfdeq
        >>> R = mfdeq.Precision(np.array([1.0, 4.0]))
        >>> R.norms(np.eye(2), R @ np.eye(2)).tolist()
        [1.0, 2.0]
        """
        backend = self.backend
        squares = backend.column_dots(x, dual)
        rounding = backend.eps**0.5 * backend.column_norms(x) * backend.column_norms(dual)
        if bool(backend.xp.any(squares < -rounding)):
            raise indefinite(f"x' R x is {float(backend.xp.min(squares)):.3g} for some x")
        return backend.xp.sqrt(backend.xp.maximum(squares, 0.0 * squares))

    @cached_property
    def covariance(self) -> Operator:
        """R⁻¹ as a LinearOperator, (P, P)."""
        return _CovarianceOperator(self)

    @collective
    def samples(self, n: int | None = None, seed: int = 0) -> Array:
        """Draw samples of N(0, R⁻¹).

        Parameters
        ----------
        n : int, optional
            The number of samples; by default one sample is returned as a vector.
        seed : int, optional
            The seed of the white noise, 0 by default. The same seed gives the same samples.

        Returns
        -------
        (P,) or (P, n) array
            The samples as columns.

        Raises
        ------
        ArgumentError
            If R is known by its products only and has no root.

        Examples
        --------
        >>> import numpy as np
        >>> import mfdeq
        >>> R = mfdeq.Precision(np.array([1.0, 100.0]))
        >>> R.samples().shape
        (2,)
        >>> R.samples(4000, seed=1).std(axis=1).round(1).tolist()
        [1.0, 0.1]
        """
        size = self._covariance.noise_size
        shape = (size,) if n is None else (size, n)
        return self._covariance.apply_root(self.backend.random(*shape, seed=seed))

    def gaussian(self, size: int, n: int, seed: int) -> Array:
        """Draw n samples of N(0, R⁻¹), the columns of a (P, n) array."""
        return self.samples(n, seed)

    def variances(self) -> Array:
        """Return the variances of the parameters, the exact diagonal of R⁻¹.

        Returns
        -------
        (P,) array

        Raises
        ------
        ArgumentError
            If R is known by its products only.

        Examples
        --------
        >>> import numpy as np
        >>> import mfdeq
        >>> mfdeq.Precision(np.array([[2.0, 1.0], [1.0, 2.0]])).variances().round(6).tolist()
        [0.666667, 0.666667]
        """
        return self._covariance.variances()

    def log_determinant(self) -> float:
        """Return log det R.

        Returns
        -------
        float

        Raises
        ------
        ArgumentError
            If R is known by its products only.

        Examples
        --------
        >>> import math
        >>> import numpy as np
        >>> import mfdeq
        >>> R = mfdeq.Precision(np.array([[2.0, 1.0], [1.0, 2.0]]))
        >>> round(math.exp(R.log_determinant()), 6)
        3.0
        """
        return self._covariance.log_determinant()


def metric_of(M: Any, backend: Backend, size: int) -> Metric:
    """Return the inner product of a user's `M`, by default the Euclidean one."""
    if M is None:
        return Euclidean(backend)
    precision = M if isinstance(M, Precision) else Precision(M)
    check_home(backend, precision, "M", ArgumentError)
    if precision.shape[0] != size:
        raise ArgumentError(f"M: expected the shape ({size}, {size}), got {precision.shape}")
    return precision


class _CovarianceOperator(SelfAdjoint):
    """The operator R⁻¹."""

    def __init__(self, precision: Precision) -> None:
        super().__init__(precision, precision.shape)
        self.precision = precision

    def _apply(self, x: Array) -> Array:
        return self.precision.solve(x)


def _square_shape(R: Any) -> tuple[int, int]:
    """Return the shape (P, P) of R, which may be given by its diagonal."""
    if isinstance(R, QuadraticPrior):
        raise ArgumentError(
            f"{EXPECTED_R}, got a QuadraticPrior: pass its precision, prior.precision"
        )
    if isinstance(R, Real):
        raise ArgumentError(f"{EXPECTED_R}, got {R!r}: pass the diagonal, numpy.full(P, {R!r})")
    shape = tuple(shape_of(R))
    if len(shape) == 1 and is_dense(R):
        shape = 2 * shape
    if len(shape) != 2 or shape[0] != shape[1] or shape[0] == 0:
        raise ArgumentError(f"{EXPECTED_R}, got {short_repr(R)}")
    return shape
