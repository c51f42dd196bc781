"""On cupy's arrays: what numpy's give, in cupy's arrays and operators; and what is refused.

The tables of the other tests hold cupy's cases as well; here is what only cupy has to show. All of
it runs on a CUDA device, or on the simulation of one in tests/simulated, which is no GPU.
"""

from __future__ import annotations

import gc
from functools import cache

import numpy as np
import pytest
import scipy.sparse as sp
from support.case_models import linear_operator_of, sparse_of
from support.cases import CUPY, FORMS, ROWS, bratu_field, case_of, close, to_numpy
from support.matrices import diffusion, moved, operator
from support.places import NO_CUPY, cupy_called, cupy_here

import mfdeq

cupy = cupy_here()
needs_cupy = pytest.mark.skipif(cupy is None, reason=NO_CUPY)
NAMES = [
    *ROWS,
    *(f"{name}-float32" for name in ROWS),
    *(f"{name}-{form}" for name in ROWS for form in FORMS),
]


@needs_cupy
@pytest.mark.parametrize("number", range(len(NAMES)), ids=lambda number: NAMES[number])
def test_a_row_of_the_table(number):
    """Its gradient, in cupy's arrays; the operators of every row are in test_operators.py."""
    case = CUPY[number]
    assert str(case).replace(f"-{cupy_called()}", "") == NAMES[number]
    eq = case.equilibrium()
    gradient = eq.gradient(case.loss)
    for array in (gradient, eq.state, eq.params):
        assert type(array) is cupy.ndarray
        assert array.dtype == case.dtype
    close(gradient, case.truth.gradient, case.rtol)


# Everything once on numpy and once on cupy.


@cache
def bratu(xp, n=9):
    """81 unknowns and as many parameters, all sparse."""
    return case_of(*bratu_field(n), name="bratu_field", xp=xp)


def minimum(xp, method, **options):
    case = bratu(xp, 4)
    F = mfdeq.ReducedFunctional(case.model, case.loss)
    found = mfdeq.minimize(
        F, case.params, method, preconditioner=mfdeq.Precision(xp.ones(16)), gtol=1e-9, **options
    )
    return [found.value, found.params + 0 * found.gradient]


@cache
def solved(xp, loose=False):
    return bratu(xp).solve(solver=mfdeq.Krylov(rtol=1e-6) if loose else "auto")


@cache
def hessian(xp):
    return solved(xp).hessian(bratu(xp).loss)


@cache
def prior(xp):
    return mfdeq.Precision(moved((diffusion(9) + 0.3 * sp.identity(81)).tocsr(), xp))


@cache
def sparse_hessian(xp):
    """Whose blocks are all sparse matrices."""
    seen = mfdeq.LeastSquares(xp.arange(0, 81, 4), xp.zeros(21), xp.full(21, 30.0))
    return solved(xp).hessian(seen + mfdeq.QuadraticPrior(sparse_of(xp).identity(81) / 50))


@cache
def misfit(xp):
    """Of rank 5, without the prior."""
    seen = xp.asarray([3, 17, 40, 55, 78])
    return solved(xp).hessian(mfdeq.LeastSquares(seen, xp.zeros(5), xp.full(5, 30.0)))


def pairs(found):
    """Eigenvectors up to their signs."""
    projector = found.vectors @ found.vectors.T
    assert found.report.converged
    return found.values, projector, found.error_bounds < 1e-3


def estimate(found):
    return found.value, found.standard_error


def functional(xp, **options):
    case = bratu(xp)
    F = mfdeq.ReducedFunctional(case.model, case.loss, **options)
    theta, v = case.params + 0.1, case.random(81)
    return F.value(theta), F.gradient(theta), F.hessp(theta, v), F.hessian(theta) @ v


