"""Models and losses written for numpy agree on ranks and on one machine."""

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.sparse.linalg import LinearOperator, aslinearoperator

import mfdeq

PETSc = pytest.importorskip("petsc4py.PETSc")
import mfdeq.petsc as mp  # noqa: E402
from mfdeq.petsc.arrays import DistributedArray  # noqa: E402

NX, NY = 6, 7
N, P = NX * NY, NX * NY - 9
SIZE = PETSc.COMM_WORLD.getSize()
rng = np.random.default_rng(5)
LINE = [sp.diags([-1.0, 2.0, -1.0], [-1, 0, 1], shape=(n, n)) for n in (NX, NY)]
L = (sp.kron(sp.eye(NY), LINE[0]) + sp.kron(LINE[1], sp.eye(NX)) + sp.eye(N)).tocsr()
W = sp.random(N, P, 0.2, "csr", random_state=3)
THETA, V = rng.standard_normal(P), rng.standard_normal((P, 3))
DATA = rng.standard_normal(N)


class Cubic(mfdeq.ResidualModel):
    """L h + h³ − W exp(θ)."""

    state_size, param_size = N, P
    form = staticmethod(sp.csr_matrix)

    def initial_state(self, theta):
        return 0.1 * np.arange(N) / N

    def residual_scale(self, h, theta):
        return 1.0 + np.linalg.norm(theta)

    def residual(self, h, theta):
        return L @ h + h**3 - W @ np.exp(theta)

    def linearize(self, h, theta):
        e = np.exp(theta)
        return mfdeq.Linearization(
            self.form(L + sp.diags(3 * h**2)),
            self.form(-W @ sp.diags(e)),
            curvature=lambda lam: mfdeq.Curvature(
                params_params=self.form(sp.diags(-e * (W.T @ lam))),
                state_state=self.form(sp.diags(6 * h * lam)),
            ),
            second=lambda a, b: 6 * h * a[1] * b[1] - W @ (e * a[0] * b[0]),
        )


class Tanh(mfdeq.FixedPointModel):
    """tanh(J h / 9 + W θ), its curvature by products."""

    state_size, param_size = N, P
    J = (L / 20).tocsr()

    def map(self, h, theta):
        return np.tanh(self.J @ h + W @ theta)

    def linearize(self, h, theta):
        t = np.tanh(self.J @ h + W @ theta)
        d, d2 = 1 - t**2, -2 * t * (1 - t**2)

        def first(x):
            return self.J @ x[1] + W @ x[0]

        def curvature(lam):
            def apply(dtheta, dh):
                z = lam * d2 * first((dtheta, dh))
                return W.T @ z, self.J.T @ z

            return apply

        return mfdeq.Linearization(
            sp.diags(d) @ self.J,
            sp.diags(d) @ W,
            curvature=curvature,
            second=lambda a, b: d2 * first(a) * first(b),
        )


class Dense(Cubic):
    form = staticmethod(lambda matrix: matrix.toarray())


def layout(kind):
    """(comm, state, params), on a new communicator: each size has one layout on a communicator."""
    comm = PETSc.Comm(PETSc.COMM_WORLD.tompi4py().Dup())
    if kind == "split":
        return comm, None, None
    if kind == "dmda":
        return comm, PETSc.DMDA().create([NX, NY], stencil_width=1, comm=comm), None
    if kind == "vec":
        own = N if comm.getRank() == SIZE - 1 else 0
        return comm, PETSc.Vec().createMPI((own, N), comm=comm), None
    draw = np.random.default_rng(11)
    return comm, draw.integers(0, SIZE, N), draw.integers(0, SIZE, P)


def plain_loss():
    def state_state(h, theta):
        return mfdeq.Curvature(state_state=sp.diags(3 * h**2).tocsr())

    return mfdeq.Loss(
        lambda h, theta: np.sum(h**4) / 4, lambda h, theta: h**3, curvature=state_state
    )


def by_products():
    def apply(h, theta):
        return lambda dtheta, dh: (2 * dtheta, dh * np.cos(np.arange(N)))

    weights = np.cos(np.arange(N))
    return mfdeq.Loss(
        lambda h, theta: theta @ theta + 0.5 * h @ (weights * h),
        lambda h, theta: weights * h,
        lambda h, theta: 2 * theta,
        apply,
    )


