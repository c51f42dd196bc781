"""`mfdeq.FieldSplit`: the description of a block preconditioner of several fields."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ...arguments import one_of
from ...errors import ArgumentError, short_repr
from ...operators.operator import Operator
from ..direct.direct import Direct
from ..operands import operator_of
from ..preconditioners.wrappers import as_preconditioner
from ..protocols import Preconditioner, PreconditionerOperator, Solver
from .block_preconditioner import BlockPreconditioner
from .fields import Fields, field_names
from .schur import check_schur

KINDS = ("diagonal", "lower", "upper", "full")


@dataclass(frozen=True)
class FieldSplit(Preconditioner):
    """A block preconditioner of several fields, with a preconditioner or solver for each.

    The preconditioner of A = [[A00, B], [C, D]] is the inverse of one of

    - "diagonal": [[A00, 0], [0, S]],
    - "lower": [[A00, 0], [C, S]],
    - "upper": [[A00, B], [0, S]],
    - "full": [[A00, 0], [C, S]] [[A00, 0], [0, S]]^-1 [[A00, B], [0, S]],

    in which the preconditioners of the fields take the place of the inverses of A00 and of S. S
    approximates the Schur complement D - C A00^-1 B if there is a `schur`, and is D otherwise.

    Parameters
    ----------
    fields : sequence, or mapping of names
        The fields: their sizes, if the unknowns are numbered field by field; or for each a slice,
        an array of indices (of any shape and in any order) or a mask of shape (N,). Each unknown
        belongs to one field. Names appear in errors and reports.
    preconditioners : sequence, or mapping of names, optional
        For each field a preconditioner, as for `mfdeq.Krylov`, or a solver, which iterates to its
        tolerance. None, for all fields or for one, is `mfdeq.Direct()`.
    kind : {"upper", "lower", "full", "diagonal"}, optional
        The form. "diagonal" is for "minres" and takes about twice as many iterations as "upper" and
        "lower", which are for "gmres". "full" takes fewer of them where the preconditioner of A00
        is not exact, and applies that twice.
    schur : matrix, callable or "selfp", optional
        What approximates the Schur complement of the last field: a matrix, (m, m), such as the mass
        matrix of the pressure for Stokes; a function that returns one, which is called for each A
        with its sparse matrix or array (or with a LinearOperator, if only products are known); or
        "selfp", D - C diag(A00)^-1 B, which suits an A00 like a mass matrix. With None, the
        diagonal block D is taken for it.

    Raises
    ------
    ArgumentError
        If a value is not one of those above.

    See Also
    --------
    AMG, Approximate

    Notes
    -----
    With more than two fields, the blocks are A_ij, S is that of the last field, "diagonal" has only
    the diagonal blocks, "lower" and "upper" have those on one side as well, and "full" is the
    product of the two. Without `schur` these are block Jacobi and block Gauss-Seidel. A field may
    have an `mfdeq.FieldSplit` itself, whose indices count within the field.

    The sign of `schur` does not matter. The set-up finds it by a random vector: it is that of the
    Schur complement or, with "diagonal", the one for which the preconditioner is definite.

    If S is much smaller than `schur` on the constants of the last field, as it is for a pressure
    that is fixed at one point only, they are corrected: c z z' for the constant z is added to the
    inverse of S.

    A pressure that is known up to a constant, in a model of `mfdeq.constrain`, needs nothing of
    that. Where S has the constant as well, as with "selfp", its solver gets a matrix with a pinned
    entry, and its multigrid projects the constant out.

    A LinearOperator as the preconditioner of the last field approximates the inverse of S. Other
    approximations of it, such as those by commutators (LSC, PCD), are written so, in a function
    A -> M that builds the whole preconditioner.

    If only products with A are available, a product with a block takes one with A, and a field
    whose preconditioner needs entries must be small.

    The kinds without `schur` are the types "additive", "multiplicative" and
    "symmetric_multiplicative" of PETSc's PCFIELDSPLIT, and those with it are its type "schur".

    References
    ----------
    M. Benzi, G. H. Golub and J. Liesen, Numerical solution of saddle point problems, Acta Numer.
    14 (2005).

    M. F. Murphy, G. H. Golub and A. J. Wathen, A note on preconditioning for indefinite linear
    systems, SIAM J. Sci. Comput. 21 (2000).

    H. C. Elman, D. J. Silvester and A. J. Wathen, Finite Elements and Fast Iterative Solvers, 2nd
    ed., Oxford University Press (2014).

    Examples
    --------
    Diffusion as a system of first order, with a flux on each face and a pressure in each cell:

    >>> import mfdeq, numpy as np, scipy.sparse as sp
    >>> n = 100
    >>> resistance = sp.diags_array(np.linspace(1.0, 50.0, n + 1))
    >>> gradient = sp.diags_array([1.0, -1.0], offsets=[0, -1], shape=(n + 1, n))
    >>> A = sp.block_array([[resistance, gradient], [gradient.T, None]], format="csr")
    >>> M = mfdeq.FieldSplit(
    ...     {"flux": n + 1, "pressure": n},
    ...     {"flux": mfdeq.Jacobi(), "pressure": mfdeq.AMG()},
    ...     schur="selfp",
    ... )
    >>> factor = mfdeq.Krylov(preconditioner=M).setup(A)
    >>> x = factor.solve(np.ones(2 * n + 1))
    >>> bool(np.linalg.norm(A @ x - 1) < 1e-8), factor.counts.iterations < 20
    (True, True)
    """

    fields: Any
    preconditioners: Any = None
    kind: str = "upper"
    schur: Any = None

    # An indefinite system converges slowly at first, and not at all if GMRES is restarted then.
    vectors_per_cycle = 100
    suits_singular = True
    columns_per_space = 1

    def __post_init__(self) -> None:
        one_of(self.kind, KINDS, "kind of mfdeq.FieldSplit")
        given = self.fields
        if isinstance(given, (str, bytes)) or not isinstance(given, Iterable) or len(given) < 2:  # type: ignore[arg-type]
            raise ArgumentError(
                "fields of mfdeq.FieldSplit: expected a sequence or mapping of at least two fields "
                f"(sizes, slices, arrays of indices or masks), got {short_repr(given)}"
            )
        check_schur(self.schur)
        self.described()

    def described(self) -> list[Preconditioner | Solver]:
        """Return the descriptions of the preconditioners of the fields."""
        names, given = field_names(self.fields), self.preconditioners
        if given is None:
            given = [None] * len(names)
        elif isinstance(given, Mapping):
            if unknown := [name for name in given if str(name) not in names]:
                raise ArgumentError(
                    "preconditioners of mfdeq.FieldSplit: expected the names "
                    f"{', '.join(map(repr, names))}, got {unknown[0]!r}"
                )
            by_name = {str(name): part for name, part in given.items()}
            given = [by_name.get(name) for name in names]
        elif not isinstance(given, (list, tuple)) or len(given) != len(names):
            got = f"{len(given)}" if isinstance(given, (list, tuple)) else short_repr(given)
            raise ArgumentError(
                "preconditioners of mfdeq.FieldSplit: expected a mapping of names, or a sequence "
                f"of {len(names)}, got {got}"
            )
        return [self._part_described(part) for part in given]

    @staticmethod
    def _part_described(part: Any) -> Preconditioner | Solver:
        if part is None or isinstance(part, Solver):
            return part or Direct()
        described = as_preconditioner(part)
        assert described is not None
        return described.linear()

    @property
    def description(self) -> str:
        """The name in reports, with those of the preconditioners of the fields."""
        kinds = (
            part.description if isinstance(part, Preconditioner) else type(part).__name__
            for part in self.described()
        )
        parts = zip(field_names(self.fields), kinds, strict=True)
        return f"FieldSplit {self.kind} ({', '.join(f'{name}: {kind}' for name, kind in parts)})"

    @property
    def never_symmetric(self) -> bool:
        """Whether the kind, or the preconditioner of a field, is never symmetric."""
        parts = [part for part in self.described() if isinstance(part, Preconditioner)]
        return self.kind in ("lower", "upper") or any(part.never_symmetric for part in parts)

    def setup(self, A: Operator) -> PreconditionerOperator:
        """Set up the preconditioners of the fields.

        Raises
        ------
        ArgumentError
            If the fields are not a partition of the unknowns, if the preconditioner of a field does
            not suit it, or if the diagonal block of a field is zero and there is no `schur` for it.
        SingularStateError
            If the matrix of a field is singular.
        """
        A = operator_of(A)
        if A.backend.library.distributed:
            raise ArgumentError(
                "mfdeq.FieldSplit takes matrices and operators of numpy, scipy and cupy; use "
                "mfdeq.petsc.KSP(options={'pc_type': 'fieldsplit', ...}) for those of PETSc"
            )
        fields = Fields.of(A.backend, self.fields, A.shape[0])
        M = BlockPreconditioner(A, fields, self.described(), self.kind, self.schur)
        M.description = self.description
        return M