def losses(xp):
    """Observed by indices, a mask, a matrix and an operator; priors of every kind."""
    case, eq = bratu(xp), solved(xp)
    indices, mask = xp.asarray([3, 3, 70]), xp.arange(81) % 2 == 0
    matrix = moved(diffusion(9).tocsr()[:7], xp)
    dense = matrix.toarray()
    op = linear_operator_of(xp)(
        dense.shape, matvec=lambda x: dense @ x, rmatvec=lambda y: dense.T @ y, dtype=dense.dtype
    )
    scale, mean = xp.full(81, 2.0), case.random(81, seed=3)
    found = []
    for loss in (
        *(mfdeq.LeastSquares(o, xp.ones(m)) for o, m in ((indices, 3), (mask, 41))),
        *(mfdeq.LeastSquares(o, xp.ones(7), xp.arange(1.0, 8)) for o in (matrix, dense, op)),
        mfdeq.QuadraticPrior(2.0, mean),
        mfdeq.QuadraticPrior(xp.diag(scale), 1.0),
        mfdeq.QuadraticPrior(sparse_of(xp).diags(scale).tocsr(), mean) / 3,
        mfdeq.QuadraticPrior(prior(xp), mean) + 2 * mfdeq.LeastSquares(indices, xp.ones(3)),
    ):
        found += [loss.value(eq.state, eq.params), eq.gradient(loss), eq.hessian(loss) @ mean]
    return found


def precisions(xp):
    found = []
    b, dense = bratu(xp).random(81, 3), prior(xp).array.toarray()
    for given in (prior(xp).array, dense, xp.arange(1.0, 82)):
        R = mfdeq.Precision(given)
        found += [R @ b, R.solve(b), R.solve(b[:, 0]), R.covariance @ b]
        found += [R.samples(2), R.samples(), R.variances(), R.log_determinant()]
    inverse = xp.linalg.inv(dense)
    R = mfdeq.Precision(prior(xp) + prior(xp), solve=lambda b: inverse @ b / 2)
    return [*found, R @ b, R.solve(b)]


def low_rank(xp):
    post = mfdeq.LowRank(mfdeq.eigsh(misfit(xp), 5, M=prior(xp)))
    b = bratu(xp).random(81, 2)
    return (
        post @ b,
        post.precision @ b,
        post.variances(),
        post.variance_reduction(),
        post.log_determinant(),
        post.expected_information_gain(),
        post.information_gain(b[:, 0]),
    )


def accurate(xp):
    eq, case = solved(xp, loose=True), bratu(xp)
    H, v = eq.hessian(case.loss), case.random(81)
    product, error = H.with_error(v)
    return (
        H.to_accuracy(1e-7) @ v,
        eq.gradient(case.loss, rtol=1e-7),
        product,
        eq.backend.norm(error) < 1e-4 * eq.backend.norm(product),
    )


def preconditioned(xp):
    H = misfit(xp).gauss_newton + prior(xp)
    M = mfdeq.LowRank(mfdeq.eigsh(misfit(xp).gauss_newton, 5, M=prior(xp)))
    return pairs(mfdeq.eigsh(H, 3, "SA", preconditioner=M))


def second_order(xp):
    eq, case = solved(xp), bratu(xp)
    u, v, w = (case.random(81, seed=s) for s in range(3))
    return (
        eq.total_curvature(u, v),
        eq.second_order(u, v),
        eq.second_order_slice(v) @ u,
        eq.second_order_slice(v).H @ w,
        eq.component_hessian(w) @ v,
        eq.component_hessian(5) @ v,
        eq.component_hessian(np.int64(-1)) @ v,
        eq.curvature(w) @ xp.concatenate([u, v]),
        eq.smallest_singular.value,
    )


def density(xp):
    found = mfdeq.spectral_density(hessian(xp), M=prior(xp), probes=6, steps=20)
    return (*estimate(found.sum(np.exp)), found.cumulative([1.0, 10.0]), found([1.0], 0.5))


def from_function(xp, sparsity, n=6):
    """Bratu's equation with its derivatives by the complex step."""
    laplacian = moved(diffusion(n), xp)

    def residual(h, theta):
        return laplacian @ h - theta * xp.exp(h)

    pattern = None
    if sparsity == "given":
        pattern = (laplacian, sparse_of(xp).identity(n * n, format="csr"))
    model = mfdeq.from_function(residual, n * n, n * n, "residual", sparsity=pattern or sparsity)
    theta = xp.linspace(0.02, 0.06, n * n)
    eq = mfdeq.solve(model, theta)
    loss = mfdeq.LeastSquares(xp.arange(5), xp.ones(5)) + mfdeq.QuadraticPrior(0.1)
    u, v = bratu(xp).random(n * n, 2).T
    H = eq.hessian(loss)
    return eq.state, eq.gradient(loss), H @ u, eq.second_order(u, v), H.with_error(u)[0]


