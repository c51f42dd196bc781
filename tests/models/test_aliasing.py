"""Aliasing changes no result.

Callbacks may write into their arguments, return views of them or reuse one buffer, and callers may
change their arrays afterwards.
"""

from dataclasses import fields, replace

import numpy as np
import pytest
from scipy.sparse import csr_array
from scipy.sparse.linalg import LinearOperator
from support.case_toy import (
    THETA,
    N,
    P,
    Toy,
    ToyResidual,
    V,
    W,
    by_product,
    operator,
    toy_loss,
    toy_loss_functions,
)

import mfdeq

OTHER = np.array([-0.6, 0.9])


def arrays_in(x):
    if isinstance(x, np.ndarray):
        yield x
    elif isinstance(x, (tuple, list)):
        for part in x:
            yield from arrays_in(part)


def overwriting_arguments(function):
    """Wrap a function so that it overwrites its arguments before it returns."""

    def wrapped(*args):
        out = function(*args)
        out = tuple(np.copy(x) for x in out) if isinstance(out, tuple) else out
        out = np.copy(out) if isinstance(out, np.ndarray) else out
        for array in arrays_in(args):
            array[...] = np.nan
        return wrap(out, overwriting_arguments)

    return wrapped


def reusing_buffers(function):
    """Wrap a function so that it returns the same buffer every time, with new entries."""
    kept = {}

    def into_buffer(x, key):
        if isinstance(x, tuple):
            return tuple(into_buffer(part, (key, i)) for i, part in enumerate(x))
        if not isinstance(x, np.ndarray):
            return wrap(x, reusing_buffers, into_buffer, key)
        buffer = kept.setdefault((key, x.shape), np.empty(x.shape))
        buffer[...] = x
        return buffer

    return lambda *args: into_buffer(function(*args), 0)


def wrap(x, how, into_buffer=lambda x, key: x, key=0):
    """Apply `how` to every function inside a Linearization or Curvature."""
    if isinstance(x, (mfdeq.Linearization, mfdeq.Curvature)):
        parts = {f.name: getattr(x, f.name) for f in fields(x)}
        return replace(
            x,
            **{
                name: how(part) if callable(part) and not isinstance(part, LinearOperator) else
                into_buffer(part, (key, name)) if isinstance(part, np.ndarray) else part
                for name, part in parts.items()
            },
        )  # fmt: skip
    return how(x) if callable(x) else x


def with_callbacks(how, model):
    """Apply `how` to all functions of a model and of the toy loss."""
    for name in ("map", "residual", "initial_state", "residual_scale", "linearize"):
        if hasattr(model, name):
            setattr(model, name, how(getattr(model, name)))
    functions = toy_loss_functions()
    return model, mfdeq.Loss(**{name: how(function) for name, function in functions.items()})


def results(eq, loss):
    """Return the results of an equilibrium as arrays."""
    H = eq.hessian(loss)
    u, v = V[:, 0], V[:, 1]
    found = {
        "state": eq.state,
        "params": eq.params,
        "value": loss.value(eq.state, eq.params),
        "gradient": eq.gradient(loss),
        "H": H @ V,
        "terms": np.hstack([term @ V for term in H.terms.values()]),
        "error": H.with_error(V)[1],
        "Z": eq.sensitivity @ V,
        "Z'": eq.sensitivity.H @ np.eye(N),
        "second": eq.second_order(u, v),
        "slice": eq.second_order_slice(u) @ V,
        "slice'": eq.second_order_slice(u).H @ np.eye(N),
        "component": eq.component_hessian(1) @ V,
    }
    return {name: np.copy(result) for name, result in found.items()}


def same(actual, expected, rtol=1e-12):
    for name, result in expected.items():
        np.testing.assert_allclose(actual[name], result, rtol, 1e-13, err_msg=name)


FORMS = {
    "arrays": {},
    "sparse": {"d_state": csr_array, "d_params": csr_array, "state_params": csr_array},
    "products": {"curvature": by_product()},
    "products of blocks": {"curvature": by_product(blocks=True)},
}


@pytest.mark.parametrize("how", [overwriting_arguments, reusing_buffers])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", [Toy, ToyResidual])
def test_results_do_not_depend_on_what_callbacks_write_into(kind, form, how):
    spoil = FORMS[form]
    expected = results(mfdeq.solve(kind(**spoil), THETA), toy_loss())
    model, loss = with_callbacks(how, kind(**spoil))
    eq = mfdeq.solve(model, THETA)
    same(results(eq, loss), expected)
    elsewhere = mfdeq.solve(model, OTHER)
    results(elsewhere, loss)
    same(results(eq, loss), expected)


@pytest.mark.parametrize("how", [overwriting_arguments, reusing_buffers])
@pytest.mark.parametrize("method", ["newton", "anderson", "picard"])
def test_states_of_every_method_do_not_depend_on_what_callbacks_write_into(method, how):
    expected = mfdeq.solve(Toy(), THETA).state
    model, _ = with_callbacks(how, Toy())
    np.testing.assert_allclose(mfdeq.solve(model, THETA, method=method).state, expected, 1e-9)


