"""Factors, equilibria, Hessians and functionals that threads share give what one thread gets."""

import pickle
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec

import numpy as np
import pytest
import scipy.sparse as sp
from support import travelling
from support.cases import close
from support.cupy_problems import bratu, bratu_equilibrium, cupy, needs_cupy
from support.matrices import to_library
from support.travelling import THETA, Cubic, N, P, cubic

import mfdeq
from mfdeq.linear import Auto, Factor, Reused, Solver, operator_of
from mfdeq.linear.candidates import Candidate
from mfdeq.linear.choice import Choice
from mfdeq.locks import Lock, Once, cached_property, ignore_warnings
from mfdeq.report import LinearCounts

THREADS = 4
RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def _frequent_switches():
    """Let Python switch threads fifty times as often, so that more of them meet."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(interval / 50)
    yield
    sys.setswitchinterval(interval)


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
if find_spec("pypardiso"):  # the extra pardiso
    SOLVERS["pardiso"] = (mfdeq.Direct(package="pardiso"), advection())
if find_spec("kvxopt"):  # the extra suitesparse
    SOLVERS["cholmod"] = (mfdeq.Direct(package="cholmod"), laplacian(8))


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
    check_shared_factor(name, 40)


def test_a_solver_that_fails_is_replaced_once():
    """All threads fail with the first candidate, and only that one is dropped."""
    auto = Auto()
    A = operator_of(advection(8))
    solvers = [mfdeq.Krylov(max_iterations=2), mfdeq.Direct()] * 2
    choice = Choice([Candidate(solver, 0.0, 0.0) for solver in solvers], None, 1, "passed")
    auto._choice_for = lambda A: choice
    counts = LinearCounts()
    factor = auto.setup(A, counts)
    b = np.ones(64)
    found = in_threads(lambda j: factor.solve(b), 24)
    np.testing.assert_allclose(found, [np.linalg.solve(A.array.toarray(), b)] * 24, rtol=1e-8)
    assert counts.setups == 2
    assert [candidate.solver for candidate in choice.candidates] == solvers[1:]


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
    lock = Lock()
    with lock, lock:
        assert pickle.loads(pickle.dumps(lock)) is not lock


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


# Equilibria, Hessians, functionals and spectra.


def models():
    yield "sparse", Cubic(), {}
    yield "dense", Cubic(dense=True), {}
    yield "recycled", Cubic(), {"solver": mfdeq.Krylov(preconditioner=ILU, recycle=4)}
    yield "neumann", mfdeq.from_function(contraction, N, P, "map"), {"solver": mfdeq.Neumann()}
    yield "from_function", mfdeq.from_function(cubic, N, P, "residual", sparsity="detect"), {}
    yield "differences", mfdeq.from_function(cubic, N, P, "residual", step=1e-4), {}
    yield "mixed", mfdeq.mixed(mfdeq.from_function(cubic, N, P, "residual"), Cubic()), {}


def contraction(h, theta):
    return 0.3 * np.tanh(h) + 0.1 * np.roll(h, 1) + theta[0] + theta[1] * np.linspace(0, 1, N)


LOSS = mfdeq.LeastSquares(np.arange(N), np.zeros(N)) + 0.1 * mfdeq.QuadraticPrior(1.0)
OTHER_LOSS = mfdeq.LeastSquares(np.arange(3), np.ones(3))


def quantities(eq, H):
    """Functions of j, each a result of an equilibrium or a Hessian."""
    V = np.random.default_rng(5).standard_normal((P, 6))
    return [
        lambda j: eq.gradient(LOSS),
        lambda j: eq.gradient(OTHER_LOSS),
        lambda j: eq.gradient(LOSS, rtol=1e-4),
        lambda j: H @ V[:, j % 6],
        lambda j: H @ V,
        lambda j: H.to_accuracy(1e-4) @ V[:, j % 6],
        lambda j: eq.hessian(OTHER_LOSS) @ V[:, j % 6],
        lambda j: H.gauss_newton @ V[:, j % 6] + H.dynamics @ V[:, j % 6],
        lambda j: sum(term @ V[:, j % 6] for term in H.terms.values()),
        lambda j: eq.sensitivity @ V,
        lambda j: eq.sensitivity.H @ eq.state,
        lambda j: eq.component_hessian(1) @ V[:, j % 6],
        lambda j: np.array([eq.smallest_singular.value]),
        lambda j: eq.polish().state,
    ]


def check_shared_equilibrium(model, options, rounds):
    alone = mfdeq.solve(model, THETA, **options)
    shared = mfdeq.solve(model, THETA, **options)
    H = Once()
    serial = quantities(alone, alone.hessian(LOSS))
    expected = [[quantity(j) for j in range(6)] for quantity in serial]

    def job(i):
        """All threads begin at once, so that what is cached is computed by one of them."""
        parts = quantities(shared, H(lambda: shared.hessian(LOSS)))
        which = i % len(parts)
        return which, i % 6, parts[which](i % 6)

    for which, j, found in in_threads(job, len(serial) * rounds):
        size = np.linalg.norm(expected[which][j])
        assert np.linalg.norm(found - expected[which][j]) <= 1e-5 * size + 1e-8, which
    counts, linear = shared.report.linear, shared.report.linear
    assert counts.setups <= 1  # one factor, whoever asks first
    assert linear.full_solves <= linear.solves + linear.adjoint_solves


@pytest.mark.parametrize(("name", "model", "options"), list(models()), ids=lambda x: str(x)[:14])
def test_threads_share_an_equilibrium(name, model, options):
    check_shared_equilibrium(model, options, 3)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "model", "options"), list(models()), ids=lambda x: str(x)[:14])
def test_threads_share_an_equilibrium_for_long(name, model, options):
    check_shared_equilibrium(model, options, 10)


def test_work_that_threads_share_is_done_once():
    """The factor, the adjoint of each loss and the error estimates, as in one thread."""
    counts = []
    for threads in (1, THREADS):
        eq = mfdeq.solve(Cubic(), THETA)
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(lambda _, eq=eq: eq.gradient(LOSS), range(40)))
            list(pool.map(lambda _, eq=eq: eq.gradient(OTHER_LOSS), range(40)))
        linear = eq.report.linear
        counts.append((linear.setups, linear.solves, linear.adjoint_solves, linear.columns))
    assert counts[0] == counts[1]


def test_counts_of_products_add_up():
    eq = mfdeq.solve(Cubic(), THETA, error_estimates=False)
    H = eq.hessian(LOSS)
    linear = eq.report.linear
    before = linear.solves, linear.adjoint_solves, linear.columns
    V = np.ones((P, 4))
    in_threads(lambda j: H @ (V if j % 2 else V[:, 0]), 100)
    after = linear.solves, linear.adjoint_solves, linear.columns
    assert np.subtract(after, before).tolist() == [100, 100, 2 * (50 + 50 * 4)]


def test_threads_share_a_functional_at_several_parameters():
    F = mfdeq.ReducedFunctional(Cubic(), LOSS)
    thetas = [THETA + 0.05 * j for j in range(4)]
    v = np.ones(P)
    alone = [mfdeq.ReducedFunctional(Cubic(), LOSS) for _ in thetas]
    expected = [
        np.array([f.value(t), *f.gradient(t), *f.hessp(t, v), *(f.hessian(t) @ v)])
        for f, t in zip(alone, thetas, strict=True)
    ]

    def job(j):
        t = thetas[j % 4]
        return [F.value(t), *F.gradient(t), *F.hessp(t, v), *(F.hessian(t) @ v)]

    for j, found in enumerate(in_threads(job, 40)):
        np.testing.assert_allclose(found, expected[j % 4], rtol=1e-7)
    assert F.solves <= 160


@pytest.mark.parametrize(
    "source",
    [
        "from_function",
        *(pytest.param(s, marks=pytest.mark.slow) for s in ("from_jax", "from_torch")),
    ],
)
def test_threads_share_a_model(source):
    """Each solves at its own parameters; what is detected once belongs to all."""
    if source != "from_function":
        pytest.importorskip(source[5:])
    if source == "from_jax":
        pytest.importorskip("jax")
    model, reference = travelling._model(source), Cubic()

    def job(j):
        eq = mfdeq.solve(model, THETA + 0.02 * j)
        return eq.gradient(LOSS), eq.hessian(LOSS) @ np.ones(P)

    for j, (gradient, product) in enumerate(in_threads(job, 8)):
        eq = mfdeq.solve(reference, THETA + 0.02 * j)
        np.testing.assert_allclose(gradient, eq.gradient(LOSS), rtol=1e-6)
        np.testing.assert_allclose(product, eq.hessian(LOSS) @ np.ones(P), rtol=1e-4)


def test_threads_share_what_is_made_of_a_spectrum():
    A = laplacian(10)
    pairs = mfdeq.eigsh(A, k=4)
    J = RNG.standard_normal((4, 100))
    posterior = mfdeq.LowRank(mfdeq.eigsh(20.0 * J.T @ J, k=6, M=A))
    samples, variances = posterior.samples(seed=1), posterior.variances()
    inverse = mfdeq.ShiftedInverse(A, 0.05)
    b = np.ones(100)
    x = inverse @ b

    def job(j):
        again = mfdeq.eigsh(A, k=6, resume=pairs) if j % 4 == 0 else mfdeq.eigsh(A, k=4)
        np.testing.assert_allclose(again.values[-4:], pairs.values, rtol=1e-6)
        np.testing.assert_allclose(posterior.samples(seed=1), samples)
        np.testing.assert_allclose(posterior.variances(), variances)
        np.testing.assert_allclose(inverse @ b, x, rtol=1e-8)
        return inverse.below

    assert len(set(in_threads(job, 16))) == 1


@needs_cupy
def test_threads_share_a_captured_cycle_of_cupy():
    """A graph has one array for its argument and one for its result."""
    A = laplacian(30)
    factor = mfdeq.Krylov("cg", preconditioner=mfdeq.AMG()).setup(to_library(A.tocsr(), cupy))
    B = np.random.default_rng(0).standard_normal((900, 12))

    def job(j):
        return factor.solve(cupy.asarray(B[:, j])).get()

    X = np.stack(in_threads(job, 12), axis=1)
    assert np.linalg.norm(A @ X - B) <= 1e-8 * np.linalg.norm(B)


@needs_cupy
def test_threads_share_an_equilibrium_of_cupy():
    eq, loss = bratu_equilibrium(cupy), bratu(cupy).loss
    H = eq.hessian(loss)
    v = cupy.ones(eq.params.shape[0])
    gradient, product = eq.gradient(loss).get(), (H @ v).get()
    for found in in_threads(lambda j: (eq.gradient(loss), H @ v), 8):
        close(found[0], gradient, 1e-9)
        close(found[1], product, 1e-7)