def many_unknowns(xp):
    """For which "auto" estimates what LU takes, and may try the others."""
    A = moved(diffusion(75, wind=0.3), xp)
    J = sparse_of(xp).identity(5625, format="csr") - A

    class Wide(mfdeq.FixedPointModel):
        state_size, param_size = 5625, 1

        def map(self, h, theta):
            return J @ h + theta

        def linearize(self, h, theta):
            return mfdeq.Linearization(J, xp.ones((5625, 1)), lambda lam: mfdeq.Curvature())

    eq = mfdeq.solve(Wide(), xp.ones(1))
    return eq.state, eq.gradient(mfdeq.LeastSquares(xp.arange(9), xp.ones(9)))


def probed(xp):
    """A known by its products, preconditioned by what they show of it."""
    A = moved((diffusion(9) + sp.identity(81)).tocsr(), xp)
    op = linear_operator_of(xp)(
        A.shape, matvec=lambda x: A @ x, rmatvec=lambda y: A.T @ y, dtype=A.dtype
    )
    found = []
    for by in (mfdeq.ILU(), mfdeq.AMG(), mfdeq.Jacobi(), mfdeq.Direct()):
        for more in ({"pattern": A}, {"matrix": A}):
            M = mfdeq.Approximate(by, **more)
            factor = mfdeq.Krylov(preconditioner=M, rtol=1e-12).setup(op)
            found += [factor.solve(xp.ones(81)), factor.solve_adjoint(bratu(xp).random(81, 2))]
    return found


def verified(xp):
    case = bratu(xp)
    found = mfdeq.verify(case.model, case.params, case.loss)
    return found.verdict == "PASS", len(found.checks)


FEATURES = {
    "losses": losses,
    "second order": second_order,
    "precisions": precisions,
    "posterior": low_rank,
    "to an accuracy": accurate,
    "functional": functional,
    "functional to an accuracy": lambda xp: functional(
        xp, accuracy=1e-10, solver=mfdeq.Krylov(rtol=1e-12)
    ),
    "verification": verified,
    "a function, its patterns given": lambda xp: from_function(xp, "given"),
    "a function, its patterns detected": lambda xp: from_function(xp, "detect"),
    "a function without patterns": lambda xp: from_function(xp, None, n=3),
    "many unknowns": many_unknowns,
    "probed preconditioners": probed,
    **{
        f"eigenvalues {which}": lambda xp, which=which: pairs(
            mfdeq.eigsh(hessian(xp), 4, which, rtol=1e-10)
        )
        for which in ("LM", "LA", "SA", "BE")
    },
    "minimum": lambda xp: minimum(xp, "newton-cg"),
    "minimum within bounds": lambda xp: minimum(xp, "gauss-newton", bounds=(3.9, 4.4)),
    "minimum by L-BFGS": lambda xp: minimum(xp, "l-bfgs"),
    "all eigenvalues": lambda xp: mfdeq.eigsh(hessian(xp), 81).values,
    "eigenvalues in blocks": lambda xp: pairs(
        mfdeq.eigsh(hessian(xp), 4, block=3, basis=24, rtol=1e-10)
    ),
    "eigenvalues near a shift": lambda xp: pairs(
        mfdeq.eigsh(sparse_hessian(xp), 3, sigma=0.05, certify=True)
    ),
    "eigenvalues near a shift beside a prior": lambda xp: pairs(
        mfdeq.eigsh(sparse_hessian(xp), 3, sigma=0.2, M=prior(xp))
    ),
    "eigenvalues beside a prior": lambda xp: pairs(mfdeq.eigsh(hessian(xp), 3, M=prior(xp))),
    "eigenvalues beside a dense prior": lambda xp: pairs(
        mfdeq.eigsh(hessian(xp), 3, M=prior(xp).array.toarray())
    ),
    "eigenvalues resumed": lambda xp: pairs(
        mfdeq.eigsh(hessian(xp), 5, resume=mfdeq.eigsh(hessian(xp), 3), rtol=1e-9)
    ),
    "smallest eigenvalues, preconditioned": preconditioned,
    "eigenvalues by random products": lambda xp: pairs(
        mfdeq.randomized_eigsh(misfit(xp).gauss_newton, 5, M=prior(xp), rtol=1e-8)
    ),
    "trace": lambda xp: estimate(mfdeq.trace(hessian(xp), products=30)),
    "norm": lambda xp: estimate(mfdeq.frobenius_norm(hessian(xp), products=30, M=prior(xp))),
    "condition": lambda xp: mfdeq.condition_number(sparse_hessian(xp)).value,
    "density": density,
    "determinant": lambda xp: estimate(mfdeq.log_determinant(hessian(xp), probes=6, steps=30)),
    "rank": lambda xp: mfdeq.numerical_rank(misfit(xp).gauss_newton, probes=6, steps=20).value,
    "Nystrom": lambda xp: mfdeq.Nystrom(misfit(xp).gauss_newton, 8, 1.0) @ bratu(xp).random(81),
}


