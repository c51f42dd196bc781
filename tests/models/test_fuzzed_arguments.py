"""Random arguments: arrays of every layout, dtype and kind, on the host and on another device.

Every case gives the correct result or an error that names the argument.
"""

import functools
import re

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from support.case_fuzzed import Setup, V, Y, through, truth
from support.case_toy import THETA, N, Toy, ToyResidual
from support.cases import error
from support.fuzzing import TOLERANCE, WHEN, any_of, assert_named, cases, outcome
from support.places import Dense, Place
from support.strict_library import strict_library
from support.treatments import (
    HARMFUL,
    HARMLESS,
    SomeCalls,
    backwards,
    harmless_treatment,
    read_only,
    strided,
)

import mfdeq

# Array arguments.


@functools.cache
def toy_equilibrium(kind, dtype):
    return Setup(kind, dtype).equilibrium()


LOSS = Setup().the_loss()
ARGUMENTS = {
    "params": (THETA, lambda s, x: mfdeq.solve(s.model(), x).state, lambda t, x: t.state),
    "params of a functional": (
        THETA,
        lambda s, x: mfdeq.ReducedFunctional(s.model(), LOSS).gradient(x),
        lambda t, x: t.gradient,
    ),
    "h0": (
        np.full(N, 0.25),
        lambda s, x: mfdeq.solve(s.model(), s.params(), x).state,
        lambda t, x: t.state,
    ),
    "state": (
        truth("float64", "written").state,
        lambda s, x: mfdeq.equilibrium_at(s.model(), s.params(), x).gradient(LOSS),
        lambda t, x: t.gradient,
    ),
    "w": (Y[:, 0], lambda s, x: s.eq.curvature(x).toarray(), lambda t, x: t.curvature(x)),
    "w of a component": (
        Y[:, 0],
        lambda s, x: s.eq.component_hessian(x) @ V,
        lambda t, x: t.component_hessian(x) @ V,
    ),
    "u": (
        V[:, 0],
        lambda s, x: s.eq.second_order(x, V[:, 1]),
        lambda t, x: t.second_order(x, V[:, 1]),
    ),
    "v": (
        V[:, 1],
        lambda s, x: s.eq.second_order_slice(x).H @ Y,
        lambda t, x: t.second_order_slice(x).T @ Y,
    ),
    "v0": (
        V[:, 1],
        lambda s, x: mfdeq.eigsh(s.eq.hessian(LOSS), 2, rtol=1e-3, v0=x).values,
        lambda t, x: np.linalg.eigvalsh(t.H),
    ),
    "the right-hand side": (Y, lambda s, x: s.eq.factor.solve(x), lambda t, x: t.A_inverse @ x),
    "operand, vector": (
        V[:, 0],
        lambda s, x: s.eq.hessian(LOSS) @ x,
        lambda t, x: t.H @ x,
    ),
    "operand of hessp": (
        V[:, 0],
        lambda s, x: mfdeq.ReducedFunctional(s.model(), LOSS).hessp(s.params(), x),
        lambda t, x: t.H @ x,
    ),
    "operand": (V, lambda s, x: s.eq.hessian(LOSS) @ x, lambda t, x: t.H @ x),
    "operand, with error": (
        V,
        lambda s, x: s.eq.hessian(LOSS).with_error(x)[0],
        lambda t, x: t.H @ x,
    ),
    "operand of Z": (V, lambda s, x: s.eq.sensitivity @ x, lambda t, x: t.Z @ x),
    "operand of Z'": (Y, lambda s, x: s.eq.sensitivity.H @ x, lambda t, x: t.Z.T @ x),
    "operand of A": (Y, lambda s, x: s.eq.state_operator @ x, lambda t, x: t.A @ x),
    "operand of B": (V, lambda s, x: s.eq.param_operator @ x, lambda t, x: t.B @ x),
    "operand of T": (V, lambda s, x: s.eq.tangent @ x, lambda t, x: t.T @ x),
    "operand of a slice": (
        V,
        lambda s, x: s.eq.second_order_slice(V[:, 0]) @ x,
        lambda t, x: t.second_order_slice(V[:, 0]) @ x,
    ),
}
BLOCKS = {
    "no columns": lambda x: x[:, :0],
    "one column": lambda x: x[:, 1:2],
    "columns of another block": lambda x: x[:, ::-2],
    "many columns": lambda x: np.tile(x, 20),
    "Fortran": np.asfortranarray,
    "float": lambda x: x.astype(np.float64),
}
# Treatments that return double precision, also for a model in float32.
DOUBLE = ("long", "double", "list", "tuple")
NAMES = {
    "operand": "operand|right-hand side",
    "the right-hand side": "right-hand side",
    "state": r"\bstate\b|params has dtype float32",
    "params": r"\bparams\b|Toy",  # or a result of the model for them
}
PASSED = [
    (argument, name, harm)
    for argument, (x, *_) in ARGUMENTS.items()
    for harm, names in (
        (False, [name for name in HARMLESS["vector"] if name != "overwritten"]),
        (False, BLOCKS if x.ndim == 2 else {}),
        (True, [name for name in HARMFUL if not name.startswith("raises")]),
    )
    for name in names
]


