"""Factors, equilibria, Hessians and functionals that threads share give what one thread gets."""

import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import scipy.sparse as sp

import mfdeq
from mfdeq.linear import Auto, Factor, Reused, Solver, operator_of
from mfdeq.report import LinearCounts
from mfdeq.threads import Lock, cached_property, ignore_warnings

THREADS = 4
RNG = np.random.default_rng(0)


def advection(n=20, shift=2.02):
    """A nonsymmetric matrix that takes dozens of iterations without a preconditioner."""
    T = sp.diags_array([-1.0, shift, -1.1], offsets=[-1, 0, 1], shape=(n, n))
    return sp.csr_array(sp.kronsum(T, T))


def laplacian(n=20):
    T = sp.diags_array([-1.0, 2.05, -1.0], offsets=[-1, 0, 1], shape=(n, n))
    return sp.csr_array(sp.kronsum(T, T))


def in_threads(job, count):
    """The results of job(0), ..., job(count - 1), computed by several threads at once."""
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(job, range(count)))


ILU, AMG = mfdeq.ILU(drop_tol=0.1), mfdeq.AMG()
SOLVERS = {
    "superlu": (mfdeq.Direct(package="superlu"), advection()),
    "multifrontal": (mfdeq.Direct(package="multifrontal"), advection()),
    "dense": (mfdeq.Direct(), advection(6).toarray()),
    "blocks": (mfdeq.Direct(), sp.block_diag([RNG.random((4, 4)) + 4 * np.eye(4)] * 60).tocsr()),
    "gmres": (mfdeq.Krylov(), advection(8)),
    "gmres, restarted": (mfdeq.Krylov(restart=8), advection(8)),
    "gmres, recycled": (mfdeq.Krylov(recycle=10, restart=40), advection(12)),
    "gmres, recycled with ILU": (mfdeq.Krylov(preconditioner=ILU, recycle=4), advection()),
    "gmres with AMG": (mfdeq.Krylov(preconditioner=AMG), advection(24)),
    "cg": (mfdeq.Krylov("cg"), laplacian(8)),
    "cg with AMG": (mfdeq.Krylov("cg", preconditioner=AMG), laplacian(24)),
    "minres": (mfdeq.Krylov("minres"), laplacian(8)),
    "lgmres": (mfdeq.Krylov("lgmres", preconditioner=ILU), advection(8)),
    "bicgstab": (mfdeq.Krylov("bicgstab", preconditioner=ILU), advection(8)),
    "neumann": (mfdeq.Neumann(), sp.csr_array(0.2 * advection(8))),
    "auto": (Auto(), advection()),
    "reused": (Reused(mfdeq.Krylov(preconditioner=ILU)), advection()),
    "fields": (
        mfdeq.Krylov(preconditioner=mfdeq.FieldSplit([np.arange(200), np.arange(200, 400)])),
        advection(),
    ),
}


def check_shared_factor(name, rounds):
    solver, A = SOLVERS[name]
    counts = LinearCounts()
    factor = solver.setup(operator_of(A), counts)
    setups = counts.setups
    B = np.random.default_rng(1).standard_normal((A.shape[0], 3 * rounds))

    def job(j):
        """Solve for a vector or a block, with A or its adjoint."""
        block = j % 3 == 2
        b = B[:, j : j + 3] if block else B[:, j]
        adjoint = j % 2 == 1
        x = factor.solve_adjoint(b) if adjoint else factor.solve(b)
        return np.linalg.norm((A.T if adjoint else A) @ x - b) <= 2e-10 * np.linalg.norm(b)

    jobs = 3 * rounds - 3
    assert all(in_threads(job, jobs))
    assert counts.setups == setups
    assert counts.solves + counts.adjoint_solves == counts.full_solves == jobs
    assert counts.solves == len(range(0, jobs, 2))
    assert counts.columns == jobs + 2 * len(range(2, jobs, 3))
    assert counts.worst_residual <= 2e-10