OPERATORS = ("d_state", "d_params", "params_params", "state_params", "state_state")


def rewrapped(how):
    """Return an operator of a matrix, with `how` applied to its products."""

    def convert(matrix):
        op = operator(matrix)
        return LinearOperator(
            matrix.shape,
            matvec=how(op.matvec),
            rmatvec=how(op.rmatvec),
            matmat=how(op.matmat),
            rmatmat=how(op.rmatmat),
            dtype=float,
        )

    return convert


@pytest.mark.parametrize("how", [overwriting_arguments, reusing_buffers])
@pytest.mark.parametrize("kind", [Toy, ToyResidual])
def test_results_do_not_depend_on_what_operators_write_into(kind, how):
    loss = toy_loss()
    expected = results(mfdeq.solve(kind(**dict.fromkeys(OPERATORS, operator)), THETA), loss)
    eq = mfdeq.solve(kind(**dict.fromkeys(OPERATORS, rewrapped(how))), THETA)
    same(results(eq, loss), expected)
    same(results(eq, loss), expected)
    solver = mfdeq.Krylov(preconditioner=rewrapped(how)(np.eye(N) + 0.1))
    preconditioned = results(mfdeq.solve(kind(), THETA, solver=solver), loss)
    same(preconditioned, expected | {"error": preconditioned["error"]}, rtol=1e-7)


def test_products_do_not_write_into_the_operand():
    eq = mfdeq.solve(Toy(curvature=overwriting_arguments(by_product())), THETA)
    for op in (eq.hessian(toy_loss()), eq.tangent, eq.curvature(np.ones(N)), eq.sensitivity):
        X = np.random.default_rng(0).standard_normal((op.shape[1], 2))
        kept = X.copy()
        first = op @ X
        np.testing.assert_array_equal(X, kept)
        first *= 0  # the result of an earlier call is not stored, either
        assert np.linalg.norm(op @ X) > 0


def test_callbacks_may_return_views_of_their_arguments():
    class Halved(mfdeq.FixedPointModel):
        """h = theta, each as a view of an argument or of one constant buffer."""

        state_size = param_size = N
        zero, one = np.zeros((N, N)), np.eye(N)

        def map(self, h, theta):
            return theta[:]

        def initial_state(self, theta):
            return theta

        def linearize(self, h, theta):
            itself = mfdeq.Curvature(apply=lambda u, z: (u[:], z), blocks=True)
            return mfdeq.Linearization(self.zero, self.one, curvature=lambda lam: itself)

    theta = np.array([1.0, 2.0, 3.0])
    loss = mfdeq.Loss(
        lambda h, theta: 0.5 * h @ h,
        d_state=lambda h, theta: h,
        curvature=lambda h, theta: lambda u, z: (0 * u, z),
    )
    eq = mfdeq.solve(Halved(), theta)
    H, X = eq.hessian(loss), np.eye(N)
    np.testing.assert_allclose(H @ X, 3 * np.eye(N))  # Z'Z, and the curvature I of both blocks
    np.testing.assert_allclose(eq.gradient(loss), theta)
    np.testing.assert_array_equal(X, np.eye(N))
    np.testing.assert_array_equal(eq.state, [1.0, 2.0, 3.0])


def test_results_do_not_depend_on_arrays_that_the_caller_changes_later():
    theta, h0 = THETA.copy(), np.full(N, 0.1)
    observe, data, weights = W.copy(), np.ones(N), np.full(N, 2.0)
    index, sparse = np.array([2, 0]), csr_array(W)
    precision, mean = np.eye(P) + 1.0, np.full(P, 0.5)

    def losses():
        return (
            toy_loss()
            + mfdeq.LeastSquares(observe, data, weights)
            + mfdeq.LeastSquares(index, data[:2], weights[:2])
            + mfdeq.LeastSquares(sparse, data)
            + mfdeq.QuadraticPrior(precision, mean)
        )

    model, kept = Toy(), theta.copy()
    expected = results(mfdeq.solve(model, theta, h0), losses())
    loss, eq = losses(), mfdeq.solve(model, theta, h0)
    functional = mfdeq.ReducedFunctional(model, loss, h0=h0)
    for array in (theta, h0, observe, data, weights, precision, mean, sparse.data):
        array[...] = np.nan
    index[...] = 1
    same(results(eq, loss), expected)  # the loss is first used now
    same(results(functional.equilibrium(kept), loss), expected, rtol=1e-9)


def test_functional_compares_parameters_by_value():
    loss, theta = toy_loss(), THETA.copy()
    functional = mfdeq.ReducedFunctional(Toy(), loss)
    first = functional.value(theta)
    theta[...] = OTHER
    assert functional.value(theta) != first
    assert functional.value([*OTHER]) == functional.value(theta)
    assert functional.solves == 2

    failing = mfdeq.ReducedFunctional(Toy(), loss, method="picard", max_iterations=1)
    for _ in range(2):
        with pytest.raises(mfdeq.ConvergenceError):
            failing.value(theta)
    assert failing.solves == 1
    theta[...] = THETA
    with pytest.raises(mfdeq.ConvergenceError):
        failing.value(theta)
    assert failing.solves == 2