@cases(100)
@given(any_of([Toy, ToyResidual]), any_of(TOLERANCE), any_of(PASSED))
def test_arguments_give_the_correct_result_or_a_named_error(kind, dtype, passed):
    argument, name, harm = passed
    x, compute, expected = ARGUMENTS[argument]
    x = x.astype(dtype)
    setup = Setup(kind, dtype)
    setup.eq = toy_equilibrium(kind, dtype)
    if name in BLOCKS:
        given = BLOCKS[name](x)
    else:
        given = HARMFUL[name](x, ()) if harm else harmless_treatment("vector", name)(x, ())
    with np.errstate(invalid="ignore"):  # numpy warns of products with infinity
        found = outcome(lambda: compute(setup, given))
    if isinstance(found, Exception):
        assert harm or name in DOUBLE, repr(found)
        word = argument.partition(",")[0].partition(" of ")[0]
        assert_named(found, NAMES.get(word, rf"\b{word}\b"))
    elif np.all(np.isfinite(found)):
        assert error(found, expected(setup.truth, np.asarray(given, float))) <= TOLERANCE[dtype]
    else:  # a product with infinity or NaN
        assert not np.all(np.isfinite(given))


# Indices of observations.

INDICES = {
    **{dtype: (lambda i, t=dtype: i.astype(t)) for dtype in ("uint8", ">i4", "int16", "uint64")},
    "strided": lambda i: strided(i, ()),
    "backwards": lambda i: backwards(i, ()),
    "read-only": lambda i: read_only(i, ()),
    "unmasked": np.ma.masked_array,
    "mask": lambda i: np.isin(np.arange(N), i),
}
NO_INDICES = {
    **{
        name: (lambda i, f=f: f(i, ()))
        for name, f in HARMFUL.items()
        if not re.search("raises|nan|infinity", name)
    },
    "outside": lambda i: i + N - 1,
    "negative": lambda i: i - N,
    "huge": lambda i: i.astype("uint64") + 2**63,
    "long mask": lambda i: np.arange(N + 1) > 1,
    "masked mask": lambda i: np.ma.masked_array(np.arange(N) > 0, np.arange(N) == 1),
}


@cases(100)
@given(
    st.lists(st.integers(0, N - 1), min_size=2, max_size=2, unique=True).map(sorted),
    any_of([*INDICES, *NO_INDICES]),
)
def test_observation_indices_give_the_correct_result_or_a_named_error(drawn, name):
    eq, right = toy_equilibrium(Toy, "float64"), truth("float64", "written")
    observe = (INDICES | NO_INDICES)[name](np.array(drawn))
    found = outcome(lambda: eq.gradient(mfdeq.LeastSquares(observe, np.zeros(2))))
    if isinstance(found, Exception):
        assert name in NO_INDICES, repr(found)
        assert_named(found, "observe of LeastSquares")
    else:
        misfit = np.zeros(N)
        misfit[drawn] = right.state[drawn]
        assert error(found, right.Z.T @ misfit) <= TOLERANCE["float64"]


