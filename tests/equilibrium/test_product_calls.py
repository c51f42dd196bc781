"""The Python overhead of one Hessian product."""

import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp

import mfdeq

PACKAGE = str(Path(mfdeq.__file__).parent)
MAX_CALLS = 70
MAX_FRAMES_TO_THE_PACKAGE = 3
N, P = 40, 37


class Chain(mfdeq.ResidualModel):
    """L h + h³ = (theta, 1, 1, 1) with a tridiagonal L."""

    state_size, param_size = N, P
    L = sp.diags([-1.0, 2.0, -1.0], [-1, 0, 1], shape=(N, N), format="csr")

    def residual(self, h, theta):
        return self.L @ h + h**3 - np.concatenate([theta, np.ones(N - P)])

    def linearize(self, h, theta):
        return mfdeq.Linearization(
            d_state=(self.L + sp.diags(3.0 * h**2)).tocsr(),
            d_params=-sp.eye(N, P, format="csr"),
            curvature=lambda lam: mfdeq.Curvature(state_state=sp.diags(6.0 * lam * h).tocsr()),
        )


def stacks_of_calls(function):
    """Return the stack of package frames at each call of a function of the package."""
    stacks = []

    def profile(frame, event, _):
        if event == "call" and frame.f_code.co_filename.startswith(PACKAGE):
            stack = []
            while frame is not None:
                if frame.f_code.co_filename.startswith(PACKAGE):
                    stack.append(frame.f_code.co_qualname)
                frame = frame.f_back
            stacks.append(stack)

    sys.setprofile(profile)
    try:
        function()
    finally:
        sys.setprofile(None)
    return stacks


@pytest.mark.parametrize("solver", ["auto", mfdeq.Direct()], ids=["auto", "Direct"])
def test_a_later_product_makes_few_python_calls(solver):
    eq = mfdeq.solve(Chain(), np.ones(P), solver=solver)
    H = eq.hessian(mfdeq.LeastSquares(np.arange(5), np.zeros(5)))
    v = np.ones(P)
    H @ v  # its error is estimated
    expected = H @ v
    stacks = stacks_of_calls(lambda: np.testing.assert_array_equal(H @ v, expected))
    assert 0 < len(stacks) <= MAX_CALLS


@pytest.mark.parametrize("solver", [mfdeq.linear.Auto(), mfdeq.Direct()], ids=["auto", "Direct"])
def test_few_frames_lie_between_a_solve_and_superlu(solver):
    ends = sp.coo_matrix(([1.0, 1.0], ([0, N - 1], [N - 1, 0])), (N, N))
    factor = solver.setup((3.0 * sp.eye(N) + Chain.L - ends).tocsr())  # not tridiagonal
    b = np.ones(N)
    factor.solve(b)
    depths = []

    def profile(frame, event, function):
        if event == "c_call" and function.__qualname__ == "SuperLU.solve":
            depth = 0
            while frame.f_code.co_name != "solve" or "Factor.solve" not in frame.f_code.co_qualname:
                depth += frame.f_code.co_filename.startswith(PACKAGE)
                frame = frame.f_back
            depths.append(depth)

    sys.setprofile(profile)
    try:
        factor.solve(b)
    finally:
        sys.setprofile(None)
    assert depths == [depths[0]]
    assert depths[0] <= MAX_FRAMES_TO_THE_PACKAGE
