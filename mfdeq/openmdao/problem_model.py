"""A problem of OpenMDAO as a model with first derivatives alone."""

from __future__ import annotations

from typing import Any

from scipy.sparse import csc_array
from scipy.sparse.linalg import LinearOperator

from ..arrays.backend import Array, host
from ..models.linearization import ComputedLinearization, Linearization
from ..models.model import ResidualModel
from .problem_vectors import ProblemVectors

MAX_COLUMNS = 2000  # N + P for which matrices are assembled, by a product for each column
DENSE_SHARE = 0.25  # of entries that are not zero, above which a matrix is dense
FIELDS = ("d_state", "d_params")


class PartialsModel(ResidualModel):
    """The residual of a problem, with its derivatives by the partial ones of the components.

    Parameters
    ----------
    vectors : ProblemVectors
    partials_rtol : float
        The relative error of the partial derivatives.
    """

    def __init__(self, vectors: ProblemVectors, partials_rtol: float) -> None:
        self.vectors, self.partials_rtol = vectors, partials_rtol
        self.state_size, self.param_size = vectors.sizes
        self.state_names = vectors.names
        self.equation_names = [f"the residual of {name}" for name in vectors.names]

    def initial_state(self, theta: Array) -> Array:
        """Return the outputs of the problem when the model was made."""
        return self.vectors.start.copy()

    def residual(self, h: Array, theta: Array) -> Array:
        """Return R(h, theta)."""
        return self.vectors.residual(h, theta)

    def linearize(self, h: Array, theta: Array) -> Linearization:
        """Return the derivatives of R at (h, theta)."""
        N, P = self.state_size, self.param_size
        derivatives = self._matrices if N + P <= MAX_COLUMNS else self._operators
        d_state, d_params = derivatives(h.copy(), theta.copy())
        return ComputedLinearization(
            d_state,
            d_params,
            accuracy=(self.partials_rtol, 0.0),
            sources=dict.fromkeys(FIELDS, "the partial derivatives of OpenMDAO's components"),
        )

    def _matrices(self, h: Array, theta: Array) -> tuple[Any, Any]:
        """Return dR/dh and dR/dtheta, a column by each product."""
        product, (N, P) = self.vectors.product, self.vectors.sizes
        no_h, no_theta = host.zeros(N), host.zeros(P)
        d_state = _matrix([product(h, theta, no_theta, e) for e in host.eye(N)], N)
        d_params = _matrix([product(h, theta, e, no_h) for e in host.eye(P)], N)
        return d_state, d_params

    def _operators(self, h: Array, theta: Array) -> tuple[Any, Any]:
        """Return dR/dh and dR/dtheta as operators."""
        vectors, (N, P) = self.vectors, self.vectors.sizes
        no_h, no_theta = host.zeros(N), host.zeros(P)
        d_state = LinearOperator(
            (N, N),
            matvec=lambda v: vectors.product(h, theta, no_theta, v.ravel()),
            rmatvec=lambda w: vectors.adjoint(h, theta, w.ravel())[1],
            dtype=h.dtype,
        )
        d_params = LinearOperator(
            (N, P),
            matvec=lambda v: vectors.product(h, theta, v.ravel(), no_h),
            rmatvec=lambda w: vectors.adjoint(h, theta, w.ravel())[0],
            dtype=h.dtype,
        )
        return d_state, d_params


def _matrix(columns: list[Array], rows: int) -> Any:
    """Return a matrix of some columns, sparse if most of its entries are zero."""
    places = [host.flatnonzero(column) for column in columns]
    entries = [column[place] for column, place in zip(columns, places, strict=True)]
    first = host.cumsum([0, *(place.size for place in places)])
    shape = (rows, len(columns))
    data, indices = host.concatenate(entries), host.concatenate(places)
    matrix = csc_array((data, indices, first), shape=shape)
    return matrix.toarray() if data.size > DENSE_SHARE * rows * len(columns) else matrix
