"""The operator whose eigenvalues say whether an equilibrium is stable."""

from __future__ import annotations

from ..arrays.backend import array_on_host, host, is_sparse
from ..errors import ArgumentError
from ..models.checked_linearization import CheckedLinearization
from ..models.constrained_linearization import ConstrainedLinearization
from ..operators.matrix_operator import Matrix
from ..operators.operator import Operator, Product
from .eliminations import rate_of
from .null_spaces import find_null_spaces, null_defects
from .null_vectors import MAX_CANCELLATION_ROUNDINGS, MAX_DECOMPOSED_SIZE

STABLE_RATE = 4.0  # relative to A, of the eigenvalues that take the place of zeros


def dynamics_of(linearized: CheckedLinearization) -> Operator:
    """Return an operator with the eigenvalues of A that say whether an equilibrium is stable.

    It is A but for a constrained model and a declared null space, where A has a zero eigenvalue for
    each quantity that dh/dt conserves. With the left null vectors W and W'U = I, those of
    A + rate U W' are the others, and the rate, which counts as stable, in place of each zero.

    Raises
    ------
    ArgumentError
        If the conserved quantities depend on the state, and A is too large to be decomposed.
    """
    linearization, gauge = linearized.linearization, linearized.gauge
    if isinstance(linearization, ConstrainedLinearization):
        A, projection = linearization.base.A, linearization.projection
    elif gauge is not None:
        A, projection = gauge.given, gauge.projection
    else:
        return linearized.A
    W = array_on_host(projection.basis).astype("float64")
    limit = max(MAX_CANCELLATION_ROUNDINGS * A.backend.eps, 10.0 * linearization.state_accuracy)
    if max(null_defects(A, projection.basis)) > limit:
        found = find_null_spaces(A, W.shape[1], linearization.state_accuracy)
        if found is None or found.dimension != W.shape[1]:
            raise ArgumentError(
                "eigenvalues: expected conserved quantities that do not depend on the state, or at "
                f"most {MAX_DECOMPOSED_SIZE} unknowns, got {A.shape[0]}: pass eigenvalues=0"
            )
        W = found.left
    columns = array_on_host(projection.columns).astype("float64")
    dual = W @ host.linalg.inv(columns.T @ W)
    rate = linearized.stable_sign * STABLE_RATE * rate_of(A)
    backend = A.backend
    if is_sparse(A.array):
        update = backend.sparse.csr_matrix(
            backend.sparse.csr_matrix(backend.from_host(columns))
            @ backend.sparse.csr_matrix(backend.from_host(rate * dual.T))
        )
        return Matrix(backend, (A.array + update).tocsr())
    U, L = (backend.from_host(x, A.shape[0]) for x in (columns, rate * dual))
    if A.array is not None:
        return Matrix(backend, A.array + U @ L.T)
    return A + Product(Matrix(backend, U), Matrix(backend, L).H)  # type: ignore[attr-defined]
