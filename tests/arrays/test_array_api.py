"""What is written against arrays runs on any library and device, and copies nothing between them.

array_api_strict refuses all that the standard does not promise; on its second device also every
silent copy to the host and every mix of devices.
"""

import ast
from pathlib import Path

import numpy as np
import pytest
from support.places import Dense, N, P, Place, agrees, without_scipy

import mfdeq
from mfdeq.arrays.backend import Backend, check_block
from mfdeq.arrays.kernels import scale_rows
from mfdeq.forward.anderson import anderson_step
from mfdeq.operators.operator import Matrix, columnwise

RNG = np.random.default_rng(0)
BLOCK = RNG.standard_normal((12, 4))


@pytest.fixture(params=["CPU_DEVICE", "device1"])
def place(request):
    return Place(request.param)


# Anderson acceleration and small pieces.


@pytest.mark.parametrize("depth", [0, 1, 4])
def test_the_anderson_step(place, depth):
    G, *past = RNG.standard_normal((2 * depth + 1, 9))

    def compute(place):
        moved = [place(x) for x in past]
        backend = Backend.of(place(G))
        return [anderson_step(backend, place(G), moved[:depth], moved[depth:], 0.7)]

    agrees(place, compute)


def test_the_anderson_step_with_dependent_differences(place):
    G, d = RNG.standard_normal((2, 6))

    def compute(place):
        dh, dG = [place(d), place(2 * d)], [place(G), place(2 * G)]
        return [anderson_step(Backend.of(place(G)), place(G), dh, dG, 1.0)]

    agrees(place, compute)


def test_pieces(place):
    def compute(place):
        X = place(BLOCK)
        backend = Backend.of(X)
        return [
            scale_rows(place(BLOCK[:, 0]), X),
            scale_rows(place(BLOCK[:, 0]), place(BLOCK[:, 1])),
            columnwise(lambda x: 2 * x[:3], X, backend, 3),
            check_block(X, backend, 12, "x"),
            backend.column_norms(X),
            backend.random(4, seed=3),
            backend.eye(3, 2),
            backend.checked(X, X.shape, "x"),
        ]

    agrees(place, compute)


def test_nothing_is_moved(place):
    backend = Backend.of(place(np.ones(2)))
    with pytest.raises(mfdeq.ModelError, match="Nothing is moved between host and device"):
        backend.asarray(np.ones(2))
    with pytest.raises(mfdeq.ModelError, match="Nothing is moved between host and device"):
        Backend.of(place(np.ones(2)), np.ones(2))
    with pytest.raises(mfdeq.ModelError, match="Nothing is moved between host and device"):
        mfdeq.solve(Dense(place), place(np.zeros(P)), np.zeros(N))


# The whole way, but for scipy's LinearOperator, which only knows numpy's dtypes.

V = RNG.standard_normal((P, 2))


@pytest.fixture
def _without_scipy():
    with without_scipy():
        yield


@pytest.mark.usefixtures("_without_scipy")
@pytest.mark.parametrize(
    ("method", "products"),
    [("newton", False), ("anderson", False), ("picard", False), ("newton", True)],
)
def test_from_the_model_to_the_hessian(place, method, products):
    def compute(place):
        theta = place([0.1, 0.2, -0.3])
        data = place(np.ones(2)), place(np.array([2.0, 0.5]))
        loss = (
            mfdeq.LeastSquares(place(np.eye(N)[:2] + 0.1), *data)
            + 0.5 * mfdeq.QuadraticPrior(place(np.eye(P) + 1), place(np.ones(P)))
            + mfdeq.Loss(
                lambda h, theta: place.xp.sum(h) * theta[0],
                d_state=lambda h, theta: 0 * h + theta[0],
                d_params=lambda h, theta: place([1.0, 0, 0]) * place.xp.sum(h),
                curvature=lambda h, theta: (
                    lambda u, z: (
                        place([1.0, 0, 0]) * place.xp.sum(z),
                        0 * z + u[0],
                    )
                ),
            )
        )
        model = Dense(place, products)
        eq = mfdeq.solve(model, theta, method=method, solver=mfdeq.Neumann())
        at = mfdeq.equilibrium_at(model, theta, eq.state, solver=mfdeq.Neumann())
        functional = mfdeq.ReducedFunctional(model, loss, solver=mfdeq.Neumann())
        H = eq.hessian(loss)
        block = place(V)
        return [
            eq.state,
            at.gradient(loss),
            functional.gradient(theta),
            H._apply(block),
            1 + H.with_error(block)[1],
            H.toarray(),
            *[term._apply(block) for term in H.terms.values()],
            eq.tangent._apply(block),
            eq.sensitivity.H._apply(place(np.eye(N))),
            eq.second_order(theta, block[:, 0]),
            eq.second_order_slice(theta)._apply(block),
            eq.second_order_slice(theta)._apply_adjoint(place(np.eye(N))),
            eq.component_hessian(1)._apply(block),
            (2 * eq.inverse - eq.state_operator)._apply(eq.state),
            mfdeq.eigsh(H, 2).values,
            mfdeq.eigsh(H, 3).vectors ** 2,
        ]

    agrees(place, compute)


