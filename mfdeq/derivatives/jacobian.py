"""Jacobians of functions that a source differentiates, as operators and as assembled matrices."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..arrays.backend import Array, Backend, is_sparse
from ..errors import ModelError
from ..operators.compiled_solves import CompiledSolve, compiled_krylov
from ..operators.library_operator import MAX_DENSE_ENTRIES
from ..operators.matrix_operator import Matrix
from ..operators.operator import Operator, SelfAdjoint
from .source import DerivativeSource, Function, JacobianProducts

MAX_ASSEMBLED_SIZE = 2_000  # products by which a Jacobian is assembled if the others are missing
BLOCK_COLUMNS = 64  # products at a time of such an assembly
MAX_LISTED = 3  # entries that are named in a message


@dataclass(frozen=True)
class Entries:
    """The names of a Jacobian, its rows and its columns, and a test that they are still valid.

    Parameters
    ----------
    name : str
        The name of the Jacobian in error messages.
    row, column : callable
        The names of a row and of a column.
    unchanged : callable
        ``unchanged()`` raises an error if the function has changed since the linearization.
    """

    name: str
    row: Callable[[int], str]
    column: Callable[[int], str]
    unchanged: Callable[[], None]

    def error(self, rows: Any, columns: Any) -> ModelError:
        """Return the error for entries that are NaN or infinite, in some rows and columns."""
        of = "derivatives"
        if len(rows):
            of += f" of {_listed(rows, self.row)}"
        if len(columns):
            of += f" with respect to {_listed(columns, self.column)}"
        return ModelError(
            f"{self.name} holds NaN or infinity: {of}. The function has a value there but no "
            "derivative, as abs(q)**0.8 has none at q = 0: start from another state (h0), or write "
            "the function so that all its derivatives are finite (also those of the branch that "
            "`where` does not select)",
            non_finite=True,
        )


def _listed(indices: Any, name: Callable[[int], str]) -> str:
    names = [name(int(i)) for i in indices[:MAX_LISTED]]
    more = len(indices) - len(names)
    return ", ".join(names) + (f" and {more} more" if more else "")


class Jacobian(Operator):
    """A Jacobian of f at one point, given by its products.

    The first product and the first adjoint product are checked to be finite.
    """

    def __init__(
        self,
        backend: Backend,
        source: DerivativeSource,
        products: JacobianProducts,
        shape: tuple[int, int],
        entries: Entries,
    ) -> None:
        super().__init__(backend, shape)
        self.source, self.products, self.entries = source, products, entries
        self.advice_for_entries = f"pass sparsity='detect', or a pattern, to {source.caller}"
        self._checked: set[str] = set()  # products that have been checked

    def _apply(self, x: Array) -> Array:
        return self._checked_product("product", x)

    def _apply_adjoint(self, y: Array) -> Array:
        return self._checked_product("adjoint_product", y)

    def _checked_product(self, which: str, x: Array) -> Array:
        self.entries.unchanged()
        y = self._multiply(which, x)
        if which not in self._checked:
            isfinite, every = self.backend.xp.isfinite, self.backend.xp.all
            if bool(every(isfinite(y))):
                self._checked.add(which)
            elif bool(every(isfinite(x))):
                self.check_entries()
        return y

    def _multiply(self, which: str, x: Array) -> Array:
        if x.ndim == 2 and x.shape[1] == 0:
            return self.backend.zeros(self.shape[which == "adjoint_product"], 0)
        product: Any = getattr(self.products, which)
        return self.source.from_library(self.backend, product(*self.source.operands(x)))

    def check_entries(self) -> None:
        """Raise `ModelError` if products with random vectors are not finite."""
        rows, columns = (
            undefined(self.backend, self._multiply(which, self.backend.random(size, seed=5)))
            for which, size in zip(("product", "adjoint_product"), self.shape[::-1], strict=True)
        )
        if len(rows) or len(columns):
            raise self.entries.error(rows, columns)


class SymmetricJacobian(SelfAdjoint, Jacobian):
    """The Jacobian of a gradient, which is symmetric."""

    known_symmetric = True


def undefined(backend: Backend, x: Array) -> Array:
    """Return the indices of the entries of a vector that are NaN or infinite."""
    return backend.xp.nonzero(~backend.xp.isfinite(x))[0]


def jacobian_operator(
    backend: Backend,
    source: DerivativeSource,
    products: JacobianProducts,
    shape: tuple[int, int],
    entries: Entries,
    symmetric: bool = False,
) -> Operator:
    """Return a Jacobian as an operator, or as a dense matrix if one of its products is missing.

    Raises
    ------
    ModelError
        If a product is missing, and the Jacobian is too large to assemble it.
    """
    product, adjoint = products.product, products.adjoint_product
    if symmetric:
        either = product or adjoint
        products = products._replace(product=either, adjoint_product=either)
        return SymmetricJacobian(backend, source, products, shape, entries)
    if product is not None and adjoint is not None:
        return Jacobian(backend, source, products, shape, entries)
    size = shape[0] if product is None else shape[1]
    if size > MAX_ASSEMBLED_SIZE or shape[0] * shape[1] > MAX_DENSE_ENTRIES:
        missing, available = ("forward", "reverse")[:: 1 if product is None else -1]
        raise ModelError(
            f"{entries.name}: {source.name} has no {missing} mode for this function. Its Jacobian, "
            f"{shape[0]} x {shape[1]}, would be assembled by {size:,} products in {available} "
            f"mode, but {MAX_ASSEMBLED_SIZE:,} are the limit: write the function with operations "
            f"that have a {missing} mode"
        )
    return Matrix(backend, _assemble(backend, source, product, adjoint, size))


def _assemble(
    backend: Backend,
    source: DerivativeSource,
    product: Function | None,
    adjoint: Function | None,
    size: int,
) -> Array:
    multiply: Any = product or adjoint
    eye = backend.eye(size, size)
    blocks = [
        source.from_library(backend, multiply(*source.operands(eye[:, i : i + BLOCK_COLUMNS])))
        for i in range(0, size, BLOCK_COLUMNS)
    ]
    columns = backend.xp.concat(blocks, axis=1)
    return columns if product is not None else backend.row_major(columns.T)


def check_matrix(op: Operator, entries: Entries) -> None:
    """Raise `ModelError` if an assembled Jacobian has entries that are NaN or infinite."""
    if not op.has_entries:
        return
    xp, matrix = op.backend.xp, op.array
    values = matrix.data if is_sparse(matrix) else matrix
    if bool(xp.all(xp.isfinite(values))):
        return
    if is_sparse(matrix):
        triplets = matrix.tocoo()
        bad = ~xp.isfinite(triplets.data)
        rows, columns = xp.unique_values(triplets.row[bad]), xp.unique_values(triplets.col[bad])
    else:
        rows, columns = map(xp.unique_values, xp.nonzero(~xp.isfinite(matrix)))
    raise entries.error(rows, columns)


@compiled_krylov.register(Jacobian)
def _(J: Jacobian, method: str, identity_minus: bool = False) -> CompiledSolve | None:
    """Return a solve with J or I − J that the source compiles, or None."""
    if J.products.compiled is None:
        return None
    solve = J.source.compiled_krylov(J.products.compiled, method, identity_minus)
    if solve is None:
        return None

    def solve_arrays(
        B: Array, weights: Array, rtol: float, max_iterations: int, restart: int, adjoint: bool
    ) -> Any:
        J.entries.unchanged()
        sides = J.source.operands(B, weights)
        results = solve(*sides, rtol, max_iterations, restart, adjoint)
        x, residuals, *rest = (J.backend.copy_from(result) for result in results)
        if not bool(J.backend.xp.all(J.backend.xp.isfinite(residuals))):
            J.check_entries()
        return x, residuals, *rest

    return solve_arrays
