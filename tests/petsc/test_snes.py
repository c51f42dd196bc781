"""SNES follows the rules of mfdeq's own methods, on any number of ranks."""

import numpy as np
import pytest
import scipy.sparse as sp

pytest.importorskip("petsc4py")

from petsc4py import PETSc
from support.petsc_problems import COMM, THETA, Cubic, gathered, on_one_machine, vec_of

import mfdeq
import mfdeq.petsc

LAST = COMM.getSize() - 1 == COMM.getRank()
N = 12
ROOTS = np.linspace(1.0, 4.0, N)


class Logarithm(mfdeq.ResidualModel):
    """log h = log θ, far from the start: a full step from there leads to negative h.

    The last rank raises where an entry of h is not positive.
    """

    state_size = param_size = N
    units = 1.0
    error = mfdeq.DomainError

    def residual(self, h, theta):
        whole = gathered(h)
        r = vec_of(self.units * np.log(np.maximum(whole / gathered(theta), 1e-300)))
        if LAST and whole.min() <= 0.0:
            raise self.error("h is not positive")
        return r

    def linearize(self, h, theta):
        by_h, by_theta = (
            sp.diags(sign * self.units / gathered(x)).tocsr() for sign, x in ((1, h), (-1, theta))
        )
        return mfdeq.Linearization(mat_of(by_h), mat_of(by_theta))


def mat_of(matrix):
    mat = PETSc.Mat().createAIJ(matrix.shape, comm=COMM)
    mat.setUp()
    mine = matrix[slice(*mat.getOwnershipRange())]
    mat.setPreallocationCSR((mine.indptr, mine.indices, mine.data))
    mat.assemble()
    return mat


def solve(model, start=30.0, **options):
    return mfdeq.petsc.solve(
        model, vec_of(ROOTS), vec_of(np.full(N, start)), method="snes", **options
    )


@pytest.mark.parametrize("kind", ["newtonls", "newtontr"])
@pytest.mark.parametrize("error", [mfdeq.DomainError, ValueError, FloatingPointError])
def test_step_to_where_a_rank_has_no_value_is_shortened(kind, error):
    model = Logarithm()
    model.error = error
    solver = mfdeq.petsc.KSP("trial_", {"snes_type": kind, "snes_max_it": 200})
    eq = solve(model, solver=solver)
    np.testing.assert_allclose(gathered(eq.state), ROOTS, rtol=1e-8)
    assert eq.report.failures > 0
    assert "h is not positive" in eq.report.last_failure


def test_mistake_at_a_trial_state_is_raised_on_all_ranks():
    model = Logarithm()
    model.error = TypeError
    with pytest.raises(TypeError, match="h is not positive"):
        solve(model)
    assert solve(Logarithm()).report.converged


def test_error_at_the_start_is_raised():
    with pytest.raises(mfdeq.DomainError, match="h is not positive"):
        solve(Logarithm(), start=-1.0)


def test_no_iterate_crosses_the_bounds():
    seen = []

    class Recording(Logarithm):
        def residual(self, h, theta):
            seen.append(gathered(h).min())
            return super().residual(h, theta)

    eq = solve(Recording(), lower=0.5)
    np.testing.assert_allclose(gathered(eq.state), ROOTS, rtol=1e-8)
    assert min(seen) >= 0.5


def test_state_that_is_not_converged_names_its_worst_equation():
    model = Logarithm()
    model.equation_names = [f"balance of cell {i}" for i in range(N)]
    loose = mfdeq.petsc.KSP("loose_", {"snes_rtol": 0.5})
    with pytest.raises(mfdeq.ConvergenceError, match=r"ended too early.*balance of cell \d"):
        solve(model, solver=loose)
    short = mfdeq.petsc.KSP("short_", {"snes_max_it": 1})
    with pytest.raises(mfdeq.ConvergenceError, match=r"DIVERGED_MAX_IT.*balance of cell \d"):
        solve(model, solver=short)


@pytest.mark.parametrize("units", [1e-8, 1e8])
def test_units_of_equations_change_nothing(units):
    model = Logarithm()
    model.units = units
    eq = solve(model, start=3.0)
    np.testing.assert_allclose(gathered(eq.state), ROOTS, rtol=1e-9)


def test_report_has_the_worst_residual_of_each_iterate():
    eq = mfdeq.petsc.solve(Cubic(), vec_of(THETA), method="snes")
    history = eq.report.residuals
    assert len(history) == eq.report.iterations + 1 > 3
    assert history[-1] < 1e-10 < history[0] <= 1.0
    np.testing.assert_allclose(gathered(eq.state), on_one_machine().state, atol=1e-9)
