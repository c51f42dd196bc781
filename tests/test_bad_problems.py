"""Problems without a solution raise a typed error instead of returning a wrong number."""

import re

import numpy as np
import pytest
from scipy.sparse import csr_array, diags_array, eye_array
from support.case_toy import THETA, Diagonal, N, Toy, V, operator, solve_toy, toy_loss
from support.closed_forms import five_point_laplacian
from support.refusing import refused

import mfdeq
from mfdeq import ArgumentError, ConvergenceError, DerivativeError, ModelError, SingularStateError
from mfdeq.linear.krylov.krylov import METHODS

LOSS = toy_loss()
EQ = solve_toy()
H = EQ.hessian(LOSS)
ONE = np.ones(1)


# Singular state operators.


class Linear(mfdeq.ResidualModel):
    """A h = theta b, with A as an array, a sparse matrix or an operator."""

    param_size = 1

    def __init__(self, A, b):
        self.A, self.b, self.state_size = A, b, b.shape[0]

    def residual(self, h, theta):
        return self.A @ h - theta * self.b

    def linearize(self, h, theta):
        return mfdeq.Linearization(
            self.A, -self.b[:, None], curvature=lambda lam: mfdeq.Curvature()
        )


def neumann(n, scale=None):
    """The Neumann Laplacian: exactly singular, or singular to rounding if it is scaled."""
    L = diags_array([2.0 + np.zeros(n), *2 * [-np.ones(n - 1)]], offsets=[0, 1, -1]).tolil()
    L[0, 0] = L[-1, -1] = 1.0
    return L.toarray() if scale is None else scale[:, None] * L.toarray() / 3 * scale


n = 12
_rng = np.random.default_rng(0)
_Q = np.linalg.qr(_rng.standard_normal((n, n)))[0]
SINGULAR = {
    "exact": neumann(n),
    "to rounding": neumann(n, 0.5 + _rng.random(n)),
    "equal rows": (np.eye(n) + np.eye(n, k=1))[[*range(n - 1), n - 2]],
    "eigenvalue 1e-16": _Q @ np.diag([1e-16, *range(1, n)]) @ _Q.T,
    "nonsymmetric": _Q @ np.diag([0.0, *range(1, n)]) @ np.linalg.inv(_Q + 0.3 * np.eye(n)),
}
FORMS = {"dense": np.asarray, "sparse": csr_array, "products": operator}
SOLVERS = {
    "auto": "auto",
    "direct": mfdeq.Direct(),
    "gmres": mfdeq.Krylov(),
    "lgmres": mfdeq.Krylov("lgmres", max_iterations=60),
    "bicgstab": mfdeq.Krylov("bicgstab", max_iterations=60),
    "amg": mfdeq.Krylov(preconditioner=mfdeq.AMG()),
    "ilu": mfdeq.Krylov(preconditioner=mfdeq.ILU()),
    "neumann": mfdeq.Neumann(max_iterations=200),
}
FITTING = [(s, f) for s in SOLVERS for f in FORMS if f == "sparse" or s not in ("amg", "ilu")]
FITTING.remove(("direct", "products"))


@pytest.mark.parametrize("consistent", [True, False])
@pytest.mark.parametrize(("solver", "form"), FITTING)
@pytest.mark.parametrize("matrix", SINGULAR)
def test_a_singular_state_operator_is_a_typed_error(matrix, solver, form, consistent):
    A = SINGULAR[matrix]
    b = np.random.default_rng(1).standard_normal(n)
    model = Linear(FORMS[form](A), A @ b if consistent else b)
    loss = mfdeq.Loss(lambda h, theta: h.sum(), d_state=lambda h, theta: A.T @ np.ones(n))
    with pytest.raises((SingularStateError, ConvergenceError)) as caught:
        mfdeq.solve(model, ONE, method="newton", solver=SOLVERS[solver]).gradient(loss)
    assert re.search("singular|cannot converge", str(caught.value))
    if isinstance(caught.value, SingularStateError):
        assert caught.value.digits < 1


@pytest.mark.parametrize("solver", ["direct", "gmres"])
@pytest.mark.parametrize("matrix", SINGULAR)
def test_an_inconsistent_singular_system_is_a_typed_error(matrix, solver):
    # Without a check the solution would be 1e16 times the null vector.
    b = np.ones(n) + np.arange(n)
    for given in (b, np.stack([SINGULAR[matrix] @ b, 0 * b, b], axis=1)):
        with pytest.raises((SingularStateError, ConvergenceError), match="singular"):
            SOLVERS[solver].setup(SINGULAR[matrix]).solve(given)