R = (sp.diags(2.0 + np.arange(P)) + W.T @ W).tocsr()
LOSSES = {
    "indices": lambda: mfdeq.LeastSquares(np.arange(0, N, 3), DATA[::3], 2.0),
    "sparse": lambda: mfdeq.LeastSquares(L[4:15], DATA[:11], np.arange(1.0, 12)),
    "operator": lambda: mfdeq.LeastSquares(aslinearoperator(L[4:15]), DATA[:11]),
    "dense": lambda: mfdeq.LeastSquares(L[4:15].toarray(), DATA[:11]),
    "number": lambda: plain_loss() + mfdeq.QuadraticPrior(0.5, 0.1),
    "prior": lambda: plain_loss() + mfdeq.QuadraticPrior(R, THETA / 2),
    "precision": lambda: plain_loss() - 0.5 * mfdeq.QuadraticPrior(mfdeq.Precision(R)),
    "products": by_products,
}


def close(found, expected):
    assert np.linalg.norm(found - expected) <= 1e-9 * np.linalg.norm(expected)


def solved(kind, model):
    comm, state, params = layout(kind)
    wrapped = mp.distributed(model, comm, state, params)
    solver = mp.KSP("bridge_", rtol=1e-13)
    eq = mp.solve(wrapped, wrapped.params(THETA), method="newton", solver=solver)
    return wrapped, eq, mfdeq.solve(model, THETA)


@pytest.mark.parametrize("model", [Cubic, Tanh, Dense])
@pytest.mark.parametrize("kind", ["split", "dmda", "vec", "partition"])
def test_derivatives_agree_in_every_layout(kind, model):
    """State, gradient, products with H and Z, component Hessian and second order agree."""
    loss = LOSSES["indices"]() + LOSSES["prior"]()
    wrapped, eq, of = solved(kind, model())
    close(wrapped.gathered_state(eq.state), of.state)
    wrapped_loss = wrapped.loss(loss)
    assert eq.of.report.limited_by == of.report.limited_by
    close(wrapped.gathered_params(eq.gradient(wrapped_loss)), of.gradient(loss))
    for H, expected in (
        (eq.of.hessian(wrapped_loss), of.hessian(loss)),
        (eq.of.hessian(wrapped_loss).gauss_newton, of.hessian(loss).gauss_newton),
    ):
        close(
            wrapped.gathered_params(H @ DistributedArray.from_petsc(wrapped.params(V))),
            expected @ V,
        )
        close(
            wrapped.gathered_params(H @ DistributedArray.from_petsc(wrapped.params(V[:, 0]))),
            expected @ V[:, 0],
        )
    Z, block = eq.of.sensitivity, DistributedArray.from_petsc(wrapped.params(V))
    close(wrapped.gathered_state(Z @ block), of.sensitivity @ V)
    U = rng.standard_normal((N, 2))
    close(
        wrapped.gathered_params(Z.H @ DistributedArray.from_petsc(wrapped.state(U))),
        of.sensitivity.H @ U,
    )
    u, v = V[:, 0], V[:, 1]
    twice = eq.second_order(wrapped.params(u), wrapped.params(v))
    close(wrapped.gathered_state(twice), of.second_order(u, v))
    numbers = eq.state.duplicate()
    numbers.array = np.arange(*numbers.getOwnershipRange())
    row = int(wrapped.gathered_state(numbers)[3])  # PETSc's number of the state's entry 3
    component = eq.of.component_hessian(row) @ block
    close(wrapped.gathered_params(component), of.component_hessian(3) @ V)


@pytest.mark.parametrize("name", LOSSES)
def test_losses_of_every_kind_agree_in_another_numbering(name):
    """Value, gradient and Hessian of losses of each kind, in another numbering."""
    loss = LOSSES[name]()
    wrapped, eq, of = solved("partition", Cubic())
    wrapped_loss = wrapped.loss(loss)
    theta = DistributedArray.from_petsc(wrapped.params(THETA))
    assert np.isclose(
        wrapped_loss.value(eq.of.state, theta), loss.value(of.state, THETA), rtol=1e-9
    )
    close(wrapped.gathered_params(eq.gradient(wrapped_loss)), of.gradient(loss))
    H = 2 * wrapped_loss + wrapped.loss(LOSSES["indices"]())
    expected = of.hessian(2 * loss + LOSSES["indices"]()) @ V
    close(
        wrapped.gathered_params(eq.of.hessian(H) @ DistributedArray.from_petsc(wrapped.params(V))),
        expected,
    )


@pytest.mark.parametrize("name", ["sparse", "operator", "products"])
def test_lagrangian_mat_gives_the_hessian_product(name):
    wrapped, eq, ref = solved("partition", Cubic())
    loss = LOSSES[name]()
    K, T = eq.hessian(wrapped.loss(loss)).lagrangian, eq.tangent
    v = np.cos(np.arange(P))
    u, w, back = T.createVecs()[1], T.createVecs()[1], wrapped.params(v)
    T.mult(wrapped.params(v), u)
    K.mult(u, w)
    T.multTranspose(w, back)  # H v = T' K T v
    close(wrapped.gathered_params(back), ref.hessian(loss) @ v)