@pytest.mark.usefixtures("_without_scipy")
@pytest.mark.parametrize("which", ["LM", "BE"])
@pytest.mark.parametrize("block", [1, 3])
def test_lanczos(place, block, which):
    """With restarts, and with copies of eigenvalues that are looked for by random starts."""
    Q = np.linalg.qr(RNG.standard_normal((60, 60)))[0]
    for values in (np.linspace(-1, 2, 60) ** 3, np.r_[np.full(20, -1.0), np.full(40, 2.0)]):
        dense = (Q * values) @ Q.T

        def compute(place, dense=dense, values=values):
            H = Matrix(Backend.of(place(dense)), place(dense))
            found = mfdeq.eigsh(H, k=3, which=which, block=block, basis=12, rtol=1e-10)
            off = H._apply(found.vectors) - found.vectors * found.values
            assert float(place.xp.max(place.xp.abs(off))) < 1e-8
            return [found.values]

        agrees(place, compute)


@pytest.mark.usefixtures("_without_scipy")
@pytest.mark.parametrize("which", ["LM", "LA", "SA", "BE"])
def test_eigenpairs_of_a_dense_matrix(place, which):
    A = np.random.default_rng(1).standard_normal((12, 12))
    A = A + A.T

    def compute(place):
        found = mfdeq.eigsh(Matrix(Backend.of(place(A)), place(A)), 3, which)
        return found.values, abs(found.vectors), found.error_bounds

    agrees(place, compute)


@pytest.mark.usefixtures("_without_scipy")
@pytest.mark.parametrize("precision", ["dense", "diagonal"])
def test_a_generalized_problem_and_its_posterior(place, precision):
    rng = np.random.default_rng(2)
    C, S = rng.standard_normal((60, 8)), rng.standard_normal((60, 60)) / 8
    M = S @ S.T + np.eye(60) if precision == "dense" else np.linspace(1, 9, 60)

    def compute(place):
        H = Matrix(Backend.of(place(C)), place(C @ C.T))
        R = mfdeq.Precision(place(M))
        found = mfdeq.eigsh(H, 8, M=R, rtol=1e-12)
        random = mfdeq.randomized_eigsh(H, 8, M=R)
        low = mfdeq.LowRank(found)
        return (
            found.values,
            random.values,
            mfdeq.LowRank(random)._apply(place(C)),
            low.precision._apply(place(C)),
            low.variances(),
            low.samples(3, mean=place(np.ones(60))),
            place([low.log_determinant(), low.information_gain(place(C[:, 0]))]),
        )

    agrees(place, compute)


@pytest.mark.usefixtures("_without_scipy")
def test_traces_and_densities(place):
    C = np.random.default_rng(2).standard_normal((60, 80))

    def compute(place):
        H = Matrix(Backend.of(place(C)), place(C @ C.T))
        M = place(np.linspace(1, 9, 60))
        pairs = mfdeq.eigsh(H, 2, M=M)
        small = mfdeq.eigsh(H, 3, "SA", preconditioner=place(np.linalg.inv(C @ C.T + np.eye(60))))
        density = mfdeq.spectral_density(H, M=M, pairs=pairs, probes=4, steps=10)
        found = [
            density.sum(np.log1p),
            mfdeq.trace(H, products=30),
            mfdeq.frobenius_norm(H, M=M, products=30),
            mfdeq.log_determinant(H, probes=4, steps=10),
        ]
        numbers = [x for e in found for x in (e.value, e.standard_error)]
        return place(numbers), mfdeq.Nystrom(H, 10, 0.1)._apply(place(C)), small.values

    agrees(place, compute)


# And which modules may know one library by its name.


def imported(path):
    """The top-level packages that a module imports anywhere, and the strings in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module.partition(".")[0]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value.partition(".")[0]


PACKAGE = Path(mfdeq.__file__).parent
MODULES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_only_arrays_knows_numpy_and_cupy(module):
    expected = {
        "arrays/library.py": {"numpy", "cupy", "cupyx"},
        "arrays/cupy_library.py": {"cupy", "cupyx"},
        "arrays/cuda.py": {"cupy"},
    }
    known = {"numpy", "cupy", "cupyx"} & set(imported(PACKAGE / module))
    assert known == expected.get(str(module), set())