def flat(found):
    return [*found] if isinstance(found, (tuple, list)) else [found]


@needs_cupy
@pytest.mark.parametrize("feature", FEATURES)
def test_cupy_agrees_with_numpy(feature):
    expected, found = (flat(FEATURES[feature](xp)) for xp in (np, cupy))
    assert len(found) == len(expected) > 0
    for there, here in zip(found, expected, strict=True):
        # A number where numpy's is one, else an array of cupy's in the same precision.
        assert isinstance(there, cupy.ndarray) == (
            isinstance(here, np.ndarray) and feature != "density"
        )
        if isinstance(here, np.ndarray):
            assert there.dtype == here.dtype
        assert np.linalg.norm(here) > 0
        # Spaces of eigenvectors have the accuracy that was asked for, over the gap.
        loose = feature == "to an accuracy" or (feature.startswith("eigen") and here.ndim == 2)
        close(there, to_numpy(here), 1e-7 if loose else 1e-9)


# What is refused: arrays of another library or device, and what does not fit.


@cache
def at(xp):
    """A dense model, its equilibrium and a loss, for what is done wrong to them."""
    case = case_of(*ROWS["smooth"](), name="smooth", xp=xp)
    return case, case.solve()


def other(xp):
    return cupy if xp is np else np


def foreign(xp):
    """Calls with arrays of the other library, and the error of each."""
    case, eq = at(xp)
    H, there = eq.hessian(case.loss), other(xp)
    theta, h, block = there.ones(3), there.ones(5), there.ones((3, 2))
    sparse = sparse_of(there).csr_matrix(there.eye(5))

    class Returning(type(case.model)):
        def map(self, h, theta):
            return there.ones(5)

    class Handing(type(case.model)):
        def linearize(self, h, theta):
            given = super().linearize(h, theta)
            return mfdeq.Linearization(sparse, given.d_params, given.curvature)

    def of(kind):
        return kind(case.xp, case.dtype, **case.model.source)

    model, argument = mfdeq.ModelError, mfdeq.ArgumentError
    return {
        "parameters": (model, lambda: mfdeq.solve(case.model, theta, xp.ones(5))),
        "start": (model, lambda: mfdeq.solve(case.model, xp.ones(3), h)),
        "state": (model, lambda: mfdeq.equilibrium_at(case.model, xp.ones(3), h)),
        "map": (model, lambda: mfdeq.solve(of(Returning), case.params)),
        "derivative": (model, lambda: mfdeq.solve(of(Handing), case.params, method="newton")),
        "vector": (argument, lambda: H @ theta),
        "block": (argument, lambda: H @ block),
        "adjoint": (argument, lambda: eq.sensitivity.H @ h),
        "direction": (argument, lambda: eq.second_order(theta, theta)),
        "weights": (argument, lambda: eq.component_hessian(h)),
        "data": (model, lambda: eq.gradient(mfdeq.LeastSquares(xp.arange(5), h))),
        "indices": (model, lambda: eq.gradient(mfdeq.LeastSquares(there.arange(5), xp.ones(5)))),
        "observations": (model, lambda: eq.gradient(mfdeq.LeastSquares(sparse, xp.ones(5)))),
        "prior": (model, lambda: eq.gradient(mfdeq.QuadraticPrior(there.eye(3)))),
        "mean": (model, lambda: eq.gradient(mfdeq.QuadraticPrior(1.0, theta))),
        "start of eigsh": (argument, lambda: mfdeq.eigsh(H, 1, v0=theta)),
        "M": (mfdeq.MfdeqError, lambda: mfdeq.eigsh(H, 1, M=there.ones(3))),
        "right-hand side": (argument, lambda: eq.factor.solve(h)),
        "preconditioner": (
            mfdeq.MfdeqError,
            lambda: mfdeq.solve(
                case.model,
                case.params,
                solver=mfdeq.Krylov(preconditioner=mfdeq.Approximate(mfdeq.ILU(), sparse)),
                method="newton",
            ),
        ),
    }


