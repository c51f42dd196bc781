"""Starts, parameters and data in the forms and precisions that users have them."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from support.cases import close

import mfdeq

N, P = 4, 3
RNG = np.random.default_rng(0)
U = RNG.standard_normal((N, P))
DATA, WEIGHTS, MEAN = RNG.standard_normal(N), RNG.uniform(1, 2, N), RNG.standard_normal(P)
THETA = RNG.standard_normal(P)


class Cubic(mfdeq.ResidualModel):
    """h + h³ = U theta."""

    state_size, param_size = N, P

    def residual(self, h, theta):
        return h + h**3 - U.astype(h.dtype) @ theta

    def linearize(self, h, theta):
        return mfdeq.Linearization(
            np.diag(1 + 3 * h**2),
            -U.astype(h.dtype),
            curvature=lambda lam: mfdeq.Curvature(state_state=np.diag(6 * lam * h)),
        )


def losses(dtype, of_matrix=lambda A: A):
    observe = of_matrix(np.eye(N)).astype(dtype)
    precision = of_matrix(np.eye(P)).astype(dtype)
    misfit = mfdeq.LeastSquares(observe, DATA.astype(dtype), WEIGHTS.astype(dtype))
    return misfit + mfdeq.QuadraticPrior(precision, MEAN.astype(dtype))


@pytest.mark.parametrize("of_matrix", [lambda A: A, sp.csr_array], ids=["dense", "sparse"])
@pytest.mark.parametrize("of_data", ["f2", "f4", "f8", "g", "i4"])
@pytest.mark.parametrize("of_params", ["f4", "f8"])
def test_parameters_decide_the_dtype(of_params, of_data, of_matrix):
    if of_data in ("f2", "g"):  # no sparse matrices of these
        of_matrix = np.asarray
    theta, start = THETA.astype(of_params), np.ones(N).astype(of_data)
    if of_data in ("f2", "g"):
        loss = mfdeq.LeastSquares(np.arange(N), DATA.astype(of_data), WEIGHTS.astype(of_data))
        truth = mfdeq.LeastSquares(
            np.arange(N), DATA.astype(of_data).astype("f8"), WEIGHTS.astype(of_data).astype("f8")
        )
    else:
        loss, truth = losses(of_data, of_matrix), _losses_of(of_data)
    eq = mfdeq.solve(Cubic(), theta, start)
    exact = mfdeq.solve(Cubic(), theta.astype("f8"))
    rtol = 1e-12 if of_params == "f8" else 1e-5
    for found, expected in (
        (eq.state, exact.state),
        (eq.gradient(loss), exact.gradient(truth)),
        (eq.hessian(loss) @ theta, exact.hessian(truth) @ theta.astype("f8")),
    ):
        assert found.dtype == theta.dtype
        close(found, expected, rtol)


def _losses_of(dtype):
    """The losses with data rounded to a dtype, and stored in double precision."""
    misfit = mfdeq.LeastSquares(
        np.eye(N), DATA.astype(dtype).astype("f8"), WEIGHTS.astype(dtype).astype("f8")
    )
    return misfit + mfdeq.QuadraticPrior(np.eye(P), MEAN.astype(dtype).astype("f8"))


def test_states_of_every_entry_point_are_converted():
    theta = THETA.astype("f4")
    state = mfdeq.solve(Cubic(), THETA).state
    assert mfdeq.equilibrium_at(Cubic(), theta, state).state.dtype == np.float32
    F = mfdeq.ReducedFunctional(Cubic(), losses("f8"), h0=np.ones(N, int))
    assert F.gradient(theta).dtype == np.float32
    close(F.gradient(theta), mfdeq.solve(Cubic(), THETA).gradient(losses("f8")), 1e-5)


@pytest.mark.parametrize("complex_one", ["params", "h0", "state", "data", "weights", "mean"])
def test_complex_arrays_are_refused(complex_one):
    def given(name, x):
        return x + 0j if name == complex_one else x

    def use():
        mfdeq.LeastSquares(np.eye(N), given("data", DATA), given("weights", WEIGHTS))
        mfdeq.QuadraticPrior(1.0, given("mean", MEAN))
        mfdeq.solve(Cubic(), given("params", THETA), given("h0", np.ones(N)))
        mfdeq.equilibrium_at(Cubic(), THETA, given("state", np.ones(N)))

    with pytest.raises(mfdeq.ModelError, match=f"{complex_one}.*: expected a real array"):
        use()


def test_a_dict_is_refused_by_a_model_of_arrays():
    with pytest.raises(mfdeq.ModelError, match="params: expected an array, got a dict"):
        mfdeq.solve(Cubic(), {"w": THETA})


def test_tensors_are_parameters_starts_and_data_of_any_model():
    torch = pytest.importorskip("torch", reason="the torch extra is not installed")
    theta = torch.tensor(THETA, requires_grad=True)
    eq = mfdeq.solve(Cubic(), theta, torch.ones(N))
    expected = mfdeq.solve(Cubic(), THETA)
    close(eq.state, expected.state, 1e-12)
    loss = mfdeq.LeastSquares(np.arange(N), torch.tensor(DATA))
    close(eq.gradient(loss), expected.gradient(mfdeq.LeastSquares(np.arange(N), DATA)), 1e-12)
    F = mfdeq.ReducedFunctional(Cubic(), loss)
    close(F.gradient(theta), eq.gradient(loss), 1e-9)
    assert isinstance(F.gradient(theta), np.ndarray)
