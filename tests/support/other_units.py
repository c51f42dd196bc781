"""Models in other units of equations, unknowns and parameters."""

import numpy as np
import scipy.sparse as sp

import mfdeq


class InUnits(mfdeq.ResidualModel):
    """Another model with rows multiplied, and unknowns and parameters in other units."""

    def __init__(self, of, rows=1.0, state=1.0, params=1.0, form=lambda A: A):
        self.of, self.form = of, form
        self.state_size, self.param_size = of.state_size, of.param_size
        self.rows, self.state = (x * np.ones(of.state_size) for x in (rows, state))
        self.params = params * np.ones(of.param_size)

    def residual(self, h, theta):
        return self.rows * self.of.residual(h / self.state, theta / self.params)

    def linearize(self, h, theta):
        lin = self.of.linearize(h / self.state, theta / self.params)
        A, B = (
            sp.diags(self.rows) @ sp.csr_matrix(x) @ sp.diags(1 / units)
            for x, units in ((lin.d_state, self.state), (lin.d_params, self.params))
        )
        return mfdeq.Linearization(self.form(A.tocsr()), B.tocsr())