@needs_cupy
@pytest.mark.parametrize("home", ["numpy", "cupy"])
def test_arrays_of_the_other_library_are_refused(home):
    """All of them before anything is reported: a list of those that are not."""
    unexpected = []
    for name, (error, call) in foreign(np if home == "numpy" else cupy).items():
        try:
            call()
        except error as caught:
            if not any(word in str(caught) for word in ("moved", "expected")):
                unexpected.append((name, caught))
        except Exception as caught:
            unexpected.append((name, caught))
        else:
            unexpected.append((name, "nothing was raised"))
    assert not unexpected


@needs_cupy
def test_two_devices_are_refused():
    if cupy.cuda.runtime.getDeviceCount() < 2:
        pytest.skip("one device only")
    case, eq = at(cupy)
    H = eq.hessian(case.loss)
    with cupy.cuda.Device(1):
        theta, h, v = cupy.ones(3), cupy.ones(5), cupy.ones(3)
        moved_there = mfdeq.solve(case_of(*ROWS["smooth"](), name="other", xp=cupy).model, theta)
        assert moved_there.state.device == cupy.cuda.Device(1)
    with pytest.raises(mfdeq.ModelError, match=r"params and h0 on one device, got .*0.* and .*1"):
        mfdeq.solve(case.model, case.params, h)
    with pytest.raises(mfdeq.ModelError, match="current device"):
        mfdeq.solve(case.model, theta)
    with pytest.raises(mfdeq.ArgumentError, match="Nothing is moved"):
        H @ v


@needs_cupy
def test_a_full_device_says_how_much_was_asked_for():
    case, eq = at(cupy)
    pool = cupy.get_default_memory_pool()
    H, block, right = eq.hessian(case.loss), cupy.ones((3, 200_000)), cupy.ones((5, 160_000))
    calls = [
        lambda: H @ block,
        lambda: H.H @ block,
        lambda: eq.factor.solve(right),
        lambda: mfdeq.solve(Large(), cupy.ones(1)),
    ]
    for call in calls:
        pool.free_all_blocks()
        pool.set_limit(size=pool.used_bytes() + 6_000_000)
        try:
            with pytest.raises(mfdeq.OutOfMemoryError, match=r"ing .* bytes.*Use fewer") as caught:
                call()
        finally:
            pool.set_limit(size=0)
        assert isinstance(caught.value, MemoryError)
        assert isinstance(caught.value.__cause__, cupy.cuda.memory.OutOfMemoryError)
    close(H @ block[:, :1], to_numpy(H.toarray() @ block[:, :1]), 1e-10)  # nothing was broken


class Large(mfdeq.FixedPointModel):
    """Too large for the limit of the test above, by its dense Jacobian."""

    state_size, param_size = 1000, 1

    def map(self, h, theta):
        return 0.5 * h + theta

    def linearize(self, h, theta):
        return mfdeq.Linearization(0.5 * cupy.eye(1000), cupy.ones((1000, 1)))


# Operators among cupyx's.