def test_arrays_come_back_as_they_went():
    """An array comes back as it went, vectors and blocks; each number is where it was to be."""
    comm, state, params = layout("partition")
    wrapped = mp.distributed(Cubic(), comm, state, params)
    vec = wrapped.state(DATA)
    assert np.array_equal(wrapped.gathered_state(vec), DATA)
    assert np.array_equal(wrapped.gathered_params(wrapped.params(V)), V)
    assert np.array_equal(vec.getArray(), DATA[state == comm.getRank()])


class Operators(Cubic):
    def linearize(self, h, theta):
        A = L + sp.diags(3 * h**2)
        return mfdeq.Linearization(
            LinearOperator((N, N), matvec=A.dot, rmatvec=A.dot), -W @ sp.diags(np.exp(theta))
        )


class Unfinished(Cubic):
    def linearize(self, h, theta):
        return mfdeq.Linearization(L * np.nan, W)


class Short(Cubic):
    def residual(self, h, theta):
        return h[1:]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Operators, "d_state of Operators.linearize: .* no entries.*shell Mat"),
        (Unfinished, "d_state of Unfinished.linearize holds NaN"),
        (Short, r"Short.residual: expected .* got shape \(41,\)"),
    ],
)
def test_errors_name_the_function_of_the_model(model, message):
    """The message names the model's function."""
    wrapped = mp.distributed(model(), layout("split")[0])
    with pytest.raises(mfdeq.ModelError, match=message):
        mp.solve(wrapped, wrapped.params(THETA))


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (np.zeros(N - 1, int), "the rank of each unknown"),
        (np.full(N, SIZE), "expected ranks 0 to"),
        (np.zeros(N), "dtype float64"),
        (N + 1, "local sizes that add up to"),
        ("split", "a local size, a DMDA"),
    ],
)
def test_layouts_of_wrong_sizes_or_ranks_are_refused(state, message):
    """Those of another number of unknowns, or ranks that are not there."""
    with pytest.raises(mfdeq.ArgumentError, match=message):
        mp.distributed(Cubic(), layout("split")[0], state=state)


def test_arguments_of_wrong_kinds_are_refused():
    """What is no model, no loss, no vector of the layout."""
    comm = layout("split")[0]
    with pytest.raises(mfdeq.ModelError, match="FixedPointModel"):
        mp.distributed(W, comm)
    wrapped = mp.distributed(Cubic(), comm)
    with pytest.raises(mfdeq.ArgumentError, match="expected a loss of mfdeq"):
        wrapped.loss(abs)
    with pytest.raises(mfdeq.ArgumentError, match="in this layout"):
        wrapped.gathered_state(wrapped.params(THETA))
    with pytest.raises(mfdeq.ArgumentError, match=rf"\({N},\)"):
        wrapped.state(THETA)


def test_constraints_are_distributed():
    model = mfdeq.constrain(
        mfdeq.from_function(
            lambda h, p: (p[0] * h[0] - p[1] * h[1]) * np.array([1.0, -1.0]),
            *(2, 2, "residual"),
            sparsity=(np.ones((2, 2)), np.ones((2, 2))),
        ),
        mfdeq.LinearConstraint(np.ones(2), 1.0),
    )
    distributed = mp.distributed(model)
    eq = mp.solve(distributed, distributed.params(np.array([1.0, 2.0])))
    np.testing.assert_allclose(distributed.gathered_state(eq.state), [2.0 / 3.0, 1.0 / 3.0])


def real_terms(h, theta):
    h, theta = (np.asarray(x, dtype=float) for x in (h, theta))
    return np.concatenate([0.5 * (h - 0.1) ** 2 * np.exp(0.1 * h), 0.01 * theta**4])


def test_a_loss_from_a_plain_function_keeps_its_accuracy_when_it_is_distributed():
    loss = mfdeq.loss_from_function(real_terms, N, P)
    here = mfdeq.solve(Cubic(), THETA)
    model = mp.distributed(Cubic())
    theta = model.params(THETA)
    eq = mp.solve(model, theta)
    distributed = model.loss(loss)
    expected = here.gradient(loss)
    found = model.param_layout.gather(eq.gradient(distributed))
    np.testing.assert_allclose(found, expected, rtol=1e-7, atol=1e-10)
    accuracy = distributed.accuracy(eq.of.state, eq.of.params)
    assert 0.0 < accuracy[0] < 1e-6
    assert distributed.for_comparison() is not distributed
    with pytest.raises(mfdeq.ArgumentError, match=r"give\s+model\.loss\(loss\)"):
        eq.gradient(loss)
