"""Saddle points whose pressure is known up to a constant, with block preconditioners."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from support.cases import close
from support.singular_systems import Linear, stokes

import mfdeq

N_CELLS = 16
A, MASS = stokes(N_CELLS)
SIZES = {"velocity": A.shape[0] - N_CELLS**2, "pressure": N_CELLS**2}
PRESSURE = np.r_[np.zeros(SIZES["velocity"]), np.ones(N_CELLS**2)]
MEAN = PRESSURE * np.random.default_rng(0).random(A.shape[0])
AMG = mfdeq.AMG("ruge_stuben")
INNER = mfdeq.Krylov("cg", preconditioner=mfdeq.AMG(), rtol=1e-2)

# What FieldSplit gets beside the fields, given the mass matrix of the pressure.
SPLITS = {
    "mass": lambda mass: {"schur": mass},
    "mass, AMG": lambda mass: {"preconditioners": [AMG, None], "schur": mass},
    "selfp": lambda mass: {"schur": "selfp"},
    "selfp, AMG": lambda mass: {"preconditioners": [None, mfdeq.AMG()], "schur": "selfp"},
    "selfp, CG": lambda mass: {"preconditioners": [None, INNER], "schur": "selfp"},
    "selfp, full": lambda mass: {"kind": "full", "schur": "selfp"},
}


def iterations_with_a_fixed_pressure(name):
    """Return the iterations of a solve without the last pressure and its equation."""
    sizes = SIZES["velocity"], SIZES["pressure"] - 1
    split = mfdeq.FieldSplit(sizes, **SPLITS[name](MASS[:-1, :-1]))
    factor = mfdeq.Krylov(preconditioner=split).setup(A[:-1, :-1])
    factor.solve(np.random.default_rng(1).standard_normal(sum(sizes)))
    return factor.counts.iterations


def constrained():
    return mfdeq.constrain(
        Linear(A, PRESSURE[:, None]), mfdeq.LinearConstraint(MEAN), redundant=PRESSURE
    )


@pytest.mark.parametrize("name", SPLITS)
def test_the_constant_of_the_pressure_is_projected_out(name):
    split = mfdeq.FieldSplit(SIZES, **SPLITS[name](MASS))
    n = A.shape[0]
    load = np.random.default_rng(1).standard_normal(n)
    eq = mfdeq.solve(constrained(), load, solver=mfdeq.Krylov(preconditioner=split))
    bordered = sp.bmat([[A, PRESSURE[:, None]], [MEAN[None, :], None]], format="csc")
    exact = np.linalg.inv(bordered.toarray())[:n, :n]
    close(eq.state, exact @ load, 1e-7)
    close(eq.inverse @ load, exact @ load, 1e-7)
    close(eq.inverse.H @ load, exact.T @ load, 1e-7)
    before = eq.report.linear.iterations
    eq.inverse @ load
    iterations = eq.report.linear.iterations - before
    assert iterations <= iterations_with_a_fixed_pressure(name) + 2


def test_minres_takes_a_diagonal_form():
    split = mfdeq.FieldSplit(SIZES, kind="diagonal", schur=MASS)
    solver = mfdeq.Krylov("minres", preconditioner=split)
    load = np.random.default_rng(1).standard_normal(A.shape[0])
    found, expected = (
        mfdeq.solve(constrained(), load, solver=s).state for s in (solver, mfdeq.Direct())
    )
    close(found, expected, 1e-7)


def test_a_singular_block_is_an_error_that_line_searches_catch():
    blocks = np.eye(4)[[0, 1, 3, 2]] + np.diag([0.0, 0.0, 1.0, 1.0])
    with pytest.raises(mfdeq.SingularStateError, match=r"p of .*A is singular.*schur='selfp'"):
        mfdeq.FieldSplit({"u": 2, "p": 2}).setup(blocks)