def test_a_singular_error_carries_state_report_and_digits():
    A = SINGULAR["to rounding"]
    with refused(SingularStateError, "digits left", "undetermined") as caught:
        mfdeq.solve(Linear(A, A @ np.ones(n)), ONE)
    assert caught.value.digits < 1
    assert caught.value.best.shape == (n,)
    assert not caught.value.report.converged
    eq = mfdeq.equilibrium_at(Linear(A, 0 * np.ones(n)), ONE, np.zeros(n))
    with refused(SingularStateError, "digits left", "undetermined") as caught:
        eq.factor  # noqa: B018
    assert caught.value.best is eq.state
    assert caught.value.report.digits_left == caught.value.digits


# Equations that have no solution, or none that a method finds.


class Shift(mfdeq.FixedPointModel):
    """h = h + 1."""

    state_size, param_size = 2, 1

    def map(self, h, theta):
        return h + 1

    def linearize(self, h, theta):
        return mfdeq.Linearization(np.eye(2), np.zeros((2, 1)))


class Exponential(mfdeq.FixedPointModel):
    """h = 3 exp h, which has no real solution; iterated, it overflows."""

    state_size, param_size = 1, 1

    def map(self, h, theta):
        return 3 * np.exp(h)

    def linearize(self, h, theta):
        return mfdeq.Linearization(3 * np.exp(h)[:, None], np.zeros((1, 1)))


class Bratu(mfdeq.ResidualModel):
    """Bratu's equation in one dimension, with a fold at theta = 3.51."""

    param_size = 1

    def __init__(self, points=31):
        self.state_size = points
        steps = [-2 * np.ones(points), *2 * [np.ones(points - 1)]]
        self.laplacian = diags_array(steps, offsets=[0, 1, -1]).tocsr() * (points + 1) ** 2

    def residual(self, h, theta):
        return self.laplacian @ h + theta * np.exp(h)

    def linearize(self, h, theta):
        e = np.exp(h)
        return mfdeq.Linearization(self.laplacian + diags_array(theta * e), e[:, None])


HOPELESS = {
    "shift": (Shift(), ONE),
    "exponential": (Exponential(), ONE),
    "bratu": (Bratu(), 4 * ONE),
}


@pytest.mark.parametrize("method", ["auto", "newton", "anderson", "picard"])
@pytest.mark.parametrize("name", HOPELESS)
def test_a_problem_without_a_solution_is_an_error_with_the_best_state(name, method):
    model, theta = HOPELESS[name]
    with pytest.raises((ConvergenceError, SingularStateError)) as caught:
        mfdeq.solve(model, theta, method=method)
    error = caught.value
    assert re.search("stalled|diverged|singular", str(error))
    assert re.search("Use a better start|start where|Remove the unknown", str(error))
    assert error.best.shape == (model.state_size,)
    assert np.all(np.isfinite(error.best))
    assert not error.report.converged
    assert min(error.report.residuals) > 1e-10
    assert "nan" not in str(error)


def test_auto_raises_the_error_of_its_first_method():
    with refused(ConvergenceError, "newton stalled: no decrease", "fold") as caught:
        mfdeq.solve(Bratu(), 4 * ONE)
    assert caught.value.report.method == "newton"


def test_max_iterations_limits_every_method():
    for method in ("newton", "anderson", "picard"):
        with refused(ConvergenceError, f"{method} did not converge in 1 iterations") as caught:
            mfdeq.solve(Toy(), THETA, method=method, max_iterations=1)
        assert len(caught.value.report.residuals) == 2


class Undefined(mfdeq.FixedPointModel):
    """h = 1 + theta log h, undefined at the default start."""

    state_size = param_size = 1

    def map(self, h, theta):
        with np.errstate(all="ignore"):
            return 1 + theta * np.log(h)

    def linearize(self, h, theta):
        with np.errstate(all="ignore"):
            return mfdeq.Linearization((theta / h)[:, None], np.log(h)[:, None])


def test_the_default_start_is_not_evaluated_where_a_start_is_given():
    theta = 0.5 * ONE
    assert mfdeq.solve(Undefined(), theta, 3 * ONE).report.converged
    for start in (-ONE, None):
        with refused(ModelError, r"Undefined.(map|linearize) holds NaN or infinity"):
            mfdeq.solve(Undefined(), theta, start)


@pytest.mark.parametrize("method", ["newton", "anderson", "picard"])
def test_a_far_start_does_not_loosen_the_tolerance(method):
    # At the start, of size 1e10, the rounding floor is 1e-5; it must not become the tolerance.
    eq = mfdeq.solve(Toy(), THETA, np.full(N, 1e10), method=method)
    assert eq.report.residual <= 1e-10
    np.testing.assert_allclose(eq.state, EQ.state, atol=1e-9)


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_an_rtol_below_the_rounding_floor_is_an_error(kind):
    for rtol in (1e-30, 0.5 * np.finfo(kind).eps):
        with refused(
            ConvergenceError,
            "cannot reach rtol",
            "rounding error of evaluating R",
            "Use a larger rtol",
        ):
            mfdeq.solve(Toy(), THETA.astype(kind), rtol=rtol)


