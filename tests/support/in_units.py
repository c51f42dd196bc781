"""A model and a loss measured in other units: rows of equations and unknowns are multiplied."""

import numpy as np
import scipy.sparse as sp
from scipy.sparse.linalg import LinearOperator

import mfdeq


def scaled(matrix, rows, columns):
    """Return diag(rows) matrix diag(columns), in the form of the matrix."""
    if sp.issparse(matrix):
        return (sp.diags_array(rows) @ matrix @ sp.diags_array(columns)).asformat(matrix.format)
    if isinstance(matrix, np.ndarray):
        return rows[:, None] * matrix * columns
    return LinearOperator(
        matrix.shape,
        matvec=lambda x: rows * (matrix @ (columns * np.ravel(x))),
        rmatvec=lambda y: columns * (matrix.H @ (rows * np.ravel(y))),
        dtype=np.float64,
    )


class _InUnits:
    def __init__(self, of, units, rows=None):
        self.of, self.units = of, np.asarray(units)
        self.state_size, self.param_size = of.state_size, of.param_size
        self.rows = 1.0 / self.units if rows is None else np.asarray(rows)

    def linearize(self, h, theta):
        given = self.of.linearize(self.units * h, theta)
        one = np.ones(self.param_size)
        return mfdeq.Linearization(
            scaled(given.d_state, self.rows, self.units), scaled(given.d_params, self.rows, one)
        )

    def initial_state(self, theta):
        start = self.of.initial_state(theta)
        return None if start is None else start / self.units


class MapInUnits(_InUnits, mfdeq.FixedPointModel):
    """The map f(u c) / u of the state c = h / u, for units u of the unknowns."""

    def map(self, h, theta):
        return self.rows * self.of.map(self.units * h, theta)


class ResidualInUnits(_InUnits, mfdeq.ResidualModel):
    """The residual r R(u c), for units r of the equations and u of the unknowns.

    `known` adds the sizes that count as one, those of the model in its own units.
    """

    known = False

    def residual(self, h, theta):
        return self.rows * self.of.residual(self.units * h, theta)

    def residual_scale(self, h, theta):
        return self.rows if self.known else None

    def state_scale(self, theta):
        return 1.0 / self.units if self.known else None


def in_units(model, units, rows=None, known=False):
    """Return a model in other units; `rows` are those of a residual's equations."""
    if isinstance(model, mfdeq.FixedPointModel):
        return MapInUnits(model, units)
    wrapped = ResidualInUnits(model, units, rows)
    wrapped.known = known
    return wrapped


def loss_in_units(loss, units):
    """Return the same loss, of the state c = h / u."""
    return mfdeq.Loss(
        lambda h, theta: loss.value(units * h, theta),
        d_state=lambda h, theta: units * loss.d_state(units * h, theta),
        d_params=lambda h, theta: loss.d_params(units * h, theta),
    )