@needs_cupy
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_an_operator_among_cupyxs(dtype):
    from cupyx.scipy.sparse.linalg import LinearOperator, aslinearoperator

    case = case_of(*ROWS["smooth"](), name="smooth", dtype=dtype, xp=cupy)
    eq = case.solve()
    for op in (eq.sensitivity, eq.tangent, eq.hessian(case.loss), eq.inverse.H):
        rows, columns = op.shape
        D = to_numpy(op.toarray())
        x, X, Y = case.random(columns), case.random(columns, 3), case.random(rows, 3)
        F = case.random(rows, columns, seed=5)
        given = aslinearoperator(F)
        assert aslinearoperator(op) is op
        for found, expected in (
            (op @ x, D @ to_numpy(x)),
            (op * X, D @ to_numpy(X)),
            (op(x), D @ to_numpy(x)),
            (op.matvec(x[:, None]), D @ to_numpy(x)[:, None]),
            (op.rmatmat(Y), D.T @ to_numpy(Y)),
            (op.T @ Y, D.T @ to_numpy(Y)),
            (op @ X[:, :0], np.zeros((rows, 0))),
            ((op - 2 * op) @ X, -D @ to_numpy(X)),
            (-op @ X, -D @ to_numpy(X)),
            ((op.H @ op) @ X, D.T @ D @ to_numpy(X)),
            ((op + given) @ X, (D + to_numpy(F)) @ to_numpy(X)),
            ((given + op) @ x, (D + to_numpy(F)) @ to_numpy(x)),
            ((op + given).H @ Y, (D + to_numpy(F)).T @ to_numpy(Y)),
            ((op - given) @ X, (D - to_numpy(F)) @ to_numpy(X)),
            ((given.H @ op) @ X, to_numpy(F).T @ D @ to_numpy(X)),
        ):
            assert type(found) is cupy.ndarray
            assert found.dtype == dtype
            close(found, expected, 1e-3 if dtype == "float32" else 1e-10)
        for made in (2 * op, op * 0.5, np.float64(3) * op, x[0] * op, op * x[0], op.H @ op):
            assert isinstance(made, LinearOperator)
            assert made.dtype == dtype
        y = Y[:, 0]
        for found, expected in ((y @ op, to_numpy(y) @ D), (Y.T @ op, to_numpy(Y).T @ D)):
            assert type(found) is cupy.ndarray
            close(found, expected, 1e-3 if dtype == "float32" else 1e-10)


@needs_cupy
@pytest.mark.parametrize("method", ["cg", "gmres", "minres", "bicgstab"])
def test_solves_by_cupyx(method):
    from cupyx.scipy.sparse import linalg

    H, b = hessian(cupy) + prior(cupy), bratu(cupy).random(81)
    rtol = {"tol" if method == "minres" else "rtol": 1e-10}
    x, info = getattr(linalg, method)(H, b, **rtol)
    assert info == 0
    close(H @ x, to_numpy(b), 1e-6)


# How often the host waits for the device.

COUNTED = {
    "LU": (mfdeq.Direct(package="superlu"), 8),
    "fronts": (mfdeq.Direct(package="multifrontal"), 8),
    "CG with multigrid": (mfdeq.Krylov("cg", preconditioner=mfdeq.AMG()), 10),
    "GMRES with multigrid": (mfdeq.Krylov(preconditioner=mfdeq.AMG()), 14),
}


@needs_cupy
@pytest.mark.parametrize("columns", [1, 4])
@pytest.mark.parametrize("name", COUNTED)
def test_reads_of_a_product(name, columns):
    """So many at most beside one an iteration, however many columns."""
    counter = pytest.importorskip("cupy._simulated", reason="only the simulation counts reads")
    solver, most = COUNTED[name]
    case = bratu(cupy)
    eq = case.solve(solver=solver)
    loss = mfdeq.LeastSquares(cupy.arange(0, 81, 4), cupy.zeros(21))
    H, V = eq.hessian(loss), case.random(81, columns)
    H @ V
    before, iterations = counter.reads, eq.report.linear.iterations
    H @ V
    taken = eq.report.linear.iterations - iterations
    assert counter.reads - before <= taken + most


# The cycle on the device.


CYCLES = {
    "collapsed": mfdeq.AMG(),
    "double": mfdeq.AMG(levels="float64"),
    "chebyshev": mfdeq.AMG(degree=3),
    "chebyshev in blocks": mfdeq.AMG(degree=2, block_size=3),
    "ruge stuben": mfdeq.AMG("ruge_stuben"),
    "air": mfdeq.AMG("air"),
}


@needs_cupy
@pytest.mark.parametrize("wind", [0.0, 0.8])
@pytest.mark.parametrize("name", CYCLES)
def test_a_cycle_is_replayed_and_is_what_it_was(name, wind):
    """Launch by launch, captured and replayed, for each width; the adjoint too."""
    matrix = diffusion(45, wind)
    here = CYCLES[name].setup(mfdeq.linear.operands.operator_of(matrix))
    M = CYCLES[name].setup(mfdeq.linear.operands.operator_of(moved(matrix, cupy)))
    rng = np.random.default_rng(0)
    rounding = 1e-5 if M.flexible else 1e-11
    for shape in ((2025,), (2025, 4), (2025, 1)):
        for _ in range(5):
            x = rng.standard_normal(shape)
            there = cupy.asarray(x)
            for one, other in ((M, here), (M.H, here.H)):
                found = one @ there
                assert found.dtype == x.dtype
                close(found, other @ x, rounding)
    cycles = M._cycles if wind or name == "air" else M._cycles[:1]
    assert all(set(cycle.graphs) == {(2025,), (2025, 4), (2025, 1)} for cycle in cycles)
    first, second = M @ there, M @ (2 * there)  # each has memory of its own
    close(second, 2 * to_numpy(first), rounding)


