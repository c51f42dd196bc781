"""Arrays of the other library or device are refused, and a full device says what it was asked for.

The tests of each room on cupy's arrays are in its own test_on_cupy.py. All of them run on a CUDA
device, or on the simulation of one in tests/simulated, which is no GPU.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from support.case_models import sparse_of
from support.cases import ROWS, case_of, close, to_numpy
from support.cupy_problems import cupy, needs_cupy

import mfdeq
from mfdeq.arrays import cuda


@cache
def smooth_equilibrium(xp):
    """A dense model with a loss, and its equilibrium."""
    case = case_of(*ROWS["smooth"](), name="smooth", xp=xp)
    return case, case.solve()


def calls_with_foreign_arrays(xp):
    """Calls with arrays of the other library by name, and the class of the error of each."""
    case, eq = smooth_equilibrium(xp)
    H, other = eq.hessian(case.loss), cupy if xp is np else np
    theta, h, block = other.ones(3), other.ones(5), other.ones((3, 2))
    sparse = sparse_of(other).csr_matrix(other.eye(5))

    class ForeignMap(type(case.model)):
        def map(self, h, theta):
            return other.ones(5)

    class ForeignDerivative(type(case.model)):
        def linearize(self, h, theta):
            given = super().linearize(h, theta)
            return mfdeq.Linearization(sparse, given.d_params, given.curvature)

    def model_of(kind):
        return kind(case.xp, case.dtype, **case.model.source)

    model, argument = mfdeq.ModelError, mfdeq.ArgumentError
    return {
        "parameters": (model, lambda: mfdeq.solve(case.model, theta, xp.ones(5))),
        "start": (model, lambda: mfdeq.solve(case.model, xp.ones(3), h)),
        "state": (model, lambda: mfdeq.equilibrium_at(case.model, xp.ones(3), h)),
        "map": (model, lambda: mfdeq.solve(model_of(ForeignMap), case.params)),
        "derivative": (
            model,
            lambda: mfdeq.solve(model_of(ForeignDerivative), case.params, method="newton"),
        ),
        "vector": (argument, lambda: H @ theta),
        "block": (argument, lambda: H @ block),
        "adjoint": (argument, lambda: eq.sensitivity.H @ h),
        "direction": (argument, lambda: eq.second_order(theta, theta)),
        "weights": (argument, lambda: eq.component_hessian(h)),
        "data": (model, lambda: eq.gradient(mfdeq.LeastSquares(xp.arange(5), h))),
        "indices": (model, lambda: eq.gradient(mfdeq.LeastSquares(other.arange(5), xp.ones(5)))),
        "observations": (model, lambda: eq.gradient(mfdeq.LeastSquares(sparse, xp.ones(5)))),
        "prior": (model, lambda: eq.gradient(mfdeq.QuadraticPrior(other.eye(3)))),
        "mean": (model, lambda: eq.gradient(mfdeq.QuadraticPrior(1.0, theta))),
        "start of eigsh": (argument, lambda: mfdeq.eigsh(H, 1, v0=theta)),
        "M": (mfdeq.MfdeqError, lambda: mfdeq.eigsh(H, 1, M=other.ones(3))),
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
def test_arrays_of_the_other_library_are_refused_by_name(home):
    unexpected = []  # collected, so that a failure lists all calls that do not refuse
    for name, (error, call) in calls_with_foreign_arrays(np if home == "numpy" else cupy).items():
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
def test_arrays_of_two_devices_are_refused():
    if cupy.cuda.runtime.getDeviceCount() < 2:
        pytest.skip("one device only")
    case, eq = smooth_equilibrium(cupy)
    H = eq.hessian(case.loss)
    with cupy.cuda.Device(1):
        theta, h, v = cupy.ones(3), cupy.ones(5), cupy.ones(3)
        on_second = mfdeq.solve(case_of(*ROWS["smooth"](), name="other", xp=cupy).model, theta)
        assert on_second.state.device == cupy.cuda.Device(1)
    with pytest.raises(mfdeq.ModelError, match=r"params and h0 on one device, got .*0.* and .*1"):
        mfdeq.solve(case.model, case.params, h)
    with pytest.raises(mfdeq.ModelError, match="current device"):
        mfdeq.solve(case.model, theta)
    with pytest.raises(mfdeq.ArgumentError, match="Nothing is moved"):
        H @ v


class DenseJacobian(mfdeq.FixedPointModel):
    """A model whose dense Jacobian takes 8 MB."""

    state_size, param_size = 1000, 1

    def map(self, h, theta):
        return 0.5 * h + theta

    def linearize(self, h, theta):
        return mfdeq.Linearization(0.5 * cupy.eye(1000), cupy.ones((1000, 1)))


@needs_cupy
def test_a_full_device_is_an_error_that_says_how_much_was_asked_for():
    case, eq = smooth_equilibrium(cupy)
    pool = cupy.get_default_memory_pool()
    H, block, right = eq.hessian(case.loss), cupy.ones((3, 200_000)), cupy.ones((5, 160_000))
    calls = [
        lambda: H @ block,
        lambda: H.H @ block,
        lambda: eq.factor.solve(right),
    ]

    def error_of(call):
        pool.free_all_blocks()
        pool.set_limit(size=pool.used_bytes() + 6_000_000)
        try:
            with pytest.raises(MemoryError, match=r"ing .* bytes") as caught:
                call()
        finally:
            pool.set_limit(size=0)
        return caught.value

    for call in calls:
        error = error_of(call)
        assert isinstance(error, mfdeq.OutOfMemoryError)
        assert "Use fewer" in str(error)
        assert isinstance(error.__cause__, cupy.cuda.memory.OutOfMemoryError)
    error = error_of(lambda: mfdeq.solve(DenseJacobian(), cupy.ones(1)))  # in a user's function
    assert type(error) is cupy.cuda.memory.OutOfMemoryError
    assert "DenseJacobian.linearize" in str(error.__notes__)
    assert "Use fewer" in str(error.__notes__)
    close(H @ block[:, :1], to_numpy(H.toarray() @ block[:, :1]), 1e-10)  # H still works


@needs_cupy
def test_only_the_graphs_of_the_latest_shapes_are_kept():
    shapes = []

    def double(x):
        shapes.append(x.shape)
        return 2 * x

    replayed = cuda.capture_launches(double)
    for k in range(1, 8):
        for _ in range(4):
            found = replayed(cupy.full((900, k), 3.0))
            np.testing.assert_array_equal(to_numpy(found), np.full((900, k), 6.0))
    assert list(replayed.graphs) == [(900, k) for k in range(8 - cuda.MAX_GRAPHS, 8)]
    # What has a graph is replayed without a call of the function.
    shapes.clear()
    for k in range(1, 8):
        replayed(cupy.ones((900, k)))
    assert shapes == [(900, k) for k in range(1, 8 - cuda.MAX_GRAPHS)]