@pytest.mark.parametrize("name", SOLVERS)
def test_threads_share_a_factor(name):
    check_shared_factor(name, 8)


@pytest.mark.slow
@pytest.mark.parametrize("name", SOLVERS)
def test_threads_share_a_factor_for_long(name):
    check_shared_factor(name, 400)


def test_a_solver_that_fails_is_replaced_once():
    """All threads fail with the first candidate, and only that one is dropped."""
    auto = Auto()
    A = operator_of(advection(8))
    auto._kind = None
    first = mfdeq.Krylov(max_iterations=2)
    auto.candidates = lambda A: [(first, "", None), (mfdeq.Direct(), "", None)] * 2
    counts = LinearCounts()
    factor = auto.setup(A, counts)
    b = np.ones(64)
    found = in_threads(lambda j: factor.solve(b), 24)
    np.testing.assert_allclose(found, [np.linalg.solve(A.array.toarray(), b)] * 24, rtol=1e-8)
    assert counts.setups == 2
    assert [solver for solver, _ in auto.remaining] == [mfdeq.Direct(), first, mfdeq.Direct()]


def test_paths_of_matrices_share_a_solver():
    """Each thread has its own path, and all renew, refresh and age the same factor."""
    solver = Reused(mfdeq.Krylov("cg", preconditioner=mfdeq.AMG()))

    def job(j):
        counts, rng = LinearCounts(), np.random.default_rng(j)
        for k in range(6):
            A = sp.csr_array(laplacian(22) * 10.0**k + sp.diags_array(rng.random(484)))
            b = rng.standard_normal(484)
            x = solver.setup(operator_of(A), counts).solve(b)
            assert np.linalg.norm(A @ x - b) <= 2e-10 * np.linalg.norm(b)
        return counts.setups + counts.refreshes

    assert sum(in_threads(job, 4)) >= 1


class Slow(Solver):
    """A solver whose factor fails in every second solve of a thread."""

    def setup(self, A, counts=None):
        return SlowFactor(operator_of(A), None, counts)


class SlowFactor(Factor):
    name = "slow"

    def _attempt(self, b, rtol, adjoint):
        for _ in range(20):
            self.count_iterations(1, float(b[0]))
        self.stopped = f"it met {b[0]:.0f}"
        return b if b[0] % 2 == 0 else 0.0 * b


def test_a_failure_is_that_of_the_own_solve():
    factor = Slow().setup(np.eye(3))

    def job(j):
        if j % 2:
            with pytest.raises(mfdeq.ConvergenceError, match=f"it met {j};"):
                factor.solve(np.full(3, float(j)))
        else:
            factor.solve(np.full(3, float(j)))
        return factor.stopped == f"it met {j}" and factor.iterations_of_last_solve == 20

    assert all(in_threads(job, 40))
    assert factor.counts.iterations == 40 * 20


def test_values_are_computed_once():
    class Circle:
        def __init__(self):
            self.computed = []

        @cached_property
        def area(self):
            self.computed.append(sum(range(10_000)))
            return object()

    for _ in range(20):
        circle = Circle()
        assert len(set(in_threads(lambda _, circle=circle: circle.area, 8))) == 1
        assert len(circle.computed) == 1
    assert isinstance(Circle.area, cached_property)


def test_a_lock_is_reentrant():
    with Lock() as lock, lock:
        pass


def test_filters_of_warnings_are_restored_after_threads():
    before = list(warnings.filters)

    def job(j):
        with ignore_warnings():
            warnings.warn("ignored", RuntimeWarning, stacklevel=1)
            sum(range(1000 * (j % 5)))

    in_threads(job, 200)
    assert warnings.filters == before


def test_many_singular_matrices_leave_no_filters():
    before = list(warnings.filters)

    def job(j):
        with pytest.raises(mfdeq.SingularStateError):
            mfdeq.Direct().setup(np.zeros((3, 3)))

    in_threads(job, 40)
    assert warnings.filters == before
