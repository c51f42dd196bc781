"""The interface of packages for sparse factorizations.

A package is one class in a file of this folder, and one line of `registry`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Protocol

from ...arrays.backend import Array, Backend
from ...errors import ArgumentError
from ...operators.operator import Operator
from .costs import Fill, PackageCost

# Relative residual of one unrefined solve up to which a factorization without full pivoting is
# accepted: refinement reaches the tolerance from there.
MAX_TRIAL_RESIDUAL = 1e-6

# Size of a factor of a sparse matrix up to which another one costs less than iterations of GMRES
# preconditioned by it, each of which takes hundreds of calls.
MAX_RENEWED_BYTES = 2**16


class Factorization(Protocol):
    """The factors of one matrix.

    Attributes
    ----------
    solves_adjoint : bool
        Whether `solve` takes ``adjoint=True``. If not, the transposed matrix is factorized as well
        when the first adjoint solve needs it.

    Examples
    --------
    Factors of a diagonal matrix:

    >>> import numpy as np
    >>> import scipy.sparse as sp
    >>> class DiagonalFactors:
    ...     solves_adjoint = True
    ...
    ...     def __init__(self, matrix):
    ...         self.diagonal = matrix.diagonal()
    ...         self.nbytes = self.diagonal.nbytes
    ...
    ...     def solve(self, b, adjoint=False):
    ...         return (b.T / self.diagonal).T  # for vectors and blocks
    >>> factors = DiagonalFactors(sp.diags_array([2.0, 4.0]))
    >>> factors.solve(np.ones((2, 2))).tolist()
    [[0.5, 0.5], [0.25, 0.25]]
    """

    solves_adjoint: bool

    @property
    def nbytes(self) -> int:
        """Bytes of the factors; 0 if the package does not report them."""
        ...

    def solve(self, b: Array, adjoint: bool = False) -> Array:
        """Return A⁻¹ b, or A⁻ᵀ b if `adjoint`, as a new array of the shape of b, (N,) or (N, k)."""
        ...


class DirectPackage(ABC):
    """A package that factorizes sparse matrices for `mfdeq.Direct`.

    A subclass defines `name`, `title`, `obstacle` and `factorize`. It has a cost if "auto" may
    choose it, and `default_max_operations` if ``mfdeq.Direct()`` may.

    Attributes
    ----------
    name : str
        The name in ``mfdeq.Direct(package=name)``.
    title : str
        The name in reports, "Direct (title)".
    equilibrates : bool
        Whether to scale rows and columns of A to similar size before `factorize`.
    pivots : bool
        Whether the package exchanges rows wherever needed, so that it factorizes any regular A.
        The last direct solver that "auto" tries is such a package.
    always_fastest : bool
        Whether no other solver is faster on the matrices that this package accepts, so that "auto"
        chooses it for them without estimates.
    cost_on_host, cost_on_device : PackageCost or None
        The time model for an A in the memory of the host or of a device; None if "auto" must not
        choose the package there.
    max_renewed_bytes : float
        The size of a factor up to which another one costs less than iterations preconditioned by
        it.

    Examples
    --------
    A package that inverts A, for matrices of up to a hundred unknowns:

    >>> import numpy as np
    >>> import scipy.sparse as sp
    >>> import mfdeq
    >>> from mfdeq.linear.direct.package import DirectPackage, unsuitable
    >>> from mfdeq.linear.direct.registry import PACKAGES, register
    >>> class Inverse:
    ...     solves_adjoint = True
    ...
    ...     def __init__(self, matrix):
    ...         self.inverse = np.linalg.inv(matrix.toarray())
    ...         self.nbytes = self.inverse.nbytes
    ...
    ...     def solve(self, b, adjoint=False):
    ...         return (self.inverse.T if adjoint else self.inverse) @ b
    >>> class InversePackage(DirectPackage):
    ...     name = "inverse"
    ...     title = "dense inverse"
    ...
    ...     def obstacle(self, A):
    ...         return "it has more than 100 unknowns" if A.shape[0] > 100 else ""
    ...
    ...     def factorize(self, A, matrix, max_operations=np.inf):
    ...         try:
    ...             return Inverse(matrix)
    ...         except np.linalg.LinAlgError as error:
    ...             raise unsuitable(self, "it is singular", singular=True) from error
    >>> register(InversePackage())
    >>> A = sp.csr_array([[2.0, 1.0], [0.0, 4.0]])
    >>> factor = mfdeq.Direct(package="inverse").setup(A)
    >>> factor.name
    'Direct (dense inverse)'
    >>> factor.solve(np.array([3.0, 4.0])).tolist()
    [1.0, 1.0]
    >>> del PACKAGES["inverse"]
    """

    name: str
    title: str
    equilibrates = True
    pivots = False
    always_fastest = False
    cost_on_host: PackageCost | None = None
    cost_on_device: PackageCost | None = None
    max_renewed_bytes: float = MAX_RENEWED_BYTES

    @abstractmethod
    def obstacle(self, A: Operator) -> str:
        """Return why this package cannot factorize A here, or "" if it can.

        The reason is a clause of an error message. It names a property of A (dense, not symmetric,
        not on the package's device) or what is not installed. This must be cheap: it is called
        before any other work.
        """

    def is_candidate(self, A: Operator, fill: Fill) -> bool:
        """Return whether "auto" considers this package for A, whose estimated fill is `fill`."""
        return not self.obstacle(A)

    def cost(self, A: Operator) -> PackageCost | None:
        """Return the time model for A; None if "auto" must not choose this package."""
        return self.cost_on_host if A.backend.library.on_host else self.cost_on_device

    def default_max_operations(self, A: Operator) -> float | None:
        """Return the number of operations up to which ``mfdeq.Direct()`` uses this package for A.

        None, the default, if the package is used only by name; infinity for no limit.
        """
        return None

    @abstractmethod
    def factorize(
        self, A: Operator, matrix: Any, max_operations: float = math.inf
    ) -> Factorization:
        """Factorize a sparse matrix.

        Parameters
        ----------
        A : Operator, (N, N)
            The matrix as an operator: ``A.array`` has its entries before scaling, ``A.backend`` its
            array library and device.
        matrix : sparse matrix, (N, N)
            The entries, of scipy or cupyx, scaled if `equilibrates`.
        max_operations : float
            Number of multiplications above which the factorization is not worth its cost. A package
            that cannot predict its operations ignores this.

        Raises
        ------
        UnsuitableMatrixError
            If the package cannot factorize the matrix, but another one may: see `unsuitable`.
        SingularStateError
            If the factorization shows that A is singular.
        """


class UnsuitableMatrixError(ArgumentError):
    """A matrix that one package cannot factorize, but another one may.

    Attributes
    ----------
    reason : str
        The reason, as a clause.
    singular : bool
        Whether a block that had to be inverted is singular.
    """

    def __init__(self, message: str, *, reason: str = "", singular: bool = False) -> None:
        super().__init__(message)
        self.reason = reason
        self.singular = singular


def unsuitable(
    package: DirectPackage, reason: str, *, singular: bool = False
) -> UnsuitableMatrixError:
    """Return the error for a matrix that `package` cannot factorize."""
    return UnsuitableMatrixError(
        f"mfdeq.Direct(package={package.name!r}) cannot factorize A: {reason}. "
        "Omit package= to choose a suitable one",
        reason=reason,
        singular=singular,
    )


def passes_trial_solve(
    backend: Backend,
    product: Callable[[Array], Array],
    solve: Callable[[Array], Array],
    n: int,
) -> bool:
    """Return whether one solve for a random right-hand side leaves a small residual."""
    residual = trial_residual(backend, product, solve, n)
    return residual <= max(MAX_TRIAL_RESIDUAL, backend.default_rtol)  # False for NaN


def trial_residual(
    backend: Backend,
    product: Callable[[Array], Array],
    solve: Callable[[Array], Array],
    n: int,
) -> float:
    """Return the relative residual of one solve for a random right-hand side."""
    b = backend.random(n, seed=5)
    return backend.norm(b - product(solve(b))) / backend.norm(b)