def test_equilibrium_at_refuses_a_state_that_is_no_equilibrium():
    with refused(ConvergenceError, "the state is not an equilibrium", "h0 to mfdeq.solve"):
        mfdeq.equilibrium_at(Toy(), THETA, EQ.state + 1e-6)


def test_equilibrium_at_names_the_unknown_that_would_move_near_a_fold():
    """There a residual is small far from the equilibrium."""

    def residual(h, theta):
        return np.array([h[0] + h[1], h[0] + h[1] + (h[1] - 1.0) ** 2]) - theta

    model = mfdeq.from_function(residual, 2, 2, "residual", state_names=["u", "v"])
    words = "every equation is satisfied to 5.0e-13", "would change u by 5.0e-07 of its size"
    with refused(ConvergenceError, *words):
        mfdeq.equilibrium_at(model, np.array([2.0, 2.0]), np.array([1.0 - 1e-6, 1.0 + 1e-6]))


# Linear iterations that do not contract, stall or run out of iterations.


def test_neumann_refuses_a_map_that_does_not_contract():
    for factor in (-1.2, 1.0, 2.0):
        with refused(ConvergenceError, "spectral radius", r"Use mfdeq.Direct\(\) or mfdeq.Krylov"):
            mfdeq.Neumann().setup((1 - factor) * np.eye(4))
    mfdeq.Neumann().setup(0.5 * np.eye(4))


def test_neumann_raises_when_it_stalls():
    factor = mfdeq.Neumann().setup(SINGULAR["exact"] / 4)  # J has the eigenvalue one
    with refused(ConvergenceError, "Neumann: the solve stopped", "above its tolerance"):
        factor.solve(np.arange(n))
    assert 0 < factor.counts.iterations < 3000


@pytest.mark.parametrize("method", METHODS)
def test_a_krylov_method_out_of_iterations_is_an_error(method):
    A = csr_array(five_point_laplacian(20))
    factor = mfdeq.Krylov(method, max_iterations=5).setup(A)
    with refused(ConvergenceError, method, "above its tolerance", "more iterations") as caught:
        factor.solve(np.ones(400))
    assert caught.value.best.shape == (400,)
    assert factor.counts.iterations <= 5


@pytest.mark.parametrize("method", ["gmres", "lgmres", "bicgstab"])
def test_a_breakdown_is_not_blamed_on_the_user(method):
    # The NaN is the solver's own; the user's products only pass it on.
    A = np.eye(4)[::-1] * [[1], [1], [1], [0]]
    solver = mfdeq.Krylov(method, max_iterations=50)
    with pytest.raises((ConvergenceError, SingularStateError), match=f"{method}|singular"):
        mfdeq.solve(Linear(operator(A), np.ones(4)), ONE, method="newton", solver=solver)


# Conversions of large operators to dense arrays.


@pytest.mark.parametrize("name", ["state_operator", "inverse", "sensitivity", "tangent", "hessian"])
def test_a_large_operator_does_not_become_dense(name):
    eq = Diagonal().solve()
    loss = mfdeq.LeastSquares(np.arange(5000), np.zeros(5000))
    op = eq.hessian(loss) if name == "hessian" else getattr(eq, name)
    sides = np.ones((2, op.shape[0]))
    for use in (
        op.toarray,
        (2 * op).toarray,
        op.H.toarray,
        (-op).toarray,
        (op + op).toarray,
        lambda: np.asarray(op),
        lambda: np.array(op, dtype=float),
        lambda: np.asarray(op.H),
        lambda: np.dot(sides, op),
        lambda: np.linalg.norm(op),
        lambda: np.allclose(op, 0),
        lambda: eye_array(op.shape[0], format="csr") @ op,
    ):
        with refused(ArgumentError, f"{op.shape[0]} x|{op.shape[1]} x", "operator @ V"):
            use()
    assert (sides @ op).shape == (2, op.shape[1])


def test_a_small_operator_becomes_dense():
    np.testing.assert_array_equal(np.asarray(H), H.toarray())
    np.testing.assert_allclose(H.toarray() @ V, H @ V, rtol=1e-12)
    assert np.asarray(H, dtype=np.float32).dtype == np.float32


# Verification of models with contradictory derivatives or without a solution.


@pytest.mark.parametrize("field", ["d_state", "d_params"])
def test_verify_fails_on_a_wrong_adjoint(field):
    model = Toy(**{field: lambda A: operator(A, rmatvec=lambda y: -y)})
    with refused(DerivativeError, field):
        mfdeq.solve(model, THETA)
    verification = mfdeq.verify(model, THETA)
    assert not verification
    with refused(DerivativeError, "verification failed", field):
        verification.raise_if_failed()


def test_verify_is_inconclusive_without_a_solution():
    verification = mfdeq.verify(Bratu(), 4 * ONE)
    assert verification.verdict == "INCONCLUSIVE"
    assert not verification
    assert "not found" in str(verification)