@needs_cupy
def test_a_refreshed_cycle_is_captured_anew():
    A, B = diffusion(45), (diffusion(45) + sp.diags(np.linspace(0, 5, 2025))).tocsr()
    operators = [
        [mfdeq.linear.operands.operator_of(moved(matrix, xp)) for matrix in (A, B)]
        for xp in (np, cupy)
    ]
    here, there = (mfdeq.AMG().setup(first) for first, _ in operators)
    x = np.random.default_rng(0).standard_normal(2025)
    for _ in range(5):
        before = there @ cupy.asarray(x)
    assert here.refresh(operators[0][1])
    assert there.refresh(operators[1][1])
    for _ in range(5):
        after = there @ cupy.asarray(x)
        close(after, here @ x, 1e-5)
    assert np.linalg.norm(to_numpy(after - before)) > 0.1 * np.linalg.norm(to_numpy(before))


@needs_cupy
def test_few_shapes_are_kept():
    M = mfdeq.AMG().setup(mfdeq.linear.operands.operator_of(moved(diffusion(30), cupy)))
    for k in range(1, 8):
        for _ in range(4):
            _ = M @ cupy.ones((900, k))
    assert list(M._cycles[0].graphs) == [(900, 4), (900, 5), (900, 6), (900, 7)]


# Factorizations on the device.


@needs_cupy
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("wind", [0.0, 0.8])
@pytest.mark.parametrize("uneven", [False, True])
def test_cudss(wind, dtype, uneven):
    """Vectors and blocks by one factorization, those of the transpose by another."""
    pytest.importorskip("nvmath", reason="nvmath-python is not installed")
    matrix = diffusion(20, wind)
    if uneven:
        rows = sp.diags(np.geomspace(1, 1e5, 400))
        matrix = (rows @ matrix @ rows).tocsr() if wind == 0.0 else (rows @ matrix).tocsr()
    A = operator(matrix, dtype, cupy)
    factor = mfdeq.Direct(package="cudss").setup(A)
    assert factor.name == "Direct (cuDSS)"
    rng = np.random.default_rng(0)
    dense = matrix.astype(dtype).toarray().astype(float)
    for shape in ((400,), (400, 1), (400, 5), (400, 0)):
        b = rng.standard_normal(shape).astype(dtype)
        for solve, D in ((factor.solve, dense), (factor.solve_adjoint, dense.T)):
            x = solve(cupy.asarray(b))
            assert type(x) is cupy.ndarray
            assert x.dtype == dtype
            rtol = 1e-9 if dtype == "float64" else 1e-2 if uneven else 1e-4
            close(x, np.linalg.solve(D, b), rtol)
    assert factor.counts.setups == (1 if wind == 0.0 else 2)
    assert factor.nbytes > 8 * matrix.nnz / 2


@needs_cupy
def test_cudss_gives_back_what_it_took():
    cudss = pytest.importorskip("nvmath.bindings.cudss", reason="nvmath-python is not installed")
    if not hasattr(cudss, "_objects"):
        pytest.skip("only the simulation shows what cuDSS holds")
    gc.collect()
    before = len(cudss._objects)
    factor = mfdeq.Direct(package="cudss").setup(operator(diffusion(8, 1.0), xp=cupy))
    factor.solve_adjoint(cupy.ones(64))
    assert len(cudss._objects) == before + 8  # a handle, a configuration, data and a matrix, twice
    del factor
    gc.collect()
    assert len(cudss._objects) == before


