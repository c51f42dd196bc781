"""What is written against arrays runs on any library and device, and copies nothing between them.

array_api_strict refuses all that the standard does not promise; on its second device also every
silent copy to the host and every mix of devices.
"""

import ast
import itertools
from pathlib import Path

import array_api_strict as strict
import numpy as np
import pytest
from array_api_compat import numpy as compat

import mfdeq
from mfdeq.arrays import Backend, check_block
from mfdeq.forward.fixed_point import anderson_step
from mfdeq.linear.amg import Level, largest_eigenvalue, v_cycle
from mfdeq.linear.neumann import spectral_radius
from mfdeq.operators import Matrix, Operator, columnwise, scale_rows

N, P = 5, 3
RNG = np.random.default_rng(0)


class Place:
    """A device of array_api_strict, or the host."""

    def __init__(self, name):
        self.xp = compat if name == "numpy" else strict
        self.device = "cpu" if name == "numpy" else strict.Device(name)

    def __call__(self, x):
        """A host array there."""
        return self.xp.asarray(np.asarray(x), device=self.device)

    def back(self, x):
        """An array from there, on the host; it must have been there."""
        if self.xp is compat:
            return x
        assert x.device == self.device
        # Entry by entry: nothing else leaves that device under every numpy.
        return np.reshape([float(x[i]) for i in np.ndindex(*x.shape)], x.shape)


HOST = Place("numpy")


@pytest.fixture(params=["CPU_DEVICE", "device1"])
def place(request):
    return Place(request.param)


def agrees(place, compute):
    """compute(place), a tuple of arrays, is on the device what it is with numpy."""
    expected, found = compute(HOST), compute(place)
    assert len(expected) == len(found) > 0
    for here, there in zip(expected, found, strict=True):
        assert np.linalg.norm(here) > 0
        np.testing.assert_allclose(place.back(there), here, rtol=1e-12, atol=1e-13)


# The multigrid cycle, on dense matrices.

SIZES = (12, 6, 3)
MATRICES = [np.eye(n) * 4 + RNG.standard_normal((n, n)) for n in SIZES]
DOWN = [RNG.random((m, n)) for n, m in itertools.pairwise(SIZES)]
UP = [RNG.random((n, m)) / 3 for n, m in itertools.pairwise(SIZES)]
BLOCK = RNG.standard_normal((SIZES[0], 4))


def hierarchy(place):
    levels = [
        Level(place(A), place(P), place(R), place(1 / np.diag(A)), 2.0, degree)
        for A, P, R, degree in zip(MATRICES, UP, DOWN, (2, 3), strict=False)
    ]
    return levels, place(np.linalg.inv(MATRICES[-1]))


def test_the_smoother(place):
    def compute(place):
        level, b = hierarchy(place)[0][1], BLOCK[: SIZES[1]]
        return [lv.smooth(place(x)) for lv in (level, level.T) for x in (b, b[:, 0])]

    agrees(place, compute)


def test_the_cycle_and_its_transpose(place):
    def compute(place):
        levels, coarse = hierarchy(place)
        transposed = [level.T for level in levels]
        return [
            v_cycle(hierarchy_, inverse, place(x))
            for hierarchy_, inverse in ((levels, coarse), (transposed, coarse.T))
            for x in (BLOCK, BLOCK[:, 0], np.eye(SIZES[0]))
        ]

    agrees(place, compute)
    found = compute(place)
    np.testing.assert_allclose(place.back(found[5]), place.back(found[2]).T, atol=1e-13)


def test_bounds_of_spectra(place):
    def compute(place):
        A = MATRICES[0]
        backend = Backend.of(place(A))
        largest = largest_eigenvalue(backend, place(A), place(1 / np.diag(A)))
        return np.array([largest]), np.array([radius(place, 0.5 * np.eye(3) + DOWN[1][:, :3] / 9)])

    expected, found = compute(HOST), compute(place)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def radius(place, A):
    class Bare:
        """spectral_radius needs only this of an operator."""

        backend, shape = Backend.of(place(A)), A.shape

        def _apply(self, x):
            return place(A) @ x

    return spectral_radius(Bare())


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
            check_block(X, backend, SIZES[0], "x"),
            backend.column_norms(X),
            backend.random(4, seed=3),
            backend.eye(3, 2),
            backend.checked(X, X.shape, "x"),
        ]

    agrees(place, compute)


def test_nothing_is_moved(place):
    backend = Backend.of(place(np.ones(2)))
    with pytest.raises(mfdeq.ModelError, match="nothing is moved between host and device"):
        backend.asarray(np.ones(2))
    with pytest.raises(mfdeq.ModelError, match="nothing is moved between host and device"):
        Backend.of(place(np.ones(2)), np.ones(2))
    with pytest.raises(mfdeq.ModelError, match="nothing is moved between host and device"):
        mfdeq.solve(Dense(place), place(np.zeros(P)), np.zeros(N))


# The whole way, but for scipy's LinearOperator, which only knows numpy's dtypes.

W, U = 0.3 * RNG.standard_normal((N, N)), RNG.standard_normal((N, P))
V = RNG.standard_normal((P, 2))


class Dense(mfdeq.FixedPointModel):
    """h = tanh(W h + U theta) in any array library."""

    state_size, param_size = N, P

    def __init__(self, place, products=False):
        self.xp, self.W, self.U, self.products = place.xp, place(W), place(U), products

    def map(self, h, theta):
        return self.xp.tanh(self.W @ h + self.U @ theta)

    def linearize(self, h, theta):
        y = self.map(h, theta)
        first, second = 1 - y**2, -2 * y * (1 - y**2)
        W, U = self.W, self.U

        def curvature(lam):
            D = (second * lam)[:, None]
            K = mfdeq.Curvature(U.T @ (D * U), W.T @ (D * U), W.T @ (D * W))
            if not self.products:
                return K
            return lambda u, z: (
                K.params_params @ u + K.state_params.T @ z,
                K.state_params @ u + K.state_state @ z,
            )

        return mfdeq.Linearization(
            first[:, None] * W,
            first[:, None] * U,
            curvature=curvature,
            second=lambda a, b: second * (W @ a[1] + U @ a[0]) * (W @ b[1] + U @ b[0]),
        )


@pytest.fixture
def _without_scipy(monkeypatch):
    def init(self, source, shape):
        self.shape, self.dtype = tuple(shape), self.backend.dtype

    monkeypatch.setattr(Operator, "__init__", init)


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
@pytest.mark.parametrize("which", ["LM", "LA", "SA", "BE"])
def test_eigenpairs_of_a_dense_matrix(place, which):
    A = MATRICES[0] + MATRICES[0].T

    def compute(place):
        found = mfdeq.eigsh(Matrix(Backend.of(place(A)), place(A)), 3, which)
        return found.values, abs(found.vectors), found.error_bounds

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
    known = {"numpy", "cupy", "cupyx"} & set(imported(PACKAGE / module))
    assert known == ({"numpy", "cupy", "cupyx"} if str(module) == "arrays.py" else set())