# Models on another device.

THERE, OTHER = Place("device1"), Place("CPU_DEVICE")
MOVED = {
    "to the host": THERE.back,
    "to another device": lambda x: OTHER(THERE.back(x)),
    "nan": lambda x: x * THERE(np.nan),
    "short": lambda x: x[:-1, ...] if x.ndim else THERE([1.0, 2.0]),
    "none": lambda x: None,
}
ON_DEVICE = {
    "map()": r"Dense\.map",
    "initial_state()": r"Dense\.initial_state",
    "linearize().d_state": r"d_state of Dense\.linearize",
    "linearize().d_params": r"d_params of Dense\.linearize",
    "linearize().second()": r"second of Dense\.linearize",
    "linearize().curvature().params_params": r"params_params of curvature of Dense",
    "linearize().curvature().state_params": r"state_params of curvature of Dense",
    "linearize().curvature().state_state": r"state_state of curvature of Dense",
    "linearize().curvature()()[0]": r"a_theta of curvature of Dense",
    "linearize().curvature()()[1]": r"a_h of curvature of Dense",
    "loss.value()": "value of the loss",
    "loss.d_state()": "d_state of the loss",
    "observe": "observe of LeastSquares",
    "data": "(data|observe) of LeastSquares",
    "weights": "weights of LeastSquares",
    "precision": "precision of QuadraticPrior",
    "mean": "mean of QuadraticPrior",
    "params": "params|Dense",
    "w": r"\bw\b",
    "operand": "operand|right-hand side",
}


DEFAULTS = [
    (path, "none") for path in ON_DEVICE if path.endswith(("_params", "_state", "initial_state()"))
]


def on_device(treat, products):
    """Compute all results on the device, with `treat` applied to arguments and callbacks."""

    def there(path, x):
        return through(treat, path, THERE(x))

    model = Dense(THERE, products)
    model.initial_state = lambda theta: THERE(np.full(model.state_size, 0.1))
    for name in ("map", "linearize", "initial_state"):
        setattr(model, name, through(treat, name, getattr(model, name)))
    size, rank = model.state_size, 2
    loss = (
        mfdeq.LeastSquares(
            there("observe", np.eye(size)[:rank] + 0.1),
            there("data", np.ones(rank)),
            there("weights", np.full(rank, 2.0)),
        )
        + mfdeq.QuadraticPrior(
            there("precision", np.eye(model.param_size)), there("mean", np.ones(model.param_size))
        )
        + mfdeq.Loss(
            through(treat, "loss.value", lambda h, theta: THERE.xp.sum(h)),
            d_state=through(treat, "loss.d_state", lambda h, theta: 0 * h + 1),
        )
    )
    theta = there("params", [0.1, 0.2, -0.3])
    eq = mfdeq.solve(model, theta, solver=mfdeq.Neumann())
    H = eq.hessian(loss)
    H._matvec(there("operand", np.eye(3)[:, :2]))  # called by scipy's products
    eq.second_order(theta, theta)
    eq.component_hessian(there("w", np.ones(size)))._apply(theta)
    return loss.value(eq.state, theta), eq.gradient(loss)


@cases(25)
@given(any_of(ON_DEVICE), any_of(MOVED), WHEN, st.booleans())
def test_arrays_of_another_device_give_the_correct_result_or_a_named_error(
    path, name, when, products
):
    moved = SomeCalls(lambda x, args: MOVED[name](x), when)
    with strict_library():
        found = outcome(
            lambda: on_device(lambda p, x, args: moved(x, args) if p == path else x, products)
        )
    if isinstance(found, Exception):
        assert moved.done, repr(found)
        assert_named(found, ON_DEVICE[path])
    else:
        right = not moved.done or (path, name) in DEFAULTS
        assert right or (when in ("once", "alternately") and path == "map()" and name == "nan")
