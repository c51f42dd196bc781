"""The base classes of solvers and preconditioners, which state what each of them must do.

A `Solver` and a `Preconditioner` are descriptions: small, immutable, cheap to make and to print.
Their `setup(A)` does the work that is done once for each matrix: that of a solver returns a
`Factor`, that of a preconditioner a `PreconditionerOperator`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

from ..errors import ArgumentError, short_repr
from ..operators.operator import Operator
from ..report import LinearCounts
from .costs import BYTES_PER_ENTRY
from .factor import Factor

COLUMNS_PER_SPACE = 16  # columns that block methods solve in one search space, by default
VECTORS_PER_CYCLE = 30  # that GMRES stores for each column, by default


class Solver(ABC):
    """Base class of solvers, the descriptions of how to solve with A and its adjoint.

    A solver of your own derives from this class, defines `setup` and can then be passed as
    ``solver=`` wherever `mfdeq.Direct()` can.

    Notes
    -----
    Whatever the method, the `Factor` that `setup` returns checks the true residual of every solve.
    A description is set up for many matrices, so it should not store what belongs to one of them.

    Examples
    --------
    >>> import numpy as np
    >>> from mfdeq.linear import Factor, Solver, matrix_of, operator_of
    >>> class Inverse(Solver):
    ...     def setup(self, A, counts=None):
    ...         return InverseFactor(operator_of(A), None, counts)
    >>> class InverseFactor(Factor):
    ...     name = "inverse"
    ...
    ...     def __init__(self, A, rtol, counts):
    ...         super().__init__(A, rtol, counts)
    ...         self.inverse = np.linalg.inv(matrix_of(A, "Inverse()"))
    ...
    ...     def _attempt(self, b, rtol, adjoint):
    ...         return (self.inverse.T if adjoint else self.inverse) @ b
    >>> print(Inverse().setup(np.diag([2.0, 4.0])).solve(np.ones(2)))
    [0.5  0.25]
    """

    @abstractmethod
    def setup(self, A: Operator, counts: LinearCounts | None = None) -> Factor:
        """Do the work that is done once for A.

        Parameters
        ----------
        A : Operator, sparse matrix or array, (N, N)
            `mfdeq.linear.operator_of` makes an `Operator` of the others.
        counts : LinearCounts, optional
            Counts to which the factor adds its work; by default new ones.

        Returns
        -------
        Factor

        Raises
        ------
        ArgumentError
            If the method does not suit A.
        SingularStateError
            If the set-up shows that A is singular.
        ConvergenceError
            If the set-up shows that the method cannot converge.
        """

    def setup_for_equilibrium(self, A: Operator, counts: LinearCounts) -> Factor:
        """Do the same for a matrix with which there will be many solves; by default as `setup`."""
        return self.setup(A, counts)

    @property
    def description(self) -> str:
        """The name of the solver in reports; by default its ``str``."""
        return str(self)

    @property
    def choices(self) -> Sequence[str]:
        """The decisions made so far, with their reasons; by default none."""
        return ()

    def forget(self) -> None:
        """Discard what the solver has learned from earlier matrices; by default nothing."""
        return

    def for_solves(self, solves: int) -> Solver:
        """Return the solver for at least so many solves with each matrix; by default this one."""
        return self


class PreconditionerOperator(Operator):
    """Base class of the operators that are applied in place of A^-1.

    Subclasses define `_apply(x)` and `_apply_adjoint(y)` for arrays of shape (N,) and (N, k). The
    adjoint preconditions solves with the adjoint of A. Both return new arrays and do not write into
    their operand. The defaults of the other methods suit a linear preconditioner that is small and
    that is set up for every matrix.

    Parameters
    ----------
    source : Operator or Backend
        A, or ``A.backend``: it determines the array library, dtype and device. The constructor of a
        subclass must take one of the two as its first argument, too, because the class is joined to
        the LinearOperator of that library before ``__init__`` runs.
    shape : tuple of int
        (N, N).

    Attributes
    ----------
    flexible : bool
        Whether an application is not linear to rounding: an inner iteration, or a cycle that
        computes in lower precision. GMRES then keeps the preconditioned vectors as well, and
        recycling is refused.
    description : str
        The name in reports where the operator itself is passed as ``preconditioner=``; by default
        the name of the class. `Preconditioner.setup` may set it to the description's.
    linear_alternative : str
        What the error about recycling with a flexible preconditioner says to use.

    Examples
    --------
    The inverse of the diagonal:

    >>> import numpy as np
    >>> import scipy.sparse as sp
    >>> import mfdeq
    >>> from mfdeq.arrays.kernels import scale_rows
    >>> from mfdeq.linear import PreconditionerOperator, operator_of
    >>> class InverseDiagonal(PreconditionerOperator):
    ...     def __init__(self, A, diagonal):
    ...         super().__init__(A, A.shape)
    ...         self.inverse = 1.0 / diagonal
    ...
    ...     def _apply(self, x):
    ...         return scale_rows(self.inverse, x)
    ...
    ...     _apply_adjoint = _apply
    >>> A = sp.csr_array([[2.0, 1.0], [1.0, 4.0]])
    >>> M = InverseDiagonal(operator_of(A), A.diagonal())
    >>> factor = mfdeq.Krylov("cg", preconditioner=M).setup(A)
    >>> factor.solve(np.array([3.0, 5.0])).round(6).tolist()
    [1.0, 1.0]
    """

    flexible: bool = False
    description: str = ""
    linear_alternative: str = "another preconditioner, or recycle=0"

    @property
    def nbytes(self) -> int:
        """Bytes of the incomplete factors or levels, in addition to A; by default 0."""
        return 0

    def refresh(self, A: Operator) -> bool:
        """Become the preconditioner of another matrix.

        `Reused` calls this on a shallow copy of the operator, in place of `Preconditioner.setup`,
        because it may cost less: when a solve with the preconditioner of an earlier matrix has
        failed; when its solves have taken 40 iterations more, in total, than solves with a new one
        would; and before the many solves at an equilibrium, when they have taken 5 more. If the
        first solve after a refresh takes more than 1.5 times as many iterations as with a new
        preconditioner, plus 5, the next call is to `Preconditioner.setup` again.

        Parameters
        ----------
        A : Operator, (N, N)
            The new matrix. It has the shape of the old one and possibly another sparsity pattern:
            return False if the refresh needs the same pattern and A has another one.

        Returns
        -------
        bool
            Whether this is now a preconditioner of the new matrix. With False, the default, a new
            one is set up.

        Raises
        ------
        MemoryError
            If there is not enough memory. `Reused` catches it and continues as after False.
        ArgumentError
            If the preconditioner does not suit the new matrix. The caller of the solver gets it.
        SingularStateError
            If the new matrix is singular. The caller of the solver gets it.

        Notes
        -----
        Other threads may be using the operator that this is a copy of. Assign new attributes, and
        do not write into arrays or operators that the attributes refer to: refresh copies of them,
        by `copy.copy`. Unless it returns True, it must leave the attributes as they were.
        """
        return False

    def application_cost(self, product_entry: float, triangular_entry: float) -> float:
        """Estimate the nanoseconds of one application to one vector.

        "auto" uses it to compare iterations with factorizations.

        Parameters
        ----------
        product_entry, triangular_entry : float
            Nanoseconds per stored entry of a sparse product and of a triangular solve.
        """
        return product_entry * self.nbytes / BYTES_PER_ENTRY


class Preconditioner(ABC):
    """Base class of preconditioners, the descriptions of what is applied in place of A^-1.

    A preconditioner of your own derives from this class, defines `setup` and can then be passed as
    ``preconditioner=`` to `mfdeq.Krylov` and as ``by=`` to `mfdeq.Approximate`.

    Attributes
    ----------
    columns_per_space : int
        Number of columns of a block that "gmres" and "cg" solve in one search space, by default 16.
        Use 1 for a preconditioner so good that a shared space costs more than the iterations it
        saves.
    vectors_per_cycle : int
        Number of vectors per column that a cycle of "gmres" stores if the user does not say, by
        default 30. Use more for a preconditioner with which restarts cost many iterations.
    equilibrates : bool
        Whether the preconditioner does not depend on the units of equations and unknowns. Krylov
        methods then use units in which neither do they. By default False.
    follows_scale : bool
        Whether the operator that is set up for c A is that of A divided by c, up to rounding, for
        any number c. Krylov methods then solve with a multiple of A whose entries are near one if
        those of A are extreme, beyond 1e±15 in float32 and 1e±120 in float64. By default False.
    suits_singular : bool
        Whether the preconditioner of a singular A, whose null vectors are in ``A.null_space``, is
        useful for systems that have a solution. Others are set up for a regular matrix that
        differs from A in a few entries. By default False.
    never_symmetric : bool
        Whether the operator is not symmetric even if A is. Methods for symmetric matrices then
        refuse the preconditioner. By default False.

    Notes
    -----
    A dataclass overrides these without an annotation (``never_symmetric = True``). With one,
    they would become parameters of its constructor.

    Examples
    --------
    >>> import mfdeq, numpy as np
    >>> from mfdeq.linear import Preconditioner, PreconditionerOperator, matrix_of, operator_of
    >>> class Scalar(Preconditioner):
    ...     def setup(self, A):
    ...         A = operator_of(A)
    ...         return Multiple(A, matrix_of(A, "Scalar()").diagonal().mean())
    >>> class Multiple(PreconditionerOperator):
    ...     def __init__(self, A, size):
    ...         super().__init__(A, A.shape)
    ...         self.size = size
    ...
    ...     def _apply(self, x):
    ...         return x / self.size
    ...
    ...     def _apply_adjoint(self, y):
    ...         return y / self.size
    >>> factor = mfdeq.Krylov(preconditioner=Scalar()).setup(np.diag([2.0, 4.0]))
    >>> print(factor.name, factor.solve(np.ones(2)).round(4))
    Krylov gmres with Scalar [0.5  0.25]
    """

    columns_per_space: ClassVar[int] = COLUMNS_PER_SPACE
    vectors_per_cycle: ClassVar[int] = VECTORS_PER_CYCLE
    equilibrates: ClassVar[bool] = False
    suits_singular: ClassVar[bool] = False

    @abstractmethod
    def setup(self, A: Operator) -> PreconditionerOperator:
        """Do the work that is done once for A.

        Parameters
        ----------
        A : Operator, sparse matrix or array, (N, N)
            `mfdeq.Krylov` passes an `Operator`; `mfdeq.linear.operator_of` makes one of the others.
            `mfdeq.linear.matrix_of` returns the entries of an operator, or raises an error if only
            products with it are available.

        Returns
        -------
        PreconditionerOperator
            Of shape (N, N), approximately A^-1, with its adjoint.

        Raises
        ------
        ArgumentError
            If the preconditioner does not suit A.
        SingularStateError
            If the set-up shows that A is singular.
        """

    @property
    def follows_scale(self) -> bool:
        """Whether the operator of c A is that of A divided by c; by default False."""
        return False

    @property
    def never_symmetric(self) -> bool:
        """Whether the operator is not symmetric even if A is; by default False."""
        return False

    def linear(self) -> Preconditioner:
        """Return a description of an operator that is linear to rounding; by default this one.

        `mfdeq.FieldSplit` uses it, since with a `flexible` operator GMRES stores twice the vectors.
        """
        return self

    @property
    def description(self) -> str:
        """The name of the preconditioner in reports; by default that of the class."""
        return type(self).__name__


def check_solver(solver: Any) -> None:
    """Raise `ArgumentError` unless `solver` is a `Solver`."""
    if isinstance(solver, Solver):
        return
    if isinstance(solver, Preconditioner):
        hint = "; pass a preconditioner as mfdeq.Krylov(preconditioner=...)"
    elif isinstance(solver, type):
        hint = f"; pass an instance, {solver.__name__}(...)"
    else:
        hint = ""
    raise ArgumentError(
        "solver: expected 'auto', mfdeq.Direct(), mfdeq.Krylov(...), mfdeq.Neumann() or an "
        f"mfdeq.linear.Solver of your own, got {short_repr(solver)}{hint}"
    )