@needs_cupy
def test_what_cudss_cannot_do_goes_to_another():
    pytest.importorskip("nvmath", reason="nvmath-python is not installed")
    singular = sp.diags([-1.0, 2.0, -1.0], [-1, 0, 1], shape=(30, 30)).tolil()
    singular[0, 0] = singular[-1, -1] = 1.0
    A = operator(singular.tocsr(), xp=cupy)
    with pytest.raises(mfdeq.ArgumentError, match=r"cannot factorize A.*superlu"):
        mfdeq.Direct(package="cudss").setup(A)
    with pytest.raises(mfdeq.SingularStateError):  # of SuperLU, which has come next
        mfdeq.Direct().setup(A)
    for given, why in ((operator(diffusion(5)), "on the host"), (A.toarray(), "dense")):
        with pytest.raises(mfdeq.ArgumentError, match=why):
            mfdeq.Direct(package="cudss").setup(given)


@needs_cupy
def test_auto_knows_what_there_is(monkeypatch):
    """A small plane is factorized by cuDSS, a larger one iterated on; what is not there is not."""
    pytest.importorskip("nvmath", reason="nvmath-python is not installed")
    small, large = (operator(diffusion(n), xp=cupy) for n in (75, 200))
    assert mfdeq.linear.Auto().setup(small).name == "Direct (cuDSS)"
    assert "AMG" in mfdeq.linear.Auto().setup(large).name
    monkeypatch.setattr("mfdeq.linear.direct.cudss.has_cudss", lambda: False)
    assert mfdeq.linear.Auto().setup(small).name == "Direct (multifrontal)"
    assert mfdeq.Direct().setup(small).name == "Direct (multifrontal)"
    with pytest.raises(mfdeq.ArgumentError, match="needs nvmath-python"):
        mfdeq.Direct(package="cudss").setup(small)


def test_cudss_is_not_for_the_host():
    with pytest.raises(mfdeq.ArgumentError, match="got one on the host"):
        mfdeq.Direct(package="cudss").setup(operator(diffusion(5)))


# Functions of JAX and PyTorch, whose arrays and cupy's are the same memory.

DLPACK_ROWS = 12
MIXING = np.random.default_rng(5).standard_normal((DLPACK_ROWS, DLPACK_ROWS)) / 10


def _jax_function():
    jax = pytest.importorskip("jax", reason="JAX is not installed")
    jax.config.update("jax_enable_x64", True)
    return mfdeq.from_jax, jax.numpy, jax.numpy.asarray


def _torch_function():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    return mfdeq.from_torch, torch, torch.from_numpy


@pytest.fixture
def one_memory(monkeypatch):
    """On the simulation, the arrays of the others count as those of its device."""
    if not hasattr(cupy, "_simulated"):
        return
    array = cupy.ndarray
    monkeypatch.setattr(array, "__dlpack__", lambda x, **_: x._a.__dlpack__())
    monkeypatch.setattr(array, "__dlpack_device__", lambda x: (1, 0))
    shared = cupy._simulated.wrap
    monkeypatch.setattr(cupy, "from_dlpack", lambda x: shared(np.from_dlpack(x)))
    import array_api_compat.cupy

    monkeypatch.setattr(array_api_compat.cupy, "from_dlpack", cupy.from_dlpack)


@needs_cupy
@pytest.mark.usefixtures("one_memory")
@pytest.mark.parametrize("source", [_jax_function, _torch_function])
def test_functions_of_other_libraries_on_the_device(source):
    make, numbers, moved_there = source()
    found = []
    for xp in (np, cupy):
        W = moved_there(MIXING)
        model = make(
            lambda h, theta, W=W: numbers.tanh(W @ h) + theta[0] * theta[1:] ** 2,
            moved_there(np.zeros(DLPACK_ROWS)),
            moved_there(np.zeros(DLPACK_ROWS + 1)),
            kind="map",
        )
        theta = xp.asarray(np.linspace(0.5, 1, DLPACK_ROWS + 1))
        eq = mfdeq.solve(model, theta)
        H = eq.hessian(mfdeq.LeastSquares(xp.arange(4), xp.zeros(4)))
        block = xp.asarray(np.random.default_rng(0).standard_normal((3, DLPACK_ROWS + 1)).T)
        found.append([eq.state, eq.gradient(H.loss), H @ block, eq.second_order(theta, theta)])
        if xp is cupy and hasattr(cupy, "_simulated"):
            before, iterations = cupy._simulated.reads, eq.report.linear.iterations
            H @ block[:, 0]
            taken = eq.report.linear.iterations - iterations
            assert cupy._simulated.reads - before <= 2 * taken + 20
    for here, there in zip(*found, strict=True):
        assert type(there) is cupy.ndarray
        close(there, here, 1e-9)
